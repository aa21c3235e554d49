"""Runs the trials of a study here, one after the other, with their load from hosts of a cluster.

The server is one that runs already, at an address that all of them reach. Which Dask workers can
be load hosts is found as for trials (kit.runner.dask_place): the same kit, one on each machine
unless workers declare the resource `trial`, which a load host takes while it sends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from kit.errors import ClusterError, SpecError
from kit.runner.dask_cluster import LOCAL, Cluster, connected
from kit.runner.dask_load import LoadFrom
from kit.runner.dask_place import DaskPlace
from kit.runner.place import TrialProcess
from kit.study.folder import StudyFolder
from kit.study.spec import ServerKind, TrialSpec
from kit.study.words import numbers_in_order

if TYPE_CHECKING:
    from distributed import Client

#: Hosts that are not there after so long are said to be missing; it takes as long to look at them.
SOON_S = 5.0
#: Dask's settings for TLS that a Client may have from its Security, by the names of its fields.
_TLS = {
    "require_encryption": "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION",
    "tls_ca_file": "DASK_DISTRIBUTED__COMM__TLS__CA_FILE",
    "tls_client_cert": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT",
    "tls_client_key": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY",
}


def has_load_hosts(trials: Iterable[TrialSpec], on: Cluster | None) -> bool:
    """Whether the load of these trials comes from several hosts of a cluster.

    Raises:
        SpecError: it does of some only; without a cluster; or their servers are none that such
            hosts can reach.
    """
    given = {trial.workload.load_hosts for trial in trials}
    if given == {None}:
        return False
    if None in given:
        raise SpecError(
            "load_hosts for some trials of a study only",
            "all of them, or none",
            "give it once, such as load_hosts=[1, 2, 4], and no workload without it",
        )
    if on is None:
        raise SpecError(
            f"load_hosts={max(filter(None, given))} without the hosts",
            "the Dask cluster whose hosts send",
            'name it: on="tcp://scheduler:8786" (docs/dask.md), or give processes=, which send '
            "from this machine",
        )
    if on == LOCAL:
        raise SpecError(
            f'load_hosts with on="{LOCAL}", whose workers are threads of this process',
            "a Dask cluster with a worker on each load host",
            "start one (docs/dask.md), or give processes=, which send from this machine",
        )
    for server in dict.fromkeys(trial.server for trial in trials):
        if server.kind is not ServerKind.ATTACHED:
            raise SpecError(
                f"load_hosts with {server.label}, which the kit starts on this machine's 127.0.0.1",
                "a server that other hosts reach",
                "start it where they do, and name its URL: kit.attach(), or --server URL",
            )
    return True


@contextlib.contextmanager
def load_place(on: Cluster, study: StudyFolder, trials: Sequence[TrialSpec]) -> Iterator[LoadPlace]:
    """This machine as the place of trials whose load comes from a cluster, until the block ends.

    Raises:
        ClusterError, MissingPackageError: as kit.runner.dask_cluster.connected.
    """
    with connected(on, 1) as client:
        most = max(trial.workload.load_hosts or 1 for trial in trials)
        place = LoadPlace(client, study, most, [trial.server.url or "" for trial in trials])
        try:
            yield place
        finally:
            place.close()


class LoadPlace(DaskPlace):
    """One trial at a time, here. most: load hosts that some trial needs; urls: of the servers."""

    def __init__(
        self, client: Client, study: StudyFolder, most: int, urls: Iterable[str] = ()
    ) -> None:
        self._on = scheduler_of(client)
        self._environment = _tls_of(client)
        self._begun_s = time.monotonic()
        self._most, self._urls = most, tuple(dict.fromkeys(urls))
        super().__init__(client, study, parallel=None)

    def slots(self) -> int:
        super().slots()
        there = self._hosts()
        if len(there) < self._most:
            if time.monotonic() - self._begun_s > SOON_S:
                self._say(f"trials wait for {self._most} load hosts; {len(there)} are there")
            return 0
        return 1

    def launch(self, spec: TrialSpec, study: StudyFolder) -> TrialProcess:  # type: ignore[override]
        hosts = dict(list(self._hosts().items())[: spec.workload.load_hosts])
        check_reach(self._urls, hosts)
        load = msgspec.json.encode(LoadFrom(on=self._on, hosts=hosts)).decode()
        return TrialProcess(spec, study, words=[load], environment=self._environment)

    def _hosts(self) -> dict[str, str]:
        """Labels of the workers that can take part, by their addresses; in the order of labels.

        Several workers of one machine are told apart: "host 1, worker 2".
        """
        able = [(w.address, w.host.label) for w in self._workers.values() if w.slots and w.host]
        able.sort(key=lambda one: (numbers_in_order(one[1]), one[0]))
        labels = [label for _, label in able]
        seen: Counter[str] = Counter()
        found = {}
        for address, label in able:
            seen[label] += 1
            alone = labels.count(label) == 1
            found[address] = label if alone else f"{label}, worker {seen[label]}"
        return found


def check_reach(urls: Iterable[str], addresses: Iterable[str]) -> None:
    """Refuse a server of this machine's loopback for load hosts that are elsewhere.

    addresses: of Dask workers. One that listens on the loopback can only be on this machine.

    Raises:
        SpecError: load hosts have other addresses.

    >>> check_reach(["http://10.0.0.5:8000"], ["tcp://10.0.0.7:4000"])
    """
    elsewhere = [a for a in addresses if not is_loopback(urlsplit(a).hostname or "")]
    for url in urls:
        if elsewhere and is_loopback(urlsplit(url).hostname or ""):
            raise SpecError(
                f"load_hosts for {url}, which is this machine's own loopback, and a load host at "
                f"{elsewhere[0]}",
                "an address of the server that every load host reaches",
                "name the server by its address in the network, on which it has to listen",
            )


def is_loopback(host: str) -> bool:
    """Whether an address or name is of the machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("10.0.0.5")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def scheduler_of(client: Client) -> str:
    """The address by which a process of its own reaches the client's scheduler.

    Raises:
        ClusterError: it cannot, since the scheduler is in this process.
    """
    address = str(client.scheduler.address)
    if urlsplit(address).scheme not in ("tcp", "tls"):
        raise ClusterError(
            f"on=, the Client of {address}, a cluster within this process",
            "a scheduler at an address of its own, tcp:// or tls://",
            "start one (docs/dask.md); LocalCluster(processes=True) is one, too",
        )
    return address


def _tls_of(client: Client) -> dict[str, str]:
    """Dask's variables that say what the client's Security does, for the trial's process."""
    security = client.security
    words = {word: getattr(security, field, None) for field, word in _TLS.items()}
    return {w: str(value) for w, value in words.items() if value and w not in os.environ}
