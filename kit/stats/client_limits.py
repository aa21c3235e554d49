"""Tells whether the client was the bottleneck: a row a trial, and a sentence.

A load generator at its limit measures itself, so whoever shows a latency says this beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.load.worker.client_limited import LATE_DISPATCH_S, LATE_LOOP_S, client_limited
from kit.study.folder import StudyFolder
from kit.study.load_hosts import LoadHost
from kit.study.once import computed_once
from kit.study.recorded import open_study
from kit.study.spec import ArrivalKind


@computed_once
def client_limits(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a trial of which the client's health is on record; none: nothing is known of it.

    trial_id
    limited               the client was the bottleneck (kit.load.worker.client_limited says by what
    rule)
    reasons               in words, each host of a load from several hosts by itself and by its
    name; "" = it kept up
    busy_fraction, late_loop_fraction, late_dispatch_fraction   shares of the ticks; NaN = not
                          measured, which in a closed loop dispatch never is
    """
    rows = []
    for folder in open_study(study).trials():
        ticks = folder.client()
        if not ticks.num_rows:
            continue
        spec = folder.spec
        open_loop = spec.workload.arrivals.kind is not ArrivalKind.CLOSED
        limit = client_limited(ticks.to_pydict(), open_loop=open_loop)
        reasons = list(limit.reasons)
        if folder.result is not None and folder.result.load_hosts:
            reasons = _by_host(ticks, folder.result.load_hosts, open_loop=open_loop)
        rows.append(
            {
                "trial_id": spec.trial_id,
                "limited": bool(reasons),
                "reasons": "; ".join(reasons),
                "busy_fraction": limit.busy_fraction,
                "late_loop_fraction": limit.late_loop_fraction,
                "late_dispatch_fraction": limit.late_dispatch_fraction,
            }
        )
    frame = pd.DataFrame(rows, columns=list(DTYPES))
    return frame.astype(DTYPES)


def _by_host(ticks: pa.Table, hosts: Sequence[LoadHost], *, open_loop: bool) -> list[str]:
    """Why load hosts were the bottleneck, those that were. One among many is not averaged away."""
    reasons = []
    for host in hosts:
        own = ticks.filter(pc.is_in(ticks["worker"], pa.array(host.workers, pa.int16())))
        limit = client_limited(own.to_pydict(), open_loop=open_loop)
        reasons += [f"{host.label}: {reason}" for reason in limit.reasons]
    return reasons


DTYPES = {
    "trial_id": "string",
    "limited": "bool",
    "reasons": "string",
    **dict.fromkeys(["busy_fraction", "late_loop_fraction", "late_dispatch_fraction"], "float64"),
}


def client_sentence(limits: pd.DataFrame, trials: Collection[str] | None = None) -> str:
    """Whether latencies of these trials (None: all) are the server's, in one sentence."""
    own = limits if trials is None else limits[limits["trial_id"].isin(trials)]
    if own.empty:
        return "The client's own health is not on record."
    limited = own[own["limited"]]
    if limited.empty:
        late = own["late_loop_fraction"].max()
        often = f"in at most {late:.1%} of the ticks" if late > 0 else "in no tick"
        kept = f"its event loop was {LATE_LOOP_S * 1e3:g} ms late {often}"
        sent = own["late_dispatch_fraction"].max()
        if sent == sent:
            kept += f", and at most {sent:.1%} sent a request {LATE_DISPATCH_S * 1e3:g} ms late"
        where = f" in all {len(own)} trials" if len(own) > 1 else ""
        return f"The client kept up{where}: {kept}."
    worst = limited["reasons"].iloc[limited["busy_fraction"].fillna(0).argmax()]
    return (
        f"Client-limited in {len(limited)} of {len(own)} trials ({worst}): latencies there are "
        "partly the client's own."
    )
