"""The interface between a worker's run and its channels; no protocol is named here."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kit.load.answers import Judgement
from kit.load.link import Clock
from kit.load.traffic.call import Call


def raise_task_error(task: asyncio.Task[None]) -> None:
    """Done callback of a task: raises the task's error in the event loop, which ends the run.

    An error that stays in its task would leave the call open for ever.
    """
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class Channel(Protocol):
    """One client's line to the server; at most one call open at a time."""

    index: int  # which client
    call: Call | None  # the open one

    @property
    def answered(self) -> bytes | None:
        """The text of the last answer without its prompt, escaped for JSON.

        None where the traffic knows the answers beforehand.
        """

    def send(self, call: Call) -> None:
        """Begin `call`; the host hears of its end, whatever that is."""

    def expire(self) -> None:
        """End the open call, if any: it has had its time."""

    def flush(self) -> None:
        """Read what was put off."""

    def abandon(self) -> Call | None:
        """Drop the open call, if any, and the connection, without telling the host."""


class Host(Protocol):
    """Who runs the channels."""

    loop: asyncio.AbstractEventLoop
    clock: Clock

    def ended(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        """`call` has ended and the channel is free."""
