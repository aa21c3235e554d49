"""Plots KV-cache usage over time, up to each server's death."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.axes import LineEnd, key, name_lines, percent_axis
from kit.plots.columns import check_frame
from kit.plots.style import INK
from kit.plots.titles import cell_colours, cell_name, kv_title, set_title, varying
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
    """KV usage against seconds under load, one line a trial and source.

    samples: kit.stats.frames.samples_frame; reads rows named kv_usage_fraction. trials:
        kit.stats.frames.trials_frame of the same study; reads release, engine, concurrency,
        crashed, time_to_death_s, watch_fault.
    Lines have their release's colour, or one a cell if there is only one release; what tells
    cells apart is written at the end of their longest line. A cross with a dark edge marks a
    server's death, at its last known usage. Trials that report no usage, or not through a source
    that others have, are counted as "not exported" by release and engine, or as "watcher failed"
    if that is why: missing is not 0. The axis ends below 100 % where usage stays low, and says so.
    """
    check_frame(samples, "samples", ("trial_id", "name", "value", "source"), plot="plot_kv_usage")
    usage = samples[samples["name"] == KV_USAGE]
    by = varying(trials)
    shades = cell_colours(trials, by)
    ends: dict[str, LineEnd] = {}
    seen_sources = [s for s in SOURCES if (usage["source"] == s).any()]
    seen_sources += sorted(set(usage["source"].dropna()) - set(SOURCES))
    for trial in trials.to_dict("records"):
        name = cell_name(trial, by)
        own = usage[usage["trial_id"] == trial["trial_id"]]
        for source, series in own.groupby("source", observed=True):
            ordered = series.sort_values("t_s")
            ax.plot(
                ordered["t_s"],
                ordered["value"],
                color=shades[name],
                ls=SOURCES.get(str(source), OTHER_SOURCE)[0],
                lw=1.4,
                alpha=0.85,
                gid=f"{trial['trial_id']} {source}",
            )
            x, y = _shoulder(ordered)
            if name not in ends or x > ends[name].x:
                ends[name] = LineEnd(name=name, x=x, y=y, colour=shades[name])
        end = draw_death(ax, own, trial, shades[name])
        if end is not None and (name not in ends or end[0] > ends[name].x):
            ends[name] = LineEnd(name=name, x=end[0], y=end[1], colour=shades[name])
    percent_axis(ax, "KV cache in use", peak=float(usage["value"].max()) if len(usage) else 1.0)
    ax.set_xlim(left=0)
    name_lines(ax, [ends[name] for name in shades if name in ends])
    died = bool(trials["crashed"].any())
    words = [
        f"{SOURCES.get(source, OTHER_SOURCE)[1]} {SOURCE_WORDS.get(source, source)}"
        for source in seen_sources
    ]
    key(
        ax,
        "seconds under load" + ("    ✕ server died" if died else ""),
        "   ".join(words) if len(words) > 1 else "",
        *not_exported(usage, trials),
    )
    set_title(ax, kv_title(samples, trials))
    return ax


def _shoulder(series: pd.DataFrame) -> tuple[float, float]:
    """The last point at which the cache was still well in use, since most lines end at 0."""
    high = series[series["value"] >= 0.5 * series["value"].max()]
    return float(high["t_s"].iloc[-1]), float(high["value"].iloc[-1])


def draw_death(
    ax: Axes, series: pd.DataFrame, trial: Mapping[Hashable, Any], shade: str
) -> tuple[float, float] | None:
    """A cross where the server died, at its last known value; returns where. None: it did not
    die, or nothing was known before.

    series: rows of samples_frame of one figure of the trial; trial: its row of trials_frame.
    """
    if not trial["crashed"]:
        return None
    before = series[series["t_s"] <= trial["time_to_death_s"]]
    if before.empty:
        return None
    last = before.sort_values("t_s").iloc[-1]
    x, y = float(trial["time_to_death_s"]), float(last["value"])
    ax.plot(  # between its last sample and its death nothing is known
        [last["t_s"], x], [y, y], color=shade, ls=":", lw=1.2, gid=f"unknown {trial['trial_id']}"
    )
    ax.plot(
        x,
        y,
        marker="X",
        ms=9,
        mew=0.9,
        mec=INK,
        color=shade,
        ls="none",
        zorder=5,
        gid=f"death {trial['trial_id']}",
    )
    return x, y


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
