"""Samples in, a picture of how full the KV cache was over time, up to each server's death."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.columns import check_frame
from kit.plots.style import DEATH, FAINT, colour, spread
from kit.plots.titles import kv_title, set_title
from kit.servers.watch.names import (
    ENGINE_LOG,
    KV_USAGE,
    NOT_EXPORTED,
    SOURCE_WORDS,
    TRITON_METRICS,
    VLLM_METRICS,
    WATCHER_FAILED,
)
from kit.study.releases import in_order
from kit.study.words import listing

#: source -> how its lines are drawn, and a mark that looks like it in a line of text
SOURCES = {
    ENGINE_LOG: ("-", "──"),
    TRITON_METRICS: ((0, (4, 1.5)), "╌╌"),
    VLLM_METRICS: ((0, (1, 1)), "┈┈"),
}
OTHER_SOURCE = ("-.", "-·")


def plot_kv_usage(samples: pd.DataFrame, trials: pd.DataFrame, ax: Axes) -> Axes:
    """KV usage against seconds under load, one line a trial and source, in the release's colour.

    samples: kit.stats.frames.samples_frame; reads rows named kv_usage_fraction. trials:
        kit.stats.frames.trials_frame of the same study; reads release, engine, crashed,
        time_to_death_s, watch_fault.
    A cross marks a server's death, at its last known usage. Trials that report no usage, or not
    through a source that others have, are counted as "not exported" by release and engine, or as
    "watcher failed" if that is why: missing is not 0.
    """
    check_frame(samples, "samples", ("trial_id", "name", "value", "source"), plot="plot_kv_usage")
    usage = samples[samples["name"] == KV_USAGE]
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
                ls=SOURCES.get(str(source), OTHER_SOURCE)[0],
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
    if missing := not_exported(usage, trials):
        ax.annotate(
            "\n".join(missing),
            (0.02, 0.95),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
            color=FAINT,
            style="italic",
        )
    if len(seen_sources) > 1:
        words = [
            f"{SOURCES.get(source, OTHER_SOURCE)[1]} {SOURCE_WORDS.get(source, source)}"
            for source in seen_sources
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


def not_exported(usage: pd.DataFrame, trials: pd.DataFrame) -> list[str]:
    """What is missing, a line each: "24.05: not exported", "23.10: not in Triton metrics in 1 of 3
    trials".

    usage: rows of kit.stats.frames.samples_frame that tell it; trials: those that should.
    A server that died may not have lived to its first sample, which is then said instead.
    """
    with_engine = trials["engine"].nunique() > 1
    told: dict[Any, set[str]] = {}
    for trial, source in usage[["trial_id", "source"]].drop_duplicates().itertuples(index=False):
        told.setdefault(trial, set()).add(source)
    wanted = [s for s in SOURCES if (usage["source"] == s).any()]
    lines: dict[str, list[str]] = {}
    for release in in_order(trials["release"]):
        of_release = trials[trials["release"] == release]
        for engine, group in of_release.groupby("engine", observed=True):
            who = f"{release} {engine}" if with_engine else release
            for what in _lacks(group, told, wanted):
                lines.setdefault(what, []).append(who)
    return [f"{listing(who)}: {what}" for what, who in lines.items()]


def _lacks(group: pd.DataFrame, told: Mapping[Any, set[str]], wanted: list[str]) -> list[str]:
    """What the trials of one release and engine do not tell."""
    quiet = group[~group["trial_id"].isin(list(told))]
    failed = quiet["watch_fault"].notna()
    found = [f"{WATCHER_FAILED}{_part(int(failed.sum()), len(group))}"] if failed.any() else []
    if len(quiet) == len(group) and not failed.any():
        return [NOT_EXPORTED]
    early = int((quiet["crashed"] & ~failed).sum())
    found += [f"no sample before death in {early} of {len(group)} trials"] if early else []
    silent = int((~quiet["crashed"] & ~failed).sum())
    lived = group[~group["crashed"]]
    found += [f"{NOT_EXPORTED}{_part(silent, len(lived))}"] if silent else []
    for source in wanted:
        without = sum(source not in told[t] for t in lived["trial_id"] if t in told)
        if without:
            found.append(f"not in {SOURCE_WORDS[source]}{_part(without, len(lived))}")
    return found


def _part(some: int, of: int) -> str:
    return "" if some == of else f" in {some} of {of} trials"


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
