"""Claims free ports of 127.0.0.1 against every other trial of this machine.

A port cannot be handed over open to another program, so there is always a moment in which
somebody else may take it. Two measures make that rare: ports come from below the range that the
system gives to outgoing connections, and a claim on each is held as an abstract Unix socket, a
name in the same network namespace that goes away with its holder, however that ends. What is
left (a foreign program on that very port) shows as a failure to bind, and the server is started
again on other ports.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from kit.errors import ServerStartError

_LOWEST = 10_000
_TRIES = 500


class PortClaim:
    """Free ports, kept from other trials until `release`; use as a context manager or by hand."""

    def __init__(self, count: int) -> None:
        self._holds = ExitStack()
        # Trials seed their own generators; which port it is must not depend on their seed.
        self._random = random.SystemRandom()
        try:
            self.ports = tuple(self._claim() for _ in range(count))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        self._holds.close()

    def __enter__(self) -> PortClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _claim(self) -> int:
        highest = _first_outgoing_port()
        for _ in range(_TRIES):
            port = self._random.randrange(_LOWEST, highest)
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                claim.bind(f"\0triton-crash-kit-port-{port}")
                _check_free(port)
            except OSError:
                claim.close()
                continue
            self._holds.callback(claim.close)
            return port
        raise ServerStartError(
            f"no free port between {_LOWEST} and {highest} in {_TRIES} tries",
            "a free port on 127.0.0.1",
            "stop programs that hold thousands of ports",
        )


def _check_free(port: int) -> None:
    """Raise OSError if anything listens on that port, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", port))


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first >= _LOWEST + 5_000 else 60_000
