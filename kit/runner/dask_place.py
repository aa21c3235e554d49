"""Runs the trials of a study on the hosts of a Dask cluster (kit.runner.place.TrialPlace).

Each worker is looked over before it gets a trial: what its machine is, and whether it can run the
study's servers, which it then prepares. A worker that declares Dask's resource `trial` is given so
many trials at a time; of those that do not, one on each machine is given one at a time, and the
kit declares that, so that a second study on the same cluster waits for its turn.

A thread asks the scheduler who is there. The study's own thread starts trials, stores what came of
them, and gives those of a lost worker to another one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kit import __version__
from kit.errors import ClusterError, KitError
from kit.runner.dask_cluster import Cluster, connected
from kit.runner.dask_host import RESOURCE, conduct, declare, look_over, source_digest
from kit.runner.dask_trial import DaskTrial
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder
from kit.study.hosts import HostFacts, differences, note_host
from kit.study.spec import TrialSpec
from kit.study.traces.keep import FOLDER as TRACES

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK_S = 0.5
#: A worker that takes longer to be looked over is probably fetching its servers.
FETCHES_S = 5.0
#: A scheduler that has not answered for so long, with its connection broken, is lost.
LOST_S = 10.0
#: A trial whose workers were lost so often may be what ends them.
MOST_LOSSES = 3


@contextlib.contextmanager
def dask_place(on: Cluster, study: StudyFolder, parallel: int | None) -> Iterator[DaskPlace]:
    """The cluster as a place for the trials of a study, until the block ends.

    on: see kit.runner.dask_cluster. parallel: the most trials at a time; None: as many as it takes.

    Raises:
        ClusterError, MissingPackageError: as kit.runner.dask_cluster.connected.
    """
    with connected(on, parallel or os.cpu_count() or 1) as client:
        place = DaskPlace(client, study, parallel)
        try:
            yield place
        finally:
            place.close()


@dataclass(slots=True, kw_only=True)
class _Worker:
    """One worker of the cluster, as far as is known."""

    look: Future
    address: str
    ip: str
    declared: int | None = None  # trials at a time, as its resource says
    host: HostFacts | None = None
    came_s: float = field(default_factory=time.monotonic)
    asked: bool = False  # to declare that it runs one trial at a time
    busy: set[str] = field(default_factory=set)

    @property
    def slots(self) -> int:
        """Trials that it may run at a time."""
        return 0 if self.host is None or self.host.refused else self.declared or 0


class DaskPlace:
    """The hosts of a cluster, as they come and go."""

    def __init__(self, client: Client, study: StudyFolder, parallel: int | None) -> None:
        self._client, self._study, self._parallel = client, study, parallel
        self._run = secrets.token_hex(4)
        self._number = 0
        self._lock = threading.Lock()
        self._workers: dict[str, _Worker] = {}
        self._found: dict[str, dict[str, Any]] | None = None  # what the scheduler said last
        self._said: dict[str, None] = {}  # remarks, in their order
        self._trials: dict[str, DaskTrial] = {}  # by the keys of their tasks
        self._waiting: list[DaskTrial] = []
        self._answered_s = time.monotonic()
        self._closed = threading.Event()
        self._lost = False
        self._first: HostFacts | None = None
        self._topic = f"triton-crash-kit-{self._run}"
        client.subscribe_topic(self._topic, self._note)
        self._asking = threading.Thread(target=self._ask, name="dask hosts", daemon=True)
        self._asking.start()

    # What the study's thread calls.

    def slots(self) -> int:
        if not self._lost and self._is_lost():
            self._lost = True
            for trial in [*self._trials.values(), *self._waiting]:
                trial.drop()
        if self._lost:
            raise ClusterError(
                "the Dask scheduler, which answers no more",
                "a scheduler that runs until the study is done",
                "what has ended is kept: the same call goes on, with another cluster or without",
            )
        self._follow()
        self._assign()
        slots = sum(worker.slots for worker in self._workers.values())
        return slots if self._parallel is None else min(slots, self._parallel)

    def launch(self, spec: TrialSpec, study: StudyFolder) -> DaskTrial:
        trial = DaskTrial(spec, study, self)
        self._waiting.append(trial)
        self._assign()
        return trial

    def remarks(self) -> tuple[str, ...]:
        return tuple(self._said)

    def close(self) -> None:
        self._closed.set()
        for worker in self._workers.values():
            worker.look.release()
        with contextlib.suppress(Exception):  # the scheduler may be gone, however it went
            self._client.unsubscribe_topic(self._topic)
        self._asking.join(timeout=LOOK_S * 4)

    # What a trial calls, in the same thread.

    def give_back(self, trial: DaskTrial, *, lost: bool) -> None:
        """Have a trial run once more, elsewhere. lost: its worker is gone."""
        self.ended(trial)
        if lost and trial.losses >= MOST_LOSSES:
            trial.fail(f"the workers that ran it were lost {trial.losses} times")
            return
        self._waiting.append(trial)

    def ended(self, trial: DaskTrial) -> None:
        """Free the slot of a trial."""
        self._trials.pop(trial.key, None)
        with contextlib.suppress(ValueError):
            self._waiting.remove(trial)
        if worker := self._workers.get(trial.address):
            worker.busy.discard(trial.key)

    def aside(self, function: Any, *given: object, address: str) -> None:
        """Call a function in the worker at an address, without waiting for it."""

        def call() -> None:
            with contextlib.suppress(Exception):  # the worker, or the scheduler, is gone
                self._client.run(function, *given, workers=[address], on_error="ignore")

        threading.Thread(target=call, name="dask call", daemon=True).start()

    # The rest.

    def _follow(self) -> None:
        """Take note of workers that have come, were looked over, or are gone."""
        with self._lock:
            found = self._found
        if found is None:
            return
        for address in [a for a in self._workers if a not in found]:
            gone = self._workers.pop(address)
            for key in gone.busy:
                self._trials[key].lost()
        for address, about in found.items():
            if address not in self._workers:
                self._workers[address] = _Worker(
                    look=self._look_over(address), address=address, ip=str(about.get("host", ""))
                )
            declared = about.get("resources", {}).get(RESOURCE)
            self._workers[address].declared = None if declared is None else int(declared)
        for worker in self._workers.values():
            if worker.host is None and worker.look.done():
                self._take(worker)
            elif worker.host is None and time.monotonic() - worker.came_s > FETCHES_S:
                self._say("hosts prepare their servers; what is not in their caches is fetched")
        self._share()
        if not found and not self._workers:
            self._say("the cluster has no worker; trials wait for one")

    def _look_over(self, address: str) -> Future:
        return self._client.submit(
            look_over,
            __version__,
            source_digest(),
            to_json(self._study.spec),
            key=f"kit-look-{self._run}-{secrets.token_hex(4)}",
            workers=[address],
            pure=False,
        )

    def _take(self, worker: _Worker) -> None:
        """Note what a worker said of its machine."""
        try:
            host = from_json(worker.look.result(), HostFacts)
        except Exception as error:  # noqa: BLE001 - another kit there, or none, in any of its ways
            if worker.look.status == "cancelled":  # the connection broke meanwhile
                worker.look = self._look_over(worker.address)
                return
            self._say(f"a worker is left out: it cannot say what it is ({_brief(error)})")
            worker.host = _UNKNOWN
            return
        worker.host = note_host(self._study.path, host)
        if host.refused:
            self._say(f"{worker.host.label} is left out: {host.refused}")
            return
        self._first = self._first or worker.host
        if found := differences([self._first, worker.host]):
            self._say(f"the hosts differ in {'; '.join(found)}")

    def _share(self) -> None:
        """Give one trial at a time to machines of which no worker has declared how many."""
        workers = list(self._workers.values())
        able = [(w, w.host.machine) for w in workers if w.host and not w.host.refused]
        taken = {machine for w, machine in able if w.declared or w.asked}
        unseen = {w.ip for w in workers if w.host is None and w.declared}
        for worker, machine in able:
            if worker.declared is None and machine not in taken and worker.ip not in unseen:
                worker.asked = True
                taken.add(machine)
                self.aside(declare, address=worker.address)
        if workers and not able and all(w.host for w in workers):
            raise ClusterError(
                f"a cluster of which no worker can run the study: {'; '.join(self._said)}",
                "a worker with the same kit, on a machine that can run its servers",
                "correct what is said of each, or leave out on=",
            )

    def _assign(self) -> None:
        """Start waiting trials wherever there is room."""
        while self._waiting:
            free = [w for w in self._workers.values() if len(w.busy) < w.slots]
            if not free:
                return
            worker = min(free, key=lambda w: len(w.busy) / w.slots)
            trial = self._waiting.pop(0)
            self._number += 1
            key = f"kit-{self._run}-{trial.spec.trial_id}-{self._number}"
            assert worker.host is not None
            worker.busy.add(key)
            self._trials[key] = trial
            trial.begun(key, worker.address, worker.host.label, self._submit(trial, key, worker))

    def _submit(self, trial: DaskTrial, key: str, worker: _Worker) -> Future:
        traces = {}
        if trial.spec.workload.trace or trial.spec.workload.tokenizer:
            kept = (self._study.path / TRACES).glob("*.json*")
            traces = {path.name: path.read_bytes() for path in kept}
        return self._client.submit(
            conduct,
            key,
            self._topic,
            to_json(trial.spec),
            traces,
            key=key,
            workers=[worker.address],
            resources={RESOURCE: 1},
            pure=False,
        )

    def _note(self, event: Any) -> None:
        """Called by Dask's thread with an event: what a trial has told of itself."""
        told = event[1]
        if trial := self._trials.get(str(told.get("key", ""))):
            trial.told(told["key"], bytes(told["progress"]))

    def _ask(self) -> None:
        """In a thread: ask who is there, again and again; a call may hang while a link is cut."""
        while not self._closed.wait(LOOK_S if self._found else LOOK_S / 10):
            try:
                # Not client.scheduler_info: what it returns may be that of Dask's own timer, which
                # asks for no workers at all, and then all of them would seem to be gone.
                ask = self._client.scheduler.identity
                found = self._client.sync(ask, n_workers=-1)["workers"]
            except Exception as error:  # noqa: BLE001 - whatever it is, it did not answer
                logging.getLogger(__name__).debug("the scheduler did not answer: %r", error)
                continue
            with self._lock:
                self._found = dict(found)
            self._answered_s = time.monotonic()

    def _is_lost(self) -> bool:
        if self._client.status in ("closing", "closed", "newly-created"):
            return True
        is_broken = self._client.status != "running"
        return is_broken and time.monotonic() - self._answered_s > LOST_S

    def _say(self, text: str) -> None:
        self._said.setdefault(text)


def _brief(error: BaseException) -> str:
    text = error.given if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
    return text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__


#: Of a worker that could not say what it is.
_UNKNOWN = HostFacts(
    machine="",
    kit="",
    source="",
    python="",
    libc="",
    system="",
    processor="",
    cores=0,
    memory_gib=0,
    refused="it cannot say what it is",
)
