"""Samples in, a picture of how full the KV cache was over time, up to each server's death."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.style import DEATH, FAINT, colour, in_order, spread
from kit.plots.titles import kv_title, listing, set_title
from kit.watch.names import NOT_EXPORTED, WATCHER_FAILED

NAME = "kv_usage_fraction"
SOURCES = {"engine_log": "-", "triton_metrics": (0, (4, 1.5)), "vllm_metrics": (0, (1, 1))}
SOURCE_WORDS = {"engine_log": "engine log", "triton_metrics": "Triton metrics"}


def plot_kv_usage(samples: pd.DataFrame, trials: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage against seconds under load, one line a trial and source, in the release's colour.

    samples: kit.frames.samples_frame; reads rows named kv_usage_fraction. trials:
        kit.frames.trials_frame of the same study; reads release, crashed, time_to_death_s,
        watch_fault.
    A cross marks a server's death, at its last known usage. A release of which no trial reports
    usage is named as "not exported", or "watcher failed" if that is why: missing is not 0.
    """
    usage = samples[samples["name"] == NAME]
    last_seen: dict[str, tuple[float, float]] = {}
    seen_sources = [s for s in SOURCES if (usage["source"] == s).any()]
    seen_sources += sorted(set(usage["source"].dropna()) - set(SOURCES))
    for trial in trials.to_dict("records"):
        release = str(trial["release"])
        own = usage[usage["trial_id"] == trial["trial_id"]]
        for source, series in own.groupby("source", observed=True):
            ordered = series.sort_values("t_s")
            ax.plot(
                ordered["t_s"],
                ordered["value"],
                color=colour(release),
                ls=SOURCES.get(str(source), "-."),
                lw=1.4,
                alpha=0.85,
                gid=f"{trial['trial_id']} {source}",
            )
            end = (float(ordered["t_s"].iloc[-1]), float(ordered["value"].iloc[-1]))
            if end[0] >= last_seen.get(release, (-1.0, 0.0))[0]:
                last_seen[release] = end
        before = own[own["t_s"] <= trial["time_to_death_s"]] if trial["crashed"] else own[:0]
        if len(before):
            last = before.sort_values("t_s").iloc[-1]
            ax.plot(  # between its last sample and its death nothing is known
                [last["t_s"], trial["time_to_death_s"]],
                [last["value"]] * 2,
                color=colour(release),
                ls=":",
                lw=1.2,
                gid=f"unknown {trial['trial_id']}",
            )
            ax.plot(
                trial["time_to_death_s"],
                last["value"],
                marker="X",
                ms=11,
                mew=0.8,
                mec="white",
                color=DEATH,
                ls="none",
                zorder=5,
                gid=f"death {trial['trial_id']}",
            )
    _label_lines(ax, last_seen)
    silent = [r for r in in_order(trials["release"]) if r not in last_seen]
    if silent:
        unwatched = set(trials.loc[trials["watch_fault"].notna(), "release"])
        failed = [r for r in silent if r in unwatched]
        without = [r for r in silent if r not in unwatched]
        whys = ((without, NOT_EXPORTED), (failed, WATCHER_FAILED))
        ax.annotate(
            "; ".join(f"{listing(names)}: {why}" for names, why in whys if names),
            (0.02, 0.95),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
            color=FAINT,
            style="italic",
        )
    if len(seen_sources) > 1:
        words = [
            f"{mark} {SOURCE_WORDS.get(source, source)}"
            for source, mark in zip(seen_sources, ("──", "╌╌", "┈┈", "-·"), strict=False)
        ]
        ax.annotate(
            "   ".join(words),
            (0.98, 0.95),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=8.5,
            color=FAINT,
        )
    ax.set_ylim(0, 1.04)
    ax.set_xlim(left=0)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="y")
    ax.set_ylabel("KV cache in use")
    died = bool(trials["crashed"].any())
    ax.set_xlabel("seconds under load" + ("    ✕ server died" if died else ""))
    set_title(ax, kv_title(samples, trials))
    return ax


def _label_lines(ax: Axes, last_seen: dict[str, tuple[float, float]]) -> None:
    """Each release's name in the right margin, with a thread to the end of its longest line."""
    releases = list(last_seen)
    heights = spread([last_seen[r][1] for r in releases], 0.07, 0.02, 1.0)
    for release, y in zip(releases, heights, strict=True):
        ax.annotate(
            release,
            last_seen[release],
            xytext=(1.02, y),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            color=colour(release),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour(release), "lw": 0.5, "shrinkB": 3},
        )
