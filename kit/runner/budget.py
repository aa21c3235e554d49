"""The most requests that a study may send."""

from __future__ import annotations

from collections.abc import Iterable

from kit.study.result import TrialResult
from kit.study.spec import TrialSpec


class Budget:
    """Counts the requests of trials as they end.

    >>> Budget(None).allows(spec, [])  # doctest: +SKIP
    True
    """

    def __init__(self, most_requests: int | None) -> None:
        self._most = most_requests
        self._spent = 0

    def spend(self, result: TrialResult) -> None:
        """Count what a trial that ended has sent."""
        self._spent += result.completed + result.in_flight

    def allows(self, spec: TrialSpec, running: Iterable[TrialSpec]) -> bool:
        """Whether this trial may begin beside those that run; at most its own number of requests
        is counted for each, and 1 for one that has none."""
        asked = sum(trial.workload.requests or 1 for trial in (spec, *running))
        return self._most is None or self._spent + asked <= self._most

    def __str__(self) -> str:
        """What there is to say when it is used up."""
        return (
            f"the budget of {self._most:,} requests is used up: {self._spent:,} were sent, and the "
            "next trial could send more; most_requests (--most-requests) allows more"
        )
