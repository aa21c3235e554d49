"""Frames of the engine experiments in, their two pictures out: faithful?, and whose fault is it?"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.factors import Factor, engine_name, factors
from kit.plots.style import DEATH, FAINT, INK
from kit.plots.titles import listing, set_title
from kit.watch.names import ENGINE_LOG, KV_USAGE, NOT_EXPORTED, PREEMPTIONS

#: Two colours that stay apart in grey and for every eye: the real engine and its model.
ENGINES = {"vllm-cpu": "#0843be", "simulated": "#e7740f"}


def plot_real_and_simulated(samples: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage over time of real vLLM and of the simulated engine under the same traffic.

    samples: kit.frames.samples_frame of one trial of each; reads engine, source, name, t_s,
        value, labels. Time begins when a cache is first in use. Of the real engine every step is
        drawn where its log tells them: the mean of the steps that were read together, and a band
        from the lowest to the highest. An engine that tells no usage is named as such.
    """
    usage = samples[(samples["name"] == KV_USAGE) & (samples["t_s"] >= 0)]
    preempted = samples[samples["name"] == PREEMPTIONS].groupby("engine", observed=True)["value"]
    counts = preempted.max().astype(int).to_dict()
    engines = sorted(samples["engine"].unique(), reverse=True)  # the real one first
    for number, engine in enumerate(engines):
        rows = usage[usage["engine"] == engine]
        colour = _engine_colour(engine)
        steps = rows[(rows["source"] == ENGINE_LOG) & rows["labels"].str.contains('"step"')]
        each = (steps if len(steps) else rows).groupby("t_s")["value"]
        mean, low, high = each.mean(), each.min(), each.max()
        in_use = high.index[high > 0]
        seconds = mean.index.to_numpy() - (in_use.min() if len(in_use) else 0.0)
        ax.plot(seconds, mean, color=colour, lw=1.8, gid=f"usage {engine}")
        if len(steps):
            ax.fill_between(seconds, low, high, color=colour, alpha=0.2, lw=0)
        ax.annotate(
            f"{_who(engine)}: {_preemptions(counts.get(engine))}"
            if len(rows)
            else f"{_who(engine)}: KV usage {NOT_EXPORTED}",
            (0.5, 0.14 - 0.08 * number),
            xycoords="axes fraction",
            ha="center",
            color=colour,
            fontsize=9.5,
        )
    ax.set_ylim(0, 1.04)
    ax.set_xlim(left=0)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="y")
    ax.set_ylabel("KV cache in use")
    ax.set_xlabel("seconds since the first request reached the engine")
    times = [
        f"{_who(engine)} {counts[engine]} times"
        if engine in counts
        else f"{_who(engine)} {NOT_EXPORTED}"
        for engine in engines
    ]
    set_title(ax, f"Preemptions under the same traffic: {listing(times)}")
    return ax


def plot_factors(trials: pd.DataFrame, ax: Axes) -> Axes:
    """Every trial as a mark: releases across, engines down, concurrency from left to right.

    trials: kit.frames.trials_frame of the factor study; fault scenarios that count are drawn.
        A cross is a death, a ring a trial that survived.
    """
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


def _preemptions(count: int | None) -> str:
    return f"preemptions {NOT_EXPORTED}" if count is None else f"{count} preemptions"


def _engine_colour(engine: str) -> str:
    return next((shade for kind, shade in ENGINES.items() if engine.startswith(kind)), INK)


def _who(engine: str) -> str:
    return "simulated engine" if engine.startswith("simulated") else engine_name(engine)
