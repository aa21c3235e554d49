"""Plots the KV usage of one trial as each source reported it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.axes import key, percent_axis
from kit.plots.titles import set_title
from kit.servers.watch.names import (
    ENGINE_LOG,
    ENGINE_STEPS,
    KV_USAGE,
    NOT_EXPORTED,
    SOURCE_WORDS,
    STEP,
    TRITON_METRICS,
    VLLM_METRICS,
)
from kit.study.words import listing, percent

#: Peaks that differ by more (of the cache) are not of one cache at one time.
SAME = 0.05
LOOKS: dict[str, dict[str, Any]] = {
    ENGINE_STEPS: {"color": "#8c959f", "lw": 1.0, "zorder": 1},
    TRITON_METRICS: {"color": "#0843be", "ls": "none", "marker": "o", "ms": 4.5, "mec": "white"},
    VLLM_METRICS: {"color": "#0843be", "ls": "none", "marker": "s", "ms": 4.5, "mec": "white"},
    ENGINE_LOG: {"color": "#e7740f", "ls": "none", "marker": "D", "ms": 6.0, "mec": "white"},
}

#: The same in a line of text.
LOOK_MARKS = {ENGINE_STEPS: "──", TRITON_METRICS: "●", VLLM_METRICS: "■", ENGINE_LOG: "◆"}


def plot_sources(samples: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage of one trial over time: the engine's steps as a line, what others saw as marks.

    samples: kit.stats.frames.samples_frame of one trial; reads source, name, t_s, value, labels.
    Steps stand at the time at which their line was read, some at once: each is drawn.
    """
    usage = samples[(samples["name"] == KV_USAGE) & (samples["t_s"] >= 0)]
    is_step = usage["labels"].str.contains(f'"{STEP}"', regex=False).fillna(value=False)
    source = usage["source"].astype(str).mask(is_step.astype(bool), ENGINE_STEPS)
    peaks: dict[str, float] = {}
    drawn: list[str] = []
    for name, look in LOOKS.items():
        rows = usage[source == name].sort_values("t_s", kind="stable")
        if len(rows):
            ax.plot(rows["t_s"], rows["value"], label=SOURCE_WORDS[name], gid=name, **look)
            peaks[SOURCE_WORDS[name]] = float(rows["value"].max())
            drawn.append(name)
    missing = [
        SOURCE_WORDS[s] for s in (ENGINE_LOG, TRITON_METRICS) if SOURCE_WORDS[s] not in peaks
    ]
    percent_axis(ax, "KV cache in use", peak=max(peaks.values(), default=1.0))
    ax.set_xlim(left=0)
    key(
        ax,
        "seconds under load",
        "   ".join(f"{LOOK_MARKS[name]} {SOURCE_WORDS[name]}" for name in drawn),
        f"{listing(missing)}: {NOT_EXPORTED}" if missing else "",
    )
    set_title(ax, _title(peaks))
    return ax


def _title(peaks: dict[str, float]) -> str:
    if not peaks:
        return f"KV usage: {NOT_EXPORTED}"
    if len(peaks) == 1:
        [(source, peak)] = peaks.items()
        return f"Only the {source} tells KV usage: {percent(peak)} at most"
    if max(peaks.values()) - min(peaks.values()) > SAME:
        each = listing([f"{source} {percent(peak)}" for source, peak in peaks.items()])
        return f"The sources do not see the same peak: {each}"
    return f"{listing(list(peaks))[0].upper()}{listing(list(peaks))[1:]} see the same cache"
