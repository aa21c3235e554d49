"""Compares the clocks of hosts, and turns one host's times into another's, with the error stated.

CLOCK_MONOTONIC of two hosts has nothing in common: neither its zero nor, over hours, its pace. As
NTP does, one asks the other host for its time and notes when the question went and the answer
came. The true offset lies between what it would be if the whole delay were on the way there and
if it were all on the way back, however unequal the two ways are; so half the delay is the bound
of the error, and the round trip of the least delay says most.

Compared before the load and after it, the offset between is taken as a straight line. Every round
trip meanwhile must agree with that line within its own bound; by as much as one does not, clocks
were steered meanwhile, and the error is that much larger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """One question for the time, nanoseconds: `asked` and `came` by the caller's clock, `read` by
    the host's in between."""

    asked_ns: int
    read_ns: int
    came_ns: int

    @property
    def delay_ns(self) -> int:
        return self.came_ns - self.asked_ns

    @property
    def least_ns(self) -> int:
        """The offset is no less than this: had the answer taken no time."""
        return self.read_ns - self.came_ns

    @property
    def most_ns(self) -> int:
        """The offset is no more than this: had the question taken no time."""
        return self.read_ns - self.asked_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """How far a host's clock was ahead of the caller's, and by how much that may be wrong.

    >>> one = RoundTrip(asked_ns=1_000, read_ns=9_400, came_ns=1_600)
    >>> offset_of([one])
    ClockOffset(at_ns=1300, offset_ns=8100, error_ns=300)
    """

    at_ns: int  # by the caller's clock
    offset_ns: int
    error_ns: int


def offset_of(trips: Iterable[RoundTrip]) -> ClockOffset:
    """The offset that the round trip of the least delay gives.

    Raises:
        ValueError: no round trip.
    """
    best = min(trips, key=lambda trip: trip.delay_ns)
    middle_ns = (best.asked_ns + best.came_ns) // 2
    return ClockOffset(
        at_ns=middle_ns, offset_ns=best.read_ns - middle_ns, error_ns=(best.delay_ns + 1) // 2
    )


class ClockLine:
    """A host's clock against the caller's over a trial; converts times both ways.

    before, after: as compared then. between: round trips meanwhile.
    """

    def __init__(
        self, before: ClockOffset, after: ClockOffset, between: Iterable[RoundTrip] = ()
    ) -> None:
        self.before, self.after = before, after
        span_ns = after.at_ns - before.at_ns
        #: Nanoseconds that the host's clock gains in one of the caller's.
        self._gain = (after.offset_ns - before.offset_ns) / span_ns if span_ns > 0 else 0.0
        #: The most that any time between the two comparisons may be wrong by.
        self.error_ns = max(before.error_ns, after.error_ns) + max(
            (self._off_by(trip) for trip in between), default=0
        )

    @property
    def drift_ppm(self) -> float:
        """How much faster the host's clock went, in millionths; as uncertain as the offsets."""
        return self._gain * 1e6

    def to_caller(self, host_ns: int) -> int:
        """A time of the host's clock, by the caller's."""
        return int(self.all_to_caller(np.array([host_ns], np.int64))[0])

    def all_to_caller(self, host_ns: np.ndarray) -> np.ndarray:
        """Times of the host's clock, by the caller's."""
        since = host_ns - (self.before.at_ns + self.before.offset_ns)
        gained = np.rint(since * (self._gain / (1 + self._gain))).astype(np.int64)
        return host_ns - self.before.offset_ns - gained

    def to_host(self, caller_ns: int) -> int:
        """A time of the caller's clock, by the host's."""
        since = caller_ns - self.before.at_ns
        return caller_ns + self.before.offset_ns + round(since * self._gain)

    def _off_by(self, trip: RoundTrip) -> int:
        """How far the line is outside what a round trip allows."""
        middle_ns = (trip.asked_ns + trip.came_ns) // 2
        offset_ns = self.to_host(middle_ns) - middle_ns
        return max(0, trip.least_ns - offset_ns, offset_ns - trip.most_ns)
