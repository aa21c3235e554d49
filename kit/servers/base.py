"""What a trial knows of the server that it drives, whichever kind it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kit.study.spec import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What is known of a server's end. None = not known."""

    exit_code: int | None = None  # as subprocess gives it; None: its process cannot be seen
    at_ns: int | None = None  # CLOCK_MONOTONIC
    stopped_by: str | None = None  # who ended it, if neither itself nor this trial did
    how: str = ""  # without a process: how it showed, "connection refused"
    lost: str = ""  # the way to its engine is lost, so nothing is known of the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What says who asks a server that is not ours. Never written anywhere.

    redact: takes it out of a text that the server wrote.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    redact: Callable[[str], str] = field(default=str, repr=False)


class Server(Protocol):
    """One life of one server. What it prints goes to the `server.log` of the trial's folder."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine, once started; None: it cannot be seen."""

    @property
    def sees_exit(self) -> bool:
        """True if its exit status is known once it has ended."""

    @property
    def modules(self) -> Path | None:
        """The folder below which its binaries lie, for symbol lookup; None: not known."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what runs, as far as they are known."""

    def start(self) -> Endpoint:
        """Start it, or reach it, and wait until it is ready.

        Raises:
            ServerStartError: it was not ready in time; nothing is left of it.
        """

    def end(self, timeout_s: float = 0.0) -> End | None:
        """What is known of its end, once there is one or the time is over; None: it lives."""

    def out_of_memory(self) -> bool | None:
        """Whether a process was killed for want of memory since its start; None: not known."""

    def stop(self, *, patience_s: float = 5.0) -> object:
        """End it, if it is the kit's to end, and remove all that it left, in any state."""
