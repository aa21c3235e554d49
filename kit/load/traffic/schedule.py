"""A profile of concurrency or rate over time: its value at a moment, and when its area is filled.

A profile begins at a value and has steps (after_s, value, ramp); with a ramp the value is reached
linearly from the step before. The area under a rate is the number of requests that are due.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kit.errors import SpecError
from kit.study.spec import ArrivalKind, Arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A value over seconds since the start."""

    start: float
    steps: tuple[tuple[float, float, bool], ...] = ()

    def at(self, seconds: float) -> float:
        """The value at that moment."""
        for begin_s, end_s, first, last in self._pieces():
            if seconds < end_s:
                share = 0.0 if first == last else (seconds - begin_s) / (end_s - begin_s)
                return first + (last - first) * share
        return self.start  # not reached: the last piece has no end

    @property
    def most(self) -> float:
        return max([self.start, *(value for _, value, _ in self.steps)])

    def filled(self, areas: Iterator[float]) -> Iterator[float]:
        """For growing areas, when each is reached; ends when one never is."""
        pieces = self._pieces()
        begin_s, end_s, first, last = next(pieces)
        before = 0.0  # area up to begin_s
        for area in areas:
            while before + _area(end_s - begin_s, first, last) < area:
                before += _area(end_s - begin_s, first, last)
                following = next(pieces, None)
                if following is None:
                    return
                begin_s, end_s, first, last = following
            yield begin_s + _time_to(area - before, end_s - begin_s, first, last)

    def _pieces(self) -> Iterator[tuple[float, float, float, float]]:
        """(begin, end, value there, value at the end), the last one without end."""
        at, value = 0.0, self.start
        for after, target, ramp in self.steps:
            if after > at:
                yield at, after, value, target if ramp else value
            at, value = after, target
        yield at, math.inf, value, value


def _area(seconds: float, first: float, last: float) -> float:
    if math.isinf(seconds):
        return math.inf if first > 0 else 0.0
    return seconds * (first + last) / 2


def _time_to(area: float, seconds: float, first: float, last: float) -> float:
    """When a value that goes linearly from `first` to `last` has filled `area`."""
    if area <= 0:
        return 0.0
    slope = 0.0 if math.isinf(seconds) else (last - first) / seconds
    # The stable root of first*t + slope*t**2/2 = area, also for a slope of 0.
    root = math.sqrt(max(0.0, first * first + 2 * slope * area))
    return min(2 * area / (first + root), seconds)


def concurrency_profile(arrivals: Arrivals) -> Profile:
    """How many clients are to be sending, over time."""
    return Profile(
        start=float(arrivals.concurrency or 1),
        steps=_steps((s.after_s, s.concurrency, s.ramp) for s in arrivals.steps),
    )


def rate_profile(arrivals: Arrivals) -> Profile:
    """How many requests are due a second, over time."""
    return Profile(
        start=arrivals.rate_per_s or 0.0,
        steps=_steps((s.after_s, s.rate_per_s, s.ramp) for s in arrivals.steps),
    )


def check_steps(arrivals: Arrivals, processes: int) -> None:
    """Refuse steps that cannot be taken.

    Raises:
        SpecError: a step for the other kind of loop, below zero, or to fewer clients than there
            are worker processes, so that one of them could never send its share.
    """
    closed = arrivals.kind is ArrivalKind.CLOSED
    for step in arrivals.steps:
        value = step.concurrency if closed else step.rate_per_s
        if value is None:
            name, other = ("concurrency", "rate_per_s") if closed else ("rate_per_s", "concurrency")
            raise SpecError(
                f"a step of {other} in {arrivals.kind} arrivals",
                f"a step of {name}: closed and open loop are not mixed",
                f"give {name}",
            )
        if value < 0 or step.after_s < 0:
            raise SpecError(f"a step to {value} after {step.after_s} s", "0 or more", "raise it")
        if closed and value < processes:
            raise SpecError(
                f"a step to {value} clients with {processes} processes",
                "at least one client a process: each has a share of the requests",
                "lower processes or raise the step",
            )


def _steps(
    given: Iterable[tuple[float, float | None, bool]],
) -> tuple[tuple[float, float, bool], ...]:
    return tuple(sorted((after, float(v), ramp) for after, v, ramp in given if v is not None))
