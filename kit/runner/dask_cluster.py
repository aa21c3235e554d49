"""Connects to the Dask cluster on which a study's trials are to run.

Whoever can connect to a Dask scheduler can run anything on its workers, and so can the scheduler
and the workers on the side of its clients: Dask sends pickled objects. A cluster is trusted as a
whole, and should use TLS (SECURITY.md). `on="local"` opens no such port: scheduler and workers are
threads of this process, and talk to each other in its memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kit.errors import ClusterError, MissingPackageError, SpecError
from kit.runner.dask_host import RESOURCE
from kit.study.spec import ServerKind, StudySpec

if TYPE_CHECKING:
    from distributed import Client

#: What `on` may be: "local", a scheduler's address, or a client.
Cluster = Any
LOCAL = "local"
CONNECT_S = 10.0
CLOSE_S = 5.0
_EXPECTED = '"local", the address of a Dask scheduler such as "tcp://scheduler:8786", or its Client'


@contextlib.contextmanager
def connected(on: Cluster, parallel: int) -> Iterator[Client]:
    """A client of the cluster; closed afterwards unless it was given.

    on: see _EXPECTED. parallel: of "local": trials at a time.

    Raises:
        MissingPackageError: Dask is not installed.
        ClusterError: no scheduler answers there, or `on` is nothing of the kind.
    """
    distributed = _distributed()
    if isinstance(on, distributed.Client):
        if on.asynchronous:
            raise ClusterError("on=, an asynchronous Client", _EXPECTED, "make it without that")
        yield on
        return
    if not isinstance(on, str) or not on.strip():
        raise ClusterError(f"on={on!r}", _EXPECTED, "leave it out to run on this machine")
    if on == LOCAL:
        with _local(distributed, parallel) as client:
            yield client
        return
    _check_address(distributed, on)
    with _quiet():
        try:
            client = distributed.Client(on, timeout=CONNECT_S, set_as_default=False)
        except OSError as error:
            raise ClusterError(
                f"on={on!r}, where no Dask scheduler answers: {error or type(error).__name__}",
                _EXPECTED,
                "see whether it runs and can be reached from here; the study itself is unharmed",
            ) from error
        try:
            yield client
        finally:
            with contextlib.suppress(OSError, TimeoutError):  # the scheduler may be gone
                client.close(timeout=CLOSE_S)


def check_servers(spec: StudySpec) -> None:
    """Refuse a study whose servers are not where its trials run.

    Raises:
        SpecError: it has such a server.
    """
    for server in spec.servers:
        if server.kind is ServerKind.ATTACHED or server.host is not None:
            raise SpecError(
                f"on=… with {server.label}, a server that is on a machine of its own",
                "servers that each host starts for itself",
                "leave out on=: its load comes from this machine; or give load_hosts=, and it "
                "comes from so many of the cluster",
            )


def check_limit(spec: StudySpec) -> None:
    """Refuse a search for a limit: its trials must not change hosts.

    Raises:
        SpecError: it is one.
    """
    if spec.limit is not None:
        raise SpecError(
            "on=… with a search for a limit, whose trials are compared by their latencies",
            "one host",
            "leave out on=, and run it on the host itself; or give load_hosts= with the URL of a "
            "server, and trials run here with their load from the same hosts each time",
        )


def _check_address(distributed: Any, address: str) -> None:
    """Refuse what Dask would fail on with a client half made.

    Raises:
        ClusterError: no port, no tcp or tls, or tls without certificates.
    """
    try:
        scheme, where = distributed.comm.parse_address(address)
        distributed.comm.parse_host_port(where)
    except ValueError as error:
        raise ClusterError(f"on={address!r}: {error}", _EXPECTED, "name its port") from error
    if scheme not in ("tcp", "tls"):
        raise ClusterError(f"on={address!r}", _EXPECTED, "check its beginning")
    about = distributed.Security().get_connection_args("client")
    if scheme == "tls" and about.get("ssl_context") is None:
        raise ClusterError(
            f"on={address!r}, and no certificate to show there",
            "Dask's variables for TLS, or a distributed.Client with its security",
            "docs/dask.md has the variables",
        )
    if scheme == "tcp" and about.get("require_encryption"):
        raise ClusterError(
            f"on={address!r}, while Dask's settings require encryption",
            "an address that begins with tls://",
            "unset DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION, or use TLS",
        )


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{error.name}, which is not installed",
            "dask and distributed, for trials on other hosts",
            'install them: pip install ".[dask]", or conda install dask distributed',
        ) from error
    return distributed


@contextlib.contextmanager
def _local(distributed: Any, parallel: int) -> Iterator[Client]:
    """A cluster in this process; its pages of information listen on 127.0.0.1 alone."""
    import dask

    no_pages: dict[str, object] = {
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with (
        tempfile.TemporaryDirectory(prefix="tck-dask-") as scratch,
        dask.config.set(no_pages | {"temporary-directory": scratch}),
        distributed.LocalCluster(
            n_workers=parallel or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=False,
            protocol="inproc://",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            resources={RESOURCE: 1},
            memory_limit=0,
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What Dask logs of a lost scheduler or worker is said by the kit in its own words."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
