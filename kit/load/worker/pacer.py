"""The interface of the closed and the open loop, which decide when the next request goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kit.load.answers import Judgement
from kit.load.channel import Channel
from kit.load.traffic.call import Call


class Pacer(Protocol):
    """When which channel gets its next call."""

    def begin(self, start_ns: int) -> None:
        """The run starts now."""

    def freed(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        """`call` has ended, so its channel can take another."""

    def tick(self, now_ns: int) -> None:
        """A tick has passed."""

    def halt(self) -> None:
        """Send no more."""

    @property
    def owes(self) -> bool:
        """It holds calls back that are yet to be sent."""

    @property
    def channels(self) -> Sequence[Channel]:
        """All channels that were made so far."""
