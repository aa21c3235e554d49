"""The rules that end a run: each gives the reason to stop, or None.

The number of requests is no rule here: it bounds what is given out in the first place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kit.study.workload import LEAST_ERRORS, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What a rule can look at; `errors` and `ended` over all workers of the workload."""

    seconds: float
    errors: int
    ended: int


StopRule = Callable[[RunState], str | None]


def after_seconds(limit: float) -> StopRule:
    """Stop sending when so much time has passed."""
    return lambda state: "duration" if state.seconds >= limit else None


def after_errors(limit: int) -> StopRule:
    """Stop sending when so many requests failed."""
    return lambda state: "errors" if state.errors >= limit else None


def after_error_fraction(limit: float) -> StopRule:
    """Stop sending when so large a share of the requests that ended has failed, LEAST_ERRORS of
    them at least: a share of few requests is chance."""

    def rule(state: RunState) -> str | None:
        many = state.errors >= LEAST_ERRORS and state.errors >= limit * state.ended
        return "error fraction" if many else None

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
