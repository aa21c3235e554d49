"""Decides from a worker's health rows whether its figures are the client's own.

A load generator that is itself at its limit measures itself: its requests leave late and its
stamps come late. Every figure can say so; `client_limited` is the one place that decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: A core that is as busy as this has no time to be punctual.
BUSY_CPU_FRACTION = 0.9
#: A timer as late as this means that stamps are as wrong.
LATE_LOOP_S = 0.01
#: An open loop that sends later than this does not keep its schedule.
LATE_DISPATCH_S = 0.002
#: Of the ticks: what a noisy machine does to anybody now and then is forgiven. Short trials have
#: a handful of ticks, of which a single one would be a large share.
FORGIVEN_FRACTION = 0.05
FORGIVEN_TICKS = 1
#: What has come is read in the next turn of the event loop. A loop that is never later than this
#: share of a silence, however busy, did not miss the answer that would have ended it.
DEAF_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimit:
    """Whether and why the client was the bottleneck, with the shares of ticks that say so.

    Shares are None where nothing was measured: no ticks, or no request sent.
    """

    limited: bool
    reasons: tuple[str, ...]
    busy_fraction: float | None
    late_loop_fraction: float | None
    late_dispatch_fraction: float | None  # None also for a closed loop


def client_limited(rows: Mapping[str, Sequence[float | None]], *, open_loop: bool) -> ClientLimit:
    """Judge the rows (kit.study.folder.CLIENT as columns) of one or more workers of one trial.

    open_loop: requests had a schedule. In a closed loop the time from due to sent is that of
        making a connection, which is the server's as well, so it is not judged.
    """
    busy = _share(rows["cpu_fraction"], BUSY_CPU_FRACTION)
    late = _share(rows["loop_lag_s"], LATE_LOOP_S)
    dispatch = _share(rows["dispatch_delay_s"], LATE_DISPATCH_S) if open_loop else None
    often = max(FORGIVEN_FRACTION, FORGIVEN_TICKS / max(1, len(rows["cpu_fraction"])))
    reasons = tuple(
        f"{what} in {share:.0%} of the ticks"
        for share, what in (
            (busy, f"its core was more than {BUSY_CPU_FRACTION:.0%} busy"),
            (late, f"its event loop was more than {LATE_LOOP_S * 1e3:g} ms late"),
            (dispatch, f"requests left more than {LATE_DISPATCH_S * 1e3:g} ms late"),
        )
        if share is not None and share > often
    )
    return ClientLimit(
        limited=bool(reasons),
        reasons=reasons,
        busy_fraction=busy,
        late_loop_fraction=late,
        late_dispatch_fraction=dispatch,
    )


def client_stall_reason(
    rows: Mapping[str, Sequence[float | None]], *, silence_s: float, open_loop: bool
) -> str | None:
    """Why a client that heard nothing for so long may have been the cause itself; None: it was
    never nearly as late as that. One long stall is enough, which as a share of ticks is little."""
    limit = client_limited(rows, open_loop=open_loop)
    worst_s = max((lag for lag in rows["loop_lag_s"] if lag is not None), default=0.0)
    if worst_s < DEAF_FRACTION * silence_s:
        return None
    return "; ".join((*limit.reasons, f"once it was {worst_s:.1f} s late"))


def _share(values: Sequence[float | None], limit: float) -> float | None:
    """The share of the values that are there which exceed `limit`; NaN counts as not there."""
    there = [value for value in values if value is not None and value == value]
    return sum(value > limit for value in there) / len(there) if there else None
