"""How what a server holds, and how long it takes, changes over a soak."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from kit.plots.axes import LineEnd, key, label_ends, say
from kit.plots.columns import check_frame
from kit.plots.style import FAINT
from kit.plots.titles import set_title

#: One colour a measure (Okabe and Ito's), in the order in which they are drawn.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#cc79a7", "#d55e00")
#: Points of a line: means of equal parts of the run.
_POINTS = 60


def plot_drift(
    series: pd.DataFrame, ax: Axes, *, names: Mapping[str, str], grows: frozenset[str], title: str
) -> Axes:
    """Each measure as a multiple of its median in the first quarter, against requests done.

    series: kit.stats.soak_study.SoakFound.series; reads measure, requests, value. names: of the
    measures. grows: those that were found to grow, drawn bold. A level line at 1 is no drift.
    """
    check_frame(series, "series", ("measure", "requests", "value"), plot="plot_drift")
    ends = []
    for (measure, own), shade in zip(series.groupby("measure", sort=False), _COLOURS, strict=False):
        x, y = own["requests"].to_numpy(float), own["value"].to_numpy(float)
        base = float(np.median(y[x <= np.quantile(x, 0.25)]))
        if not base > 0:
            continue
        parts = np.array_split(np.arange(x.size), min(_POINTS, x.size))
        points = [(x[part].mean(), y[part].mean() / base) for part in parts]
        bold = str(measure) in grows
        ax.plot(
            *zip(*points, strict=True),
            color=shade,
            lw=2.4 if bold else 1.1,
            alpha=1.0 if bold else 0.75,
            gid=f"{'grows' if bold else 'level'} {measure}",
        )
        name = names[str(measure)] + (" grows" if bold else "")
        ends.append(
            LineEnd(name=name, x=float(points[-1][0]), y=float(points[-1][1]), colour=shade)
        )
    if not ends:
        say(ax, "nothing was measured")
    ax.axhline(1.0, color=FAINT, lw=1.0, ls=(0, (4, 2)), gid="level")
    label_ends(ax, ends)
    ax.set_xlim(left=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    ax.set_ylabel("of the level in the first quarter", color=FAINT)
    done = f"{int(series['requests'].max()):,}" if len(series) else "no"
    key(ax, "requests done", f"n {done} requests   bold: grows to the end, and enough to matter")
    set_title(ax, title)
    return ax
