"""Requests at several concurrencies in, one line a release of how its tail grows out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kit.errors import SpecError
from kit.plots.columns import check_frame
from kit.plots.latency import MEASURES, latency_axis, reach
from kit.plots.style import FAINT, colour, dashes, marker, spread
from kit.plots.titles import latency_title, set_title, varying
from kit.stats.latency import latency_table
from kit.stats.timings import measured
from kit.study.releases import in_order
from kit.study.words import percent


def plot_latency_curve(
    requests: pd.DataFrame, ax: Axes, *, quantile: float = 0.95, latency: str | None = None
) -> Axes:
    """One quantile of all judged requests against concurrency, one line a release.

    requests: as for plot_latency, of one scenario, engine and protocol. For many releases, where
        a mark for each cell would be a crowd. A quantile among requests that were never answered
        stands in the band "never"; the label names the largest share that failed.

    Raises:
        SpecError: more than release and concurrency varies.
    """
    check_frame(
        requests, "requests", ("release", "concurrency", "judged", "ok"), plot="plot_latency_curve"
    )
    mixed = [c for c in varying(requests) if c not in ("release", "concurrency")]
    if mixed:
        raise SpecError(
            f"requests of several values of {', '.join(mixed)}", "one", "draw one figure for each"
        )
    latency = latency or measured(requests)
    table = latency_table(requests, quantiles=(quantile,), latency=latency)
    places = {c: x for x, c in enumerate(sorted(table["concurrency"].unique()))}
    finite, never = reach(table)
    ends = []
    for release in in_order(table["release"]):
        own = table[table["release"] == release].sort_values("concurrency")
        own = own[own["ms"].notna()]  # too few requests: no point, rather than a wrong one
        if own.empty:
            continue
        y = np.minimum(own["ms"].to_numpy(float), never)
        ax.plot(
            own["concurrency"].map(places).to_numpy(float),
            y,
            label=release,
            color=colour(release),
            ls=dashes(release),
            marker=marker(release),
            ms=6,
        )
        failed = own["failed_fraction"].max()
        lost = f" ({percent(failed)} failed)" if failed else ""
        ends.append((release, places[own["concurrency"].iloc[-1]], float(y[-1]), lost))
    latency_axis(ax, finite, never if np.isinf(table["ms"].to_numpy(float)).any() else None)
    low, high = (math.log(edge) for edge in ax.get_ylim())
    heights = spread([(math.log(y) - low) / (high - low) for _, _, y, _ in ends], 0.06, 0.0, 1.0)
    for (release, x, y, lost), height in zip(ends, heights, strict=True):
        ax.annotate(
            release + lost,
            (x, y),
            xytext=(1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour(release),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour(release), "lw": 0.5, "shrinkB": 4},
        )
    ax.set_xticks(range(len(places)), [str(c) for c in places])
    ax.set_xlabel("concurrent clients")
    ax.grid(axis="y")
    ax.set_ylabel(f"p{100 * quantile:g} {MEASURES[latency]} (log scale)", color=FAINT)
    set_title(ax, latency_title(table))
    return ax
