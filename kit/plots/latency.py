"""Plots latency quantiles, with failed requests counted as never answered."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from kit.plots.axes import latency_ticks
from kit.plots.columns import check_frame
from kit.plots.style import DEATH, FAINT, colour
from kit.plots.titles import cell_word, latency_title, set_title, varying
from kit.stats.latency import latency_table
from kit.stats.timings import measured
from kit.study.releases import in_order
from kit.study.words import milliseconds, percent

#: An interval is drawn up to so many times the highest quantile of a figure, and down to the
#: lowest over LOWEST, which lies just inside of the axis.
WIDEST, LOWEST = 4.0, 1.4
#: Letters that stand beneath a column in one line where columns are many.
WIDEST_WORD = 12
#: Median and p95: filled and hollow marks.
QUANTILES = (0.5, 0.95)

MEASURES = {
    "e2e_ms": "latency",
    "e2e_from_schedule_ms": "latency from the due time",
    "ttft_ms": "time to first token",
    "itl_ms_mean": "mean inter-token latency",
}


def plot_latency(requests: pd.DataFrame, ax: Axes, *, latency: str | None = None) -> Axes:
    """Median (filled) and p95 (open) of all judged requests, per release and concurrency.

    requests: kit.stats.frames.requests_frame; reads release, concurrency, trial_id, judged, ok and
        `latency` (None: end to end, as kit.stats.timings.measured has it). A request that failed or
        was open when the server died counts as never answered; a quantile among those stands in
        the band "never" on top. Bars: 95 % intervals. Beneath: n, and the share that failed. A
        quantile that n is too small for is left out ("no p95").
    """
    check_frame(
        requests, "requests", ("release", "concurrency", "judged", "ok"), plot="plot_latency"
    )
    latency = latency or measured(requests)
    by = ["release", "concurrency"]
    by += [c for c in varying(requests) if c not in by]  # never pool what differs
    table = latency_table(requests, by, latency=latency, quantiles=QUANTILES)
    place = {release: i for i, release in enumerate(in_order(table["release"]))}
    table = table.assign(_place=table["release"].astype(str).map(place))
    ordered = table.sort_values(["concurrency", "_place"], kind="stable")
    # An open loop without a cap has no concurrency: those are one cell as well.
    cells = [own for _, own in ordered.groupby(by, sort=False, dropna=False, observed=True)]
    finite, never = reach(table)
    extra = [c for c in by if c != "release" and requests[c].nunique(dropna=False) > 1]
    several = table["release"].nunique() > 1
    labels = []
    crowded = len(cells) > 7
    glue = "\n" if crowded else " "
    for x, own in enumerate(cells):
        rows = own.to_dict("records")
        cell = rows[0]
        none_answered = all(math.isinf(row["ms"]) for row in rows)
        for shift, row in zip((-0.13, 0.13), rows, strict=True):
            if not math.isnan(row["ms"]):
                name = ("median " if row["quantile"] == 0.5 else "p95 ") if x == 0 else ""
                text = "" if none_answered else name + milliseconds(row["ms"])
                _mark(ax, x + shift, row, (finite, never), text)
        if none_answered:
            both = "median and p95: never" if x == 0 else "never"
            _say(ax, x, never, both, colour(str(cell["release"])), above=True)
        lacks = [f"p{100 * row['quantile']:g}" for row in rows if math.isnan(row["ms"])]
        lines = [str(cell["release"])] if several or not extra else []
        words = [cell_word(c, cell[c]) for c in extra]
        lines += [w.replace(" ", glue, 1) if len(w) > WIDEST_WORD else w for w in words]
        lines += [f"n {cell['n']:,}", f"{percent(cell['failed_fraction'])}{glue}failed"]
        lines += [f"no {', '.join(lacks)}"] if lacks else []
        labels.append("\n".join(lines))
    latency_axis(ax, finite, never if np.isinf(table[["ms", "high_ms"]]).any(axis=None) else None)
    ax.set_xticks(range(len(labels)), labels, fontsize=8 if crowded else 9)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.grid(axis="y")
    ax.set_ylabel(f"{MEASURES[latency]} of all requests (log scale)", color=FAINT)
    set_title(ax, latency_title(table, "begin" if latency == "ttft_ms" else "answer"))
    return ax


def _mark(
    ax: Axes, x: float, row: dict[Hashable, Any], shown: tuple[np.ndarray, float], words: str
) -> None:
    """One quantile: its interval as a bar, a point, and its value in words."""
    median = row["quantile"] == 0.5
    never = shown[1]
    shade, y = colour(str(row["release"])), min(row["ms"], never)
    low, high = draw_intervals(ax, x, pd.DataFrame([row]), shown, color=shade, lw=1.6, alpha=0.55)
    ax.plot(
        x,
        y,
        marker="o",
        ms=8,
        mew=1.8,
        mfc=shade if median else "none",
        color=shade,
        ls="none",
        gid=f"p{100 * row['quantile']:g} {row['release']} {row['concurrency']}",
    )
    above = not median or math.isinf(row["ms"])
    if words and (low[0] > row["low_ms"] or high[0] < row["high_ms"] < math.inf):
        _say_beside(ax, x, y, words, shade, left=median)  # its bar ends at the figure's edge
    elif words:
        _say(ax, x, float((high if above else low)[0]), words, shade, above=above)


def _say(ax: Axes, x: float, y: float, words: str, shade: str, *, above: bool) -> None:
    ax.annotate(
        words,
        (x, y),
        xytext=(0, 9 if above else -9),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=8.5,
        color=shade,
    )


def _say_beside(ax: Axes, x: float, y: float, words: str, shade: str, *, left: bool) -> None:
    ax.annotate(
        words,
        (x, y),
        xytext=(-8 if left else 8, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8.5,
        color=shade,
    )


def reach(table: pd.DataFrame) -> tuple[np.ndarray, float]:
    """The finite latencies of a latency_table that its axis shows, with intervals no further than
    WIDEST; and where on that axis "never" may stand."""
    values, high = table["ms"].to_numpy(float), table["high_ms"].to_numpy(float)
    finite = values[np.isfinite(values)]
    if finite.size:
        finite = np.r_[finite, np.minimum(high[np.isfinite(high)], WIDEST * finite.max())]
    return finite, 2.2 * float(finite.max()) if finite.size else 2.2


def draw_intervals(
    ax: Axes, x: ArrayLike, rows: pd.DataFrame, shown: tuple[np.ndarray, float], **style: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The intervals of a latency_table's rows as bars at `x`; where their ends stand.

    shown: what `reach` says of the table. A bar ends at "never" where its interval is open, and
    has an arrow where it goes on beyond what is shown: of two or three server lives that differ
    much it may span decades.
    """
    finite, never = shown
    x, low, high = (
        np.atleast_1d(np.asarray(v, float)) for v in (x, rows["low_ms"], rows["high_ms"])
    )
    bottom, top = (finite.min() / LOWEST, finite.max()) if finite.size else (1.0, never)
    ends = [np.where(np.isinf(v), never, np.clip(v, bottom, top)) for v in (low, high)]
    ax.vlines(x, ends[0], ends[1], **style)
    goes_on = (low < bottom, np.isfinite(high) & (high > top))
    for end, cut, mark in zip(ends, goes_on, "v^", strict=True):
        ax.plot(x[cut], end[cut], ls="none", marker=mark, ms=4.5, color=style["color"])
    return ends[0], ends[1]


def latency_axis(ax: Axes, finite: np.ndarray, never: float | None) -> None:
    """Logarithmic milliseconds; with `never`, a band on top for what was not answered."""
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (1.0, 10.0)
    low, high = low / 1.5, high * 1.5
    ticks, names = latency_ticks(low, high)
    ax.set_yscale("log")
    if never is not None:
        ax.axhspan(never / 1.25, never * 1.5, color=DEATH, alpha=0.09, lw=0)
        ticks = [t for t in ticks if t < never / 1.3]
        names = [*names[: len(ticks)], "never"]
        ticks = [*ticks, never]
    ax.set_yticks(ticks, names)
    ax.set_yticks([], minor=True)
    ax.set_ylim(low, never * 1.5 if never is not None else high)
