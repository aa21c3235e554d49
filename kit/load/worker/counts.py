"""Counts over a trial's request rows, from which its verdict is decided."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from kit.load.traffic.faults import intends
from kit.study.result import Outcome
from kit.study.workload import FaultKind


def ended(requests: pa.Table, died_ns: int | None) -> int:
    """Requests that ran to an end, before the server died if it did."""
    ran = pc.is_in(requests["outcome"], pa.array([o.value for o in Outcome if o.has_ended]))
    if died_ns is not None:
        ran = pc.and_(ran, pc.less_equal(requests["end_ns"], died_ns))
    return _sum(ran)


def count(requests: pa.Table, outcome: Outcome) -> int:
    """Requests with this outcome."""
    return _sum(pc.equal(requests["outcome"], outcome.value))


def gave_up(requests: pa.Table) -> int:
    """Requests without a fault whose clients waited in vain for the whole answer."""
    return _sum(_gave_up(requests))


def never_answered(requests: pa.Table, *, after_s: float) -> int:
    """Those of them for which nothing at all came, although the client waited for so long.

    An answer that had begun is a slow one, and so may be one that was not waited for.
    """
    silent = pc.and_(pc.equal(requests["bytes_received"], 0), pc.is_null(requests["status"]))
    since_ns = pc.coalesce(requests["sent_ns"], requests["scheduled_ns"])
    waited_ns = pc.subtract(requests["end_ns"], since_ns)
    patient = pc.greater_equal(waited_ns, round(after_s * 1e9))
    return _sum(pc.and_(_gave_up(requests), pc.and_(silent, patient)))


def failed(requests: pa.Table) -> int:
    """Requests that ended otherwise than well, and not as the fault in them intends."""
    ran = pc.is_in(requests["outcome"], pa.array([o.value for o in Outcome if o.has_ended]))
    pairs = requests.filter(ran).select(["outcome", "fault"])
    kinds = pairs.group_by(["outcome", "fault"]).aggregate([([], "count_all")]).to_pylist()
    return sum(
        kind["count_all"]
        for kind in kinds
        if kind["outcome"] != Outcome.OK
        and not (kind["fault"] and intends(FaultKind(kind["fault"]), Outcome(kind["outcome"])))
    )


def _gave_up(requests: pa.Table) -> pa.ChunkedArray:
    timed_out = pc.equal(requests["outcome"], Outcome.TIMEOUT.value)
    return pc.and_(timed_out, pc.is_null(requests["fault"]))


def _sum(chosen: pa.ChunkedArray) -> int:
    return pc.sum(chosen).as_py() or 0
