"""The load hosts of one trial: load workers on hosts of a Dask cluster, as if they were local.

`make` gives a trial its workers (kit.load.worker.workers.MakeWorker): worker w is one of the host
at place w modulo the number of hosts, so that a few clients are spread over all hosts. Requests
are shared by number as between processes of one machine. `collect` then merges what they recorded.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import KitError
from kit.load.hosts.merge import ARRIVED, merge_records, numbers_apart, twice, unsent
from kit.load.traffic.traffic import Traffic
from kit.load.worker.counters import Elsewhere, LoadProgress
from kit.load.worker.pacers import workers_of
from kit.load.worker.workers import Worker
from kit.runner.dask_cluster import connected
from kit.runner.dask_load_link import HostLink, Together
from kit.study.encoding import to_json
from kit.study.folder import REQUESTS, TrialFolder
from kit.study.load_hosts import LoadHost
from kit.study.spec import Endpoint, TrialSpec
from kit.study.traces.keep import FOLDER as TRACES

if TYPE_CHECKING:
    from distributed import Client

#: How long the threads of hosts may take to end once their loads have.
JOIN_S = 5.0


class LoadFrom(msgspec.Struct, frozen=True, kw_only=True):
    """From where the load of a trial comes: a scheduler, and workers with their hosts' labels."""

    on: str
    hosts: dict[str, str]


@contextlib.contextmanager
def load_from(where: LoadFrom, spec: TrialSpec, folder: TrialFolder) -> Iterator[DaskLoad]:
    """The load hosts of a trial; whatever runs on them for it has ended afterwards.

    Raises:
        ClusterError, MissingPackageError: as kit.runner.dask_cluster.connected.
    """
    with connected(where.on, 1) as client:
        load = DaskLoad(client, where.hosts, spec, folder)
        try:
            yield load
        finally:
            load.close()


