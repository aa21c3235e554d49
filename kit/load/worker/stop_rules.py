"""The rules that end a run: each says that it is to stop, or None.

The number of requests is no rule here: it bounds what is given out in the first place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kit.study.workload import LEAST_ERRORS, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What a rule can look at; `errors` and `ended` over all workers of the workload."""

    seconds: float
    errors: int
    ended: int


class Stop(StrEnum):
    """Which rule ended a run before its last request."""

    DURATION = "duration"
    ERRORS = "errors"
    ERROR_FRACTION = "error fraction"


#: The rules that end it since requests fail.
TOO_MANY_ERRORS = frozenset({Stop.ERRORS, Stop.ERROR_FRACTION})

StopRule = Callable[[RunState], Stop | None]


def after_seconds(limit: float) -> StopRule:
    """Stop sending when so much time has passed."""
    return lambda state: Stop.DURATION if state.seconds >= limit else None


def after_errors(limit: int) -> StopRule:
    """Stop sending when so many requests failed."""
    return lambda state: Stop.ERRORS if state.errors >= limit else None


def after_error_fraction(limit: float) -> StopRule:
    """Stop sending when so large a share of the requests that ended has failed, LEAST_ERRORS of
    them at least: a share of few requests is chance."""

    def rule(state: RunState) -> Stop | None:
        many = state.errors >= LEAST_ERRORS and state.errors >= limit * state.ended
        return Stop.ERROR_FRACTION if many else None

    return rule


def stop_rules(workload: Workload) -> list[StopRule]:
    """The rules that a workload asks for."""
    rules: list[StopRule] = []
    if workload.duration_s is not None:
        rules.append(after_seconds(workload.duration_s))
    if workload.max_errors is not None:
        rules.append(after_errors(workload.max_errors))
    if workload.max_error_fraction is not None:
        rules.append(after_error_fraction(workload.max_error_fraction))
    return rules
