"""Draws the fault that is injected into a request, from the workload's faults.

A request has at most one fault: the workload's faults divide the unit interval in their order,
the rest of it is requests that nothing is done to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.errors import SpecError
from kit.load.traffic.draws import quantile
from kit.load.traffic.quantiles import whole_quantiles
from kit.study.result import Outcome
from kit.study.spec import Fault, FaultKind

#: A client deadline where the workload gives none.
DEFAULT_DEADLINE_S = 0.05
DEFAULT_BYTES_PER_S = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """What is done to one request. `after` counts tokens or bytes of the answer."""

    kind: FaultKind
    after: int = 0
    in_bytes: bool = False
    deadline_s: float | None = None
    bytes_per_s: float | None = None


#: Requests that a server must refuse: an answer to one of these is the failure.
MUST_BE_REFUSED = frozenset({FaultKind.BAD_JSON, FaultKind.WRONG_TYPE, FaultKind.OVER_LONG})
#: Requests that we leave, cut short or starve; how they end is our doing.
OUR_DOING = frozenset(
    {FaultKind.DISCONNECT, FaultKind.CANCEL, FaultKind.DEADLINE, FaultKind.HALF_OPEN}
)


def held_open(fault: FaultPlan | None, received_bytes: int) -> bool:
    """A request stays open because of what we do to it, not because the server is slow.

    Before its answer has begun a slow reader waits like anybody else.
    """
    if fault is None:
        return False
    starved = fault.kind is FaultKind.SLOW_READER and received_bytes > 0
    return starved or fault.kind is FaultKind.HALF_OPEN


def as_intended(fault: FaultPlan | None, outcome: Outcome) -> bool:
    """True if the request failed in the way that its injected fault intends."""
    return fault is not None and intends(fault.kind, outcome)


def intends(kind: FaultKind, outcome: Outcome) -> bool:
    """True if a request with this fault is meant to end so."""
    if kind in MUST_BE_REFUSED:
        return outcome is Outcome.HTTP_ERROR
    return kind in OUR_DOING and outcome in (Outcome.DISCONNECTED, Outcome.TIMEOUT)


def check_faults(faults: Sequence[Fault]) -> None:
    """Refuse shares that are more than all requests.

    Raises:
        SpecError: the fractions add up to more than 1.
    """
    total = sum(fault.fraction for fault in faults)
    if total > 1.0 + 1e-9:
        raise SpecError(
            f"faults on {total:.0%} of the requests",
            "at most all of them",
            "lower the fractions; a request has at most one fault",
        )


def plan_faults(
    faults: Sequence[Fault], draws: np.ndarray, after: np.ndarray, deadlines: np.ndarray
) -> list[FaultPlan | None]:
    """The fault of each request, three draws for each; None for most."""
    plans: list[FaultPlan | None] = [None] * len(draws)
    above = draws.copy()  # how far above the faults before this one
    free = np.ones(len(draws), bool)
    for fault in faults:
        hit = free & (above < fault.fraction)
        counts = [0] * len(draws)
        if fault.after is not None:
            counts = whole_quantiles(fault.after, after[hit], 0)
        for number, count, u in zip(
            np.flatnonzero(hit).tolist(), counts, deadlines[hit].tolist(), strict=False
        ):
            plans[number] = _plan(fault, count, u)
        free &= ~hit
        above -= fault.fraction
    return plans


def _plan(fault: Fault, after: int, u_deadline: float) -> FaultPlan:
    deadline_s = None
    if fault.deadline_s is not None:
        deadline_s = max(1e-6, quantile(fault.deadline_s, u_deadline))
    elif fault.kind is FaultKind.DEADLINE:
        deadline_s = DEFAULT_DEADLINE_S
    rate = fault.bytes_per_s
    if fault.kind is FaultKind.SLOW_READER and rate is None:
        rate = DEFAULT_BYTES_PER_S
    return FaultPlan(
        kind=fault.kind,
        after=after,
        in_bytes=fault.unit == "bytes",
        deadline_s=deadline_s,
        bytes_per_s=rate,
    )
