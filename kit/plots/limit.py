"""Goals and goodput against load, with the limit and its interval marked."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from kit.plots.axes import LineEnd, key, label_ends, say
from kit.plots.columns import check_frame
from kit.plots.style import FAINT
from kit.plots.titles import set_title

#: Of each goal: its colour (Okabe and Ito's, for all kinds of eyes), mark, and name.
_LOOKS = {
    "p95_ttft_ms": ("#0072b2", "o", "p95 TTFT"),
    "p95_itl_ms": ("#009e73", "s", "p95 ITL"),
    "p95_e2e_ms": ("#cc79a7", "D", "p95 latency"),
    "failed": ("#d55e00", "v", "failed"),
    "kv": ("#e69f00", "^", "p95 KV usage"),
    "the server died": ("#c3451a", "X", "died"),
}
UNITS = {"concurrency": "concurrent clients", "rate": "requests a second that were due"}
#: Beyond this many times its goal a value stands at the edge, with what was never answered.
_MOST = 30.0
_LEAST = 0.02

#: Text stays readable where points and lines are.
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}


def plot_limit(
    table: pd.DataFrame,
    ax: Axes,
    *,
    by: str,
    goodput: pd.DataFrame,
    limit: float,
    low: float,
    high: float,
    title: str,
) -> Axes:
    """Each goal's value as a multiple of what is wanted, against load; goodput in bars behind.

    table: kit.stats.limit_study.LimitFound.table; reads load, goal, value, wanted, holds.
    goodput: a row a trial: load, good_per_s. limit, low, high: the limit and its 95 % interval
    (0: below, inf: above the loads that were tried). Above the line at 1 a goal is broken; marks
    there are filled. A server that died stands at the upper edge.
    """
    check_frame(table, "table", ("load", "goal", "value", "wanted", "holds"), plot="plot_limit")
    if table.empty:
        say(ax, "no trial yet")
        return ax
    left, right = 0.8 * table["load"].min(), 1.25 * table["load"].max()
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(left, right)
    ax.set_ylim(_LEAST, 1.6 * _MOST)
    ax.axhline(1.0, color=FAINT, lw=1.2, ls=(0, (4, 2)), gid="goal")
    ends = []
    for goal, own in table.groupby("goal", sort=False):
        shade, mark, name = _LOOKS[str(goal)]
        ratio = np.where(
            own["wanted"] > 0, own["value"] / own["wanted"].where(own["wanted"] > 0), _MOST
        )
        own = own.assign(ratio=np.clip(ratio, 1.3 * _LEAST, _MOST))
        line = own.groupby("load")["ratio"].mean()
        ax.plot(line.index, line, color=shade, lw=1.1, alpha=0.6, gid=f"line {goal}")
        for holds, part in own.groupby("holds"):
            ax.plot(
                part["load"],
                part["ratio"],
                ls="none",
                marker=mark,
                ms=6.5,
                mfc="white" if holds else shade,
                mec=shade,
                label=name,
                gid=f"{'holds' if holds else 'broken'} {goal}",
            )
        ends.append(
            LineEnd(name=name, x=float(line.index[-1]), y=float(line.iloc[-1]), colour=shade)
        )
    label_ends(ax, ends)
    _mark_limit(ax, limit, low, high, left, right)
    _goodput(ax, goodput)
    loads = _apart(sorted(table["load"].unique()), right / left)
    ax.set_xticks(loads, [f"{load:g}" for load in loads])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ticks = [0.1, 1.0, 10.0]
    ax.set_yticks(ticks, ["0.1", "goal", "10 ×"])
    ax.set_ylabel("measured / goal (log scale)", color=FAINT)
    best = float(goodput.groupby("load")["good_per_s"].mean().max())
    grey = f"   grey: good answers a second, 0 to {best:.3g}" if best > 0 else ""
    trials = int(goodput.shape[0])
    key(
        ax,
        f"{UNITS[by]} (log scale)",
        f"n {trials} trial{'' if trials == 1 else 's'}   filled: goal broken{grey}",
    )
    set_title(ax, title)
    return ax


def _mark_limit(ax: Axes, limit: float, low: float, high: float, left: float, right: float) -> None:
    begin, end = max(low, left), min(high, right)
    if begin < end:
        ax.axvspan(begin, end, color=FAINT, alpha=0.15, lw=0, gid="interval")
    if limit > 0 and not math.isinf(limit):
        ax.axvline(limit, color="black", lw=1.6, gid="limit")
        ax.annotate(
            f"limit {limit:g}" if float(limit).is_integer() else f"limit {limit:.3g}",
            (limit, 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            fontsize=9,
            bbox=_BEHIND_TEXT,
        )


def _goodput(ax: Axes, goodput: pd.DataFrame) -> None:
    """Good answers a second as grey stems of their own scale."""
    if goodput.empty or not goodput["good_per_s"].max() > 0:
        return
    mean = goodput.groupby("load")["good_per_s"].mean()
    best = float(mean.max())
    across = ax.get_xaxis_transform()  # heights are shares of the axes
    heights = 0.45 * mean.to_numpy(float) / best
    ax.vlines(mean.index, 0, heights, color="0.75", lw=5, zorder=0, gid="goodput", transform=across)


def _apart(loads: list[float], reach: float) -> list[float]:
    """Those whose names do not overlap on a log axis over so many times the lowest load."""
    kept: list[float] = []
    for load in loads:
        if not kept or math.log(load / kept[-1]) > 0.05 * math.log(reach):
            kept.append(load)
    return kept
