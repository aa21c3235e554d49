"""Two releases, engines or studies under the same traffic: deaths and latency side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.plots.axes import figure_title, key, say
from kit.plots.style import CELL_COLOURS, FAINT, colour
from kit.stats.compare import Comparison, headline
from kit.stats.intervals import share

_RATIO = "#5a76e4"
#: Ticks of a ratio's axis that reaches less far than the number before them.
RATIO_TICKS = (
    (2.2, (0.5, 0.8, 1, 1.25, 2)),
    (6.0, (0.2, 0.5, 1, 2, 5)),
    (math.inf, (0.001, 0.01, 0.1, 1, 10, 100, 1000)),
)


def plot_compare(
    found: Sequence[Comparison], figure: Figure, *, by: str = "release"
) -> np.ndarray[Any, Any]:
    """Left: share of servers that died, of both; right: the ratio of their median latencies.

    found: of kit.stats.compare.compare, one or more. by: as there. One row a traffic that both
        had. Left bars: 95 % intervals of Clopper and Pearson. Right: the first's median over the
        second's with its 95 % interval; 1 is "the same". Returns the two axes.
    """
    names = (found[0].first.name, found[0].second.name)
    shades = _shades(names, by)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    known = any(_is_known(one) for one in found)
    for y, one in enumerate(found):
        _deaths(left, y, one, shades)
        _latency(right, y, one, at=1.02 if known else 0.06)
    left.set_yticks(range(len(found)), [one.traffic for one in found])
    left.set_ylim(len(found) - 0.4, -0.6)
    left.tick_params(axis="y", length=0)
    left.set_xlim(-0.04, 1.04)
    left.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    key(left, "servers that died", f"● {names[0]}   □ {names[1]}   bars: 95 % intervals")
    _ratio_axis(right, found, names)
    figure_title(figure, headline(found))
    return np.array([left, right], dtype=object)


def compare_size_in(traffics: int) -> tuple[float, float]:
    """Width and height in inches of plot_compare with so many rows."""
    return 7.2, 1.9 + 0.55 * traffics


def _shades(names: tuple[str, str], by: str) -> dict[str, str]:
    if by == "release":
        return {name: colour(name) for name in names}
    return dict(zip(names, CELL_COLOURS, strict=False))


def _deaths(ax: Axes, y: int, one: Comparison, shades: dict[str, str]) -> None:
    for side, shift, mark in ((one.first, -0.16, "o"), (one.second, 0.16, "s")):
        part = share(side.died, side.trials)
        shade = shades[side.name]
        ax.plot([part.low, part.high], [y + shift] * 2, color=shade, lw=1.8, alpha=0.6)
        ax.plot(
            part.value,
            y + shift,
            marker=mark,
            ms=8,
            mew=1.8,
            mfc=shade if mark == "o" else "none",
            color=shade,
            ls="none",
            gid=f"died {side.name} {one.traffic}",
        )
        at_end = part.value > 0.7
        ax.annotate(
            f"{side.died}/{side.trials}",
            (part.value, y + shift),
            xytext=(-9 if at_end else 9, 5),
            textcoords="offset points",
            ha="right" if at_end else "left",
            fontsize=8.5,
            color=shade,
        )


def _is_known(one: Comparison) -> bool:
    return one.median_latency is not None and 0 < one.median_latency.value < math.inf


def _latency(ax: Axes, y: int, one: Comparison, at: float) -> None:
    """The ratio with its interval, and in words at `at`, a share of the axes' width."""
    ratio = one.median_latency
    if ratio is None or not _is_known(one):
        words = "not enough requests"
        if ratio is not None:
            words = f"never on {one.first.name if ratio.value else one.second.name}"
        _words(ax, (at, y), words, color=FAINT, style="italic")
        return
    low, high = max(ratio.low, 1e-3), min(ratio.high, 1e3)
    ax.plot([low, high], [y, y], color=_RATIO, lw=1.8, alpha=0.7)
    ax.plot(ratio.value, y, marker="D", ms=7, color=_RATIO, ls="none", gid=f"ratio {one.traffic}")
    _words(ax, (at, y), f"{ratio.value:.2f}×", color=_RATIO)


def _words(ax: Axes, at: tuple[float, int], words: str, **look: Any) -> None:
    ax.annotate(
        words,
        at,
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8.5,
        annotation_clip=False,
        **look,
    )


def _ratio_axis(ax: Axes, found: Sequence[Comparison], names: tuple[str, str]) -> None:
    known = [
        bound
        for one in found
        if one.median_latency is not None and _is_known(one)
        for bound in (one.median_latency.low, one.median_latency.high, one.median_latency.value)
        if 0 < bound < math.inf
    ]
    ax.tick_params(axis="y", length=0)
    if not known:
        ax.set_xticks([])
        say(ax, "")
        key(ax, "median latency")
        return
    ax.set_xscale("log")
    reach = max(1.3, *(max(b, 1 / b) for b in known)) * 1.15
    ax.set_xlim(1 / reach, reach)
    steps = next(s for most, s in RATIO_TICKS if reach < most)
    ticks = [t for t in steps if 1 / reach <= t <= reach]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.axvline(1.0, color=FAINT, lw=1.0, ls="--", gid="the same")
    key(ax, "median latency (log scale)", f"{names[0]} over {names[1]}")
