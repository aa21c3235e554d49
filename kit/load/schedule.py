"""Steps and seconds since the start in, the concurrency or the rate of that moment out."""

from __future__ import annotations

from kit.records import Arrivals


def value_at(start: float, steps: list[tuple[float, float, bool]], seconds: float) -> float:
    """The value of a profile of (after_s, value, ramp), which begins at `start`."""
    at, value = 0.0, start
    for after, target, ramp in steps:
        if seconds < after:
            if ramp and after > at:
                return value + (target - value) * (seconds - at) / (after - at)
            return value
        at, value = after, target
    return value


def concurrency_profile(arrivals: Arrivals) -> list[tuple[float, float, bool]]:
    """The steps that set a concurrency, in the order of time."""
    return sorted(
        (step.after_s, float(step.concurrency), step.ramp)
        for step in arrivals.steps
        if step.concurrency is not None
    )


def most_concurrent(arrivals: Arrivals) -> int:
    """The most clients that a closed loop ever has."""
    return max([arrivals.concurrency or 1, *(s.concurrency or 0 for s in arrivals.steps)])
