"""Plots the factor experiment: does Triton's release or vLLM decide which servers crash?"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.columns import check_frame
from kit.plots.style import DEATH, FAINT, INK
from kit.plots.titles import set_title
from kit.stats.factors import Factor, engine_name, factors
from kit.study.words import listing


def plot_factors(trials: pd.DataFrame, ax: Axes) -> Axes:
    """Every trial as a mark: releases across, engines down, concurrency from left to right.

    trials: kit.stats.frames.trials_frame of the factor study; fault scenarios that count are drawn.
        A cross is a death, a ring a trial that survived.
    """
    check_frame(
        trials,
        "trials",
        ("release", "engine", "concurrency", "crashed", "counted", "kind"),
        plot="plot_factors",
    )
    faults = trials[trials["counted"] & (trials["kind"] == "fault")]
    place = faults.groupby(["release", "engine", "concurrency"], observed=True).cumcount()
    releases, engines, loads = (
        sorted(faults[name].unique()) for name in ("release", "engine", "concurrency")
    )
    marks: dict[bool, dict[str, Any]] = {
        True: {"marker": "X", "color": DEATH, "mec": "white", "mew": 0.6, "ms": 9},
        False: {"marker": "o", "color": "none", "mec": INK, "mew": 1.1, "ms": 7},
    }
    for died, style in marks.items():
        rows = faults[faults["crashed"] == died]
        shift = (rows["concurrency"].map(loads.index) + 0.5) / len(loads) - 0.5
        ax.plot(
            rows["release"].map(releases.index) + 0.7 * shift,
            rows["engine"].map(engines.index) + 0.22 * (place[rows.index] - place.max() / 2),
            ls="none",
            gid="died" if died else "survived",
            **style,
        )
    for x, release in enumerate(releases):
        own = faults[faults["release"] == release]
        ax.annotate(
            f"{int(own['crashed'].sum())} of {len(own)} crashed",
            (x, len(engines) - 0.45),
            ha="center",
            va="top",
            fontsize=9,
            color=FAINT,
        )
    ax.set_xticks(range(len(releases)), [f"Triton {release}" for release in releases])
    ax.set_yticks(range(len(engines)), [engine_name(engine) for engine in engines])
    ax.set_xlim(-0.5, len(releases) - 0.5)
    ax.set_ylim(len(engines) - 0.25, -0.5)
    ax.tick_params(length=0)
    ax.set_xlabel(
        f"in each field: concurrency {listing([str(load) for load in loads])} from left to right"
        "    ✕ server died   ○ survived"
    )
    by_name = {factor.name: factor for factor in factors(trials)}
    set_title(ax, _factor_title(by_name["release"], by_name["engine"]))
    return ax


def _factor_title(release: Factor, engine: Factor) -> str:
    if release.matters and engine.matters:
        return "Crashes depend on Triton's release and on the engine"
    if not (release.matters or engine.matters):
        return "These trials do not tell whether Triton or vLLM decides"
    decides, other = (release, engine) if release.matters else (engine, release)
    words = {
        "release": "Triton's release",
        "engine": "vLLM" if decides is release else "the engine",
    }
    rest = "does not" if other.changes_nothing else "shows no effect"
    who = words[decides.name][0].upper() + words[decides.name][1:]
    return f"{who} decides which servers crash; {words[other.name]} {rest}"
