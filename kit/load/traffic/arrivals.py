"""Computes when each conversation of an open loop is due.

Moments are seconds since the common start, for conversation 0, 1, 2, ...; they are as pure a
function of the workload as the requests themselves, so each worker computes all of them and takes
its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, count
from pathlib import Path

from kit.load.traffic.draws import Purpose, uniforms
from kit.load.traffic.replay import Replay
from kit.load.traffic.schedule import rate_profile
from kit.study.spec import ArrivalKind, Arrivals, Workload
from kit.study.traces.keep import rows_of


def replay_of(workload: Workload, within: Path | None = None) -> Replay:
    """The requests of the traffic file that a workload names.

    within: the folder of a trial or a study, which keeps them.

    Raises:
        SpecError, StoreError: they are not there, or damaged.
    """
    assert workload.trace is not None
    return Replay(rows_of(workload.trace, within), workload.arrivals)


def due_times(workload: Workload, within: Path | None = None) -> Iterator[float]:
    """When each conversation of an open loop is due; a trace ends, the others go on.

    within: as for `replay_of`.
    """
    arrivals = workload.arrivals
    if arrivals.kind is ArrivalKind.TRACE:
        return iter(replay_of(workload, within).due_s())
    if arrivals.kind is ArrivalKind.CONSTANT:
        areas: Iterator[float] = map(float, count())
    else:
        areas = accumulate(_gaps(arrivals, workload.seed))
    return rate_profile(arrivals).filled(areas)


def _gaps(arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Gaps of mean 1: exponential, or gamma with the coefficient of variation asked for."""
    for block in count():
        draws = uniforms(seed, Purpose.GAP, block)
        if arrivals.kind is ArrivalKind.POISSON or arrivals.burstiness_cv == 1.0:
            yield from (-math.log1p(-u) for u in draws)
        elif arrivals.burstiness_cv <= 0.0:
            yield from (1.0 for _ in draws)
        else:
            from scipy.special import gammaincinv

            shape = arrivals.burstiness_cv**-2
            yield from (float(gap) / shape for gap in gammaincinv(shape, draws))
