"""One trial's samples in, its KV usage as each source saw it out."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.style import FAINT, INK
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


def plot_sources(samples: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage of one trial over time: the engine's steps as a line, what others saw as marks.

    samples: kit.stats.frames.samples_frame of one trial; reads source, name, t_s, value, labels.
    Steps stand at the time at which their line was read, some at once: each is drawn.
    """
    usage = samples[(samples["name"] == KV_USAGE) & (samples["t_s"] >= 0)]
    is_step = usage["labels"].str.contains(f'"{STEP}"', regex=False).fillna(value=False)
    source = usage["source"].astype(str).mask(is_step.astype(bool), ENGINE_STEPS)
    peaks: dict[str, float] = {}
    for name, look in LOOKS.items():
        rows = usage[source == name].sort_values("t_s", kind="stable")
        if len(rows):
            ax.plot(rows["t_s"], rows["value"], label=SOURCE_WORDS[name], gid=name, **look)
            peaks[SOURCE_WORDS[name]] = float(rows["value"].max())
    missing = [
        SOURCE_WORDS[s] for s in (ENGINE_LOG, TRITON_METRICS) if SOURCE_WORDS[s] not in peaks
    ]
    if missing:
        ax.annotate(
            f"{listing(missing)}: {NOT_EXPORTED}",
            (0.98, 0.04),
            xycoords="axes fraction",
            ha="right",
            fontsize=9,
            color=FAINT,
            style="italic",
        )
    if peaks:
        ax.legend(loc="upper right", ncols=len(peaks), fontsize=8.5, labelcolor=INK)
    ax.set_ylim(0, 1.18)  # room for the legend
    ax.set_xlim(left=0)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="y")
    ax.set_ylabel("KV cache in use")
    ax.set_xlabel("seconds under load")
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