class DaskLoad:
    """The hosts that make a trial's load. hosts: labels by the addresses of Dask workers."""

    def __init__(
        self, client: Client, hosts: dict[str, str], spec: TrialSpec, folder: TrialFolder
    ) -> None:
        self._spec, self._folder = spec, folder
        self._together = Together(len(hosts))
        self._together.counted = self._counted
        arrived = folder.path / ARRIVED
        arrived.mkdir()
        run = secrets.token_hex(4)
        self._links = [
            HostLink(
                client,
                address,
                label,
                key=f"kit-load-{run}-{spec.trial_id}-{place}",
                workers=range(place, spec.workload.workers, len(hosts)),
                arrived=arrived,
                together=self._together,
                on_failure=self.stop,
            )
            for place, (address, label) in enumerate(hosts.items())
        ]
        has_files = bool(spec.workload.trace or spec.workload.tokenizer)
        self._traces = _traces(folder) if has_files else {}

    def make(self, spec: TrialSpec, endpoint: Endpoint, folder: TrialFolder, number: int) -> Worker:
        """Worker `number` of the trial, on its host."""
        link = self._links[number % len(self._links)]
        begin = partial(link.begin, to_json(spec), to_json(endpoint), self._traces)
        return _HostWorker(link, number, begin)

    def _counted(self) -> Elsewhere:
        own = [link.counted() for link in self._links]
        return Elsewhere(sum(one.errors for one in own), sum(one.ended for one in own))

    @property
    def started_ns(self) -> int | None:
        """The common start, by this machine's clock; None: there was none."""
        return self._together.start_ns

    def stop(self) -> None:
        """End the load on all hosts."""
        for link in self._links:
            link.stop()

    def close(self) -> None:
        """Let go of the hosts; those that still run for the trial are told to end."""
        self.stop()
        for link in self._links:
            link.drop("it did not answer")
        until_s = time.monotonic() + JOIN_S
        for link in self._links:
            link.join(max(0.0, until_s - time.monotonic()))

    def collect(self) -> tuple[LoadHost, ...]:
        """Merge the hosts' records into the trial's; what each host did, and what is missing.

        Raises:
            StoreError: the disk is full.
        """
        for link in self._links:
            link.drop("it did not answer")
        tables = [self._merged(link) for link in self._links]
        if not any(link.failed for link in self._links):
            shutil.rmtree(self._folder.path / ARRIVED)
        numbers = np.concatenate([table["request"].to_numpy() for table in tables])
        missing = self._missing(numbers)
        again = twice(numbers)
        return tuple(
            self._about(link, table, missing, again)
            for link, table in zip(self._links, tables, strict=True)
        )

    def _merged(self, link: HostLink) -> pa.Table:
        parts = []
        for number in link.workers:
            log = self._folder.path / ARRIVED / f"load-{number}.log"
            if log.exists():
                shutil.copyfile(log, self._folder.path / log.name)
            try:
                parts.append(merge_records(self._folder.path, number, link.line, link.label))
            except KitError as error:
                link.failed = link.failed or error.given
        return pa.concat_tables([REQUESTS.empty_table(), *parts])

    def _missing(self, numbers: np.ndarray) -> dict[int, np.ndarray]:
        """By worker, the requests below the last that any sent that are on no host's record."""
        end = int(numbers.max()) + 1 if len(numbers) else 0
        if len(np.unique(numbers)) == end:
            return {}
        workload = self._spec.workload
        within = self._folder.path
        longest = self._spec.engine.max_model_tokens
        traffic = Traffic(workload, longest_tokens=longest, within=within)
        owner = traffic.places(np.arange(end))[0] % workers_of(workload)
        return {w: unsent(numbers, end, owner, w) for w in range(workers_of(workload))}

    def _about(
        self, link: HostLink, table: pa.Table, missing: dict[int, np.ndarray], again: list[int]
    ) -> LoadHost:
        own = [missing[w] for w in link.workers if w in missing]
        lacks = np.sort(np.concatenate(own)) if own else np.zeros(0, np.int64)
        failed = link.failed
        if again and not failed:
            failed = f"requests {numbers_apart(again)} are on record twice"
        # What a worker takes, it takes in the order of numbers: it has sent all up to its last.
        holes = [n for n in lacks if n < table["request"].to_numpy().max(initial=-1)]
        if holes and link.ended_itself:
            failed = f"requests {numbers_apart(map(int, holes))} are on no record"
        line, before, after = link.line, link.before, link.after
        return LoadHost(
            label=link.label,
            workers=link.workers,
            requests=table.num_rows,
            offset_before_ns=before.offset_ns if before else None,
            offset_before_error_ns=before.error_ns if before else None,
            offset_after_ns=after.offset_ns if after else None,
            offset_after_error_ns=after.error_ns if after else None,
            clock_error_ns=line.error_ns if line else None,
            began_late_s=_began_late_s(table),
            unsent=len(lacks),
            unsent_numbers=numbers_apart(map(int, lacks)),
            failed=failed,
        )


class _HostWorker:
    """One load worker of a host (kit.load.worker.workers.Worker)."""

    def __init__(self, link: HostLink, number: int, begin: partial[None]) -> None:
        self._link, self._number, self._begin = link, number, begin

    @property
    def pid(self) -> int | None:
        return None

    def start(self) -> None:
        self._begin()

    def progress(self) -> LoadProgress:
        return self._link.progress(self._number)

    def poll(self) -> int | None:
        return self._link.code(self._number)

    def error(self, *, until_ns: int | None = None) -> str | None:
        """As LoadWorker.error. A host that is lost has been since it was last heard of."""
        since_ns = self.progress().broke_ns or self._link.heard_ns
        if until_ns is not None and since_ns > until_ns:
            return None
        return self._link.error(self._number)

    def server_died(self, died_ns: int) -> None:
        self._link.server_died(died_ns)

    def stop(self) -> None:
        self._link.stop()

    def kill(self) -> None:
        self._link.drop("it did not answer in time, and is waited for no longer")

    def close(self) -> None:
        """Nothing is held here."""


def _traces(folder: TrialFolder) -> dict[str, bytes]:
    """The study's traffic files. A trial's folder lies in `trials` of its study."""
    kept = (folder.path.parent.parent / TRACES).glob("*.json*")
    return {path.name: path.read_bytes() for path in kept}


def _began_late_s(requests: pa.Table) -> float | None:
    """From when a host's first request was due until it was sent."""
    sent_ns = pc.min(requests["sent_ns"]).as_py()
    if sent_ns is None:
        return None
    return float(sent_ns - pc.min(requests["scheduled_ns"]).as_py()) / 1e9
