"""What runs a worker's channels sees of them, and they of it; no protocol is named here."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kit.load.answers import Judgement
from kit.load.traffic.call import Call


def let_out(task: asyncio.Task[None]) -> None:
    """As a task's done callback: its error becomes the event loop's, which ends the run.

    An error that stays in its task would leave the call open for ever.
    """
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class Channel(Protocol):
    """One client's line to the server; at most one call open at a time."""

    index: int  # which client
    call: Call | None  # the open one
    #: The text of the last answer without its prompt, escaped for JSON; None where the traffic
    #: knows the answers beforehand.
    answered: bytes | None

    def send(self, call: Call) -> None:
        """Begin `call`; the host hears of its end, whatever that is."""

    def expire(self) -> None:
        """End the open call, if any: it has had its time."""

    def settle(self) -> None:
        """Do what was put off."""

    def abandon(self) -> Call | None:
        """Drop the open call, if any, and the connection, without a word to the host."""


class Host(Protocol):
    """Who runs the channels."""

    loop: asyncio.AbstractEventLoop

    def clock(self) -> int:
        """CLOCK_MONOTONIC nanoseconds."""

    def ended(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        """`call` has ended and the channel is free."""
