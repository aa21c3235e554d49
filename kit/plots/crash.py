"""Plots when servers died: the result strip and survival curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.axes import percent_axis
from kit.plots.columns import check_frame
from kit.plots.style import DEATH, FAINT, colour, dashes, marker, requests_axis, spread
from kit.plots.titles import cell_name, crash_title, set_title, varying
from kit.stats.survival import Clock, at_risk_table, survival_table
from kit.study.hybrids import NO_RELEASE, is_hybrid
from kit.study.releases import in_order
from kit.study.words import ranges

#: Where the first row of trials at risk stands below the axis, and the height of one.
AT_RISK_PT, ROW_PT = 26.0, 11.0

VERBS = {
    "crashed": "crashed",
    "hung": "hung",
    "engine_died": "lost the engine",
    "out_of_memory": "ran out of memory",
    "answers_stopped": "stopped answering",
}


def plot_crash_strip(trials: pd.DataFrame, ax: Axes) -> Axes:
    """One row a release, one mark a trial: filled where the server died, an arrow where not.

    trials: kit.stats.frames.trials_frame; reads release, completed, crashed, counted, verdict and
        the columns that tell cells apart, which get rows of their own if they vary. x: requests
        completed, logarithmic from 1; arrows are censored: the server was alive when its
        requests were done. Right: how many died, of how many.
    """
    check_frame(
        trials,
        "trials",
        ("release", "completed", "crashed", "counted", "verdict"),
        plot="plot_crash_strip",
    )
    by = varying(trials)
    rows = _rows(trials, by)
    furthest = float(trials["completed"].max()) if len(trials) else 1.0
    requests_axis(ax, furthest)
    for y, (label, group) in enumerate(rows):
        release = str(group["release"].iloc[0])
        died, alive = group[group["crashed"]], group[group["counted"] & ~group["crashed"]]
        if len(died):
            ax.axhspan(y - 0.42, y + 0.42, color=DEATH, alpha=0.09, lw=0)
        ax.plot(
            died["completed"].astype(float),
            _jitter(y, len(died)),
            ls="none",
            marker="X",
            ms=10,
            mew=0.8,
            mec="white",
            color=colour(release),
            gid=f"died {label}",
        )
        ax.plot(
            alive["completed"].astype(float),
            _jitter(y, len(alive)),
            ls="none",
            marker=">",
            ms=6.5,
            mew=1.4,
            mfc="none",
            color=colour(release),
            gid=f"survived {label}",
        )
        ax.annotate(
            tally(group),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            color=DEATH if len(died) else FAINT,
            fontweight="bold" if len(died) else "normal",
            annotation_clip=False,
        )
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    hybrid = [is_hybrid(str(group["release"].iloc[0])) for _, group in rows]
    note = _set_apart(ax, hybrid.index(True)) if any(hybrid) else ""
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    label = "requests completed (log scale)    ✕ server died    ▷ still alive when done"
    ax.set_xlabel(label + note)
    set_title(ax, crash_title(trials))
    return ax


def _set_apart(ax: Axes, first: int) -> str:
    """A line above the rows of hybrids, which come last; what to write beneath the axis."""
    ax.axhline(first - 0.5, color=FAINT, lw=1, ls=(0, (4, 3)), gid="hybrids below")
    return f"\nbelow the dashed line: {NO_RELEASE}"


def plot_survival(trials: pd.DataFrame, ax: Axes, *, over: str = "completed") -> Axes:
    """Share of servers still alive after so many requests, one step line per release.

    trials: as for plot_crash_strip. over: "completed" (requests) or "exposure_s" (seconds).
    Band: 95 % log-log Greenwood interval of the Kaplan-Meier estimate. Ticks: censored trials.
    Label: release (died/trials). Beneath: trials at risk, not yet dead or censored.
    """
    check_frame(
        trials,
        "trials",
        ("release", "completed", "crashed", "counted", "verdict"),
        plot="plot_survival",
    )
    curves = _curves(trials[trials["counted"]])
    clock: Clock = "completed" if over == "completed" else "exposure_s"
    named = pd.concat([c.trials.assign(_curve=c.label) for c in curves])
    table = survival_table(named, by="_curve", over=clock)
    if over == "completed":
        requests_axis(ax, float(table["t"].max()))
        ax.set_xlabel("requests completed (log scale)")
    else:
        ax.set_xlim(0, float(table["t"].max()) * 1.04)
        ax.set_xlabel("seconds under load")
    ends = []
    for curve in curves:
        points = table[table["group"] == curve.label]
        t, alive = points["t"].to_numpy(), points["survival"].to_numpy()
        ax.step(
            t,
            alive,
            where="post",
            label=curve.label,
            color=curve.colour,
            ls=curve.dashes,
            marker=curve.marker,
            markevery=[len(t) - 1] if alive[-1] == 0 else [],
        )
        low, high = points["low"], points["high"]
        ax.fill_between(t, low, high, step="post", color=curve.colour, alpha=0.1, lw=0)
        censored = points[points["censored"] > 0]
        ax.plot(
            censored["t"],
            censored["survival"],
            ls="none",
            marker="|",
            ms=12,
            mew=2,
            color=curve.colour,
            gid=f"censored {curve.label}",
        )
        ends.append((float(t[-1]), float(alive[-1])))
    heights = spread([alive for _, alive in ends], 0.085, 0.0, 1.0)
    for curve, end, y in zip(curves, ends, heights, strict=True):
        ax.annotate(
            f"{curve.label} ({tally(curve.trials)})",
            end,
            xytext=(1.02, y),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=curve.colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": curve.colour, "lw": 0.5, "shrinkB": 4},
        )
    _at_risk(ax, named, curves, clock)
    percent_axis(ax, "servers still alive")
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.04, 1.06)
    set_title(ax, crash_title(trials))
    return ax


def _at_risk(ax: Axes, named: pd.DataFrame, curves: list[_Curve], clock: Clock) -> None:
    """A row for each curve beneath the axis: how many trials were at risk at each tick."""
    low, high = ax.get_xlim()
    ticks = [float(t) for t in ax.get_xticks() if low <= t <= high]
    counts = at_risk_table(named, ticks, by="_curve", over=clock)
    for row, curve in enumerate(curves):
        style: dict[str, Any] = {
            "fontsize": 8,
            "color": curve.colour,
            "annotation_clip": False,
            "va": "center",
        }
        down = -(AT_RISK_PT + row * ROW_PT)
        for tick, count in zip(ticks, counts.loc[curve.label], strict=True):
            ax.annotate(
                str(count),
                (tick, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, down),
                textcoords="offset points",
                ha="center",
                gid=f"at risk {curve.label}",
                **style,
            )
        ax.annotate(
            f"{curve.label} at risk",
            (0, 0),
            xycoords="axes fraction",
            xytext=(-16, down),
            textcoords="offset points",
            ha="right",
            gid="row",
            **style,
        )
    ax.xaxis.labelpad = ROW_PT * len(curves) + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    label: str
    trials: pd.DataFrame
    colour: str
    dashes: str | tuple[int, tuple[int, int]] = "-"
    marker: str = "none"


def curve_count(trials: pd.DataFrame) -> int:
    """How many lines plot_survival draws, each with a row beneath."""
    return len(_curves(trials[trials["counted"]]))


def _curves(trials: pd.DataFrame) -> list[_Curve]:
    """One a cell; three or more that never died are one grey line, since they would coincide."""
    rows = _rows(trials, varying(trials))
    alive = [group for _, group in rows if not group["crashed"].any()]
    merged = len(alive) >= 3
    curves = [
        _Curve(
            label=label,
            trials=group,
            colour=colour(release),
            dashes=dashes(release),
            marker=marker(release),
        )
        for label, group in rows
        if not merged or group["crashed"].any()
        for release in [str(group["release"].iloc[0])]
    ]
    if merged:
        together = pd.concat(alive)
        line = in_order(trials["release"])
        safe = set(together["release"])
        label = ranges(safe, line) if len(safe) == len(alive) else f"{len(alive)} others"
        curves.append(_Curve(label=label, trials=together, colour=FAINT))
    return curves


def tally(group: pd.DataFrame) -> str:
    """ "3/3 crashed", "0/3 died", "1/2 hung (+1 no verdict)": what happened, of how many."""
    counted = group[group["counted"]]
    died = counted[counted["crashed"]]
    kinds = died["verdict"].unique()
    verb = VERBS.get(str(kinds[0]), "died") if len(kinds) == 1 else "died"
    left_out = len(group) - len(counted)
    return f"{len(died)}/{len(counted)} {verb}" + (f" (+{left_out} no verdict)" if left_out else "")


def _rows(trials: pd.DataFrame, by: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Label and trials of every cell, oldest release first."""
    place = {release: i for i, release in enumerate(in_order(trials["release"]))}
    groups = [
        (cell_name(dict(zip(by, key, strict=True)), by), group)
        for key, group in trials.groupby(by, sort=False, observed=True, dropna=False)
    ]
    return sorted(groups, key=lambda row: place[str(row[1]["release"].iloc[0])])


def _jitter(y: float, count: int) -> list[float]:
    """Heights around y, so that equal trials do not hide each other."""
    step = min(0.14, 0.6 / max(1, count))
    return [y + step * (i - (count - 1) / 2) for i in range(count)]
