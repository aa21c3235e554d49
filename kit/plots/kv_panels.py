"""KV usage, waiting requests, preemptions and GPU of each release, on one time axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kit.plots.axes import figure_title, percent_axis, say
from kit.plots.kv import draw_death
from kit.plots.queue import GPU_BUSY, GPU_TOTAL, GPU_USED, PENDING, has_gpu, summed
from kit.plots.titles import cell_colours, cell_name, cells_of, kv_title, varying
from kit.servers.watch.names import (
    KV_USAGE,
    NOT_EXPORTED,
    PREEMPTIONS,
    TRITON_METRICS,
    VLLM_METRICS,
    WAITING,
)

#: Columns side by side; more of them begin a new band of rows.
ACROSS = 4
#: More cells than these are drawn together, one column a release.
MOST_COLUMNS = 8
DASHED = (0, (4, 1.5))  # as in plot_queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of a server: which samples, and how it is drawn."""

    label: str
    is_share: bool = False
    lines: Callable[[pd.DataFrame], list[tuple[pd.Series, Any]]]


def panel_size_in(samples: pd.DataFrame, trials: pd.DataFrame) -> tuple[float, float]:
    """Width and height in inches at which plot_kv_panels is readable at half size."""
    across, bands = _grid(len(_columns(trials)[0]))
    return 2.6 + 2.1 * (across - 1) + 2.0 * (across == 1), 1.1 + bands * 1.25 * len(_rows(samples))


def plot_kv_panels(
    samples: pd.DataFrame, trials: pd.DataFrame, figure: Figure
) -> np.ndarray[Any, Any]:
    """A column a release (or cell), a row a figure: KV usage, waiting, preemptions, GPU if told.

    samples: kit.stats.frames.samples_frame; trials: kit.stats.frames.trials_frame of the same
        study. All panels share one time axis (seconds under load) and each row one scale. Returns
        the axes, shape (rows, columns). A figure that a release does not export is said in its
        panel, never drawn as 0. A cross marks a server's death.
    """
    columns, by = _columns(trials)
    rows = _rows(samples)
    across, bands = _grid(len(columns))
    grid = figure.subplots(
        bands * len(rows), across, squeeze=False, sharex=True, gridspec_kw={"hspace": 0.04}
    )
    shades = cell_colours(trials, by)
    axes = np.empty((len(rows), len(columns)), dtype=object)
    tops = [0.0] * len(rows)
    for number, (name, own) in enumerate(columns.items()):
        band, column = divmod(number, across)
        for r, row in enumerate(rows):
            ax = axes[r, number] = grid[band * len(rows) + r, column]
            tops[r] = max(tops[r], _draw(ax, row, samples, own, by, shades))
        dead = int(own["crashed"].sum())
        died = f"{dead}/{len(own)} died" + (" ✕" if dead else "")
        gap = "\n" if len(name) > 12 else "  "
        axes[0, number].set_title(f"{_short(name, trials)}{gap}{died}", fontsize=9, pad=4)
    for spare in list(grid[-len(rows) :, :].T[len(columns) - (bands - 1) * across :].flat):
        spare.set_visible(False)
    for r, row in enumerate(rows):
        for number, ax in enumerate(axes[r]):
            first = number % across == 0
            _scale(ax, row, tops[r], labelled=first)
    axes[0, 0].set_xlim(left=0)
    for number in range(len(columns)):
        if number + across >= len(columns):
            axes[-1, number].set_xlabel("seconds under load", fontsize=8.5)
    figure_title(figure, _title(samples, trials))
    return axes


def _short(name: str, trials: pd.DataFrame) -> str:
    """Without the release, if there is only one and something else tells the cells apart."""
    rest = name.partition(" ")[2]
    return rest if rest and trials["release"].nunique() == 1 else name


def _columns(trials: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Trials of each column, and what its lines are told apart by: one a cell if few, else told
    apart by less, at last by the release alone."""
    by = varying(trials)
    while len(by) > 1 and len(cells_of(trials, by)) > MOST_COLUMNS:
        by = by[:-1]
    names = pd.Series([cell_name(t, by) for t in trials.to_dict("records")], index=trials.index)
    cells = cells_of(trials, by).to_dict("records")
    return {name: trials[names == name] for name in (cell_name(c, by) for c in cells)}, by


def _scale(ax: Axes, row: Row, top: float, *, labelled: bool) -> None:
    if row.is_share:
        percent_axis(ax, row.label, peak=top or 1.0)
        ax.set_yticks(ax.get_yticks()[[0, -1]])
    else:
        ax.set_ylim(0, max(1.0, 1.08 * top))
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.grid(axis="both")
    ax.set_ylabel(row.label if labelled else "", fontsize=8.5)
    ax.tick_params(axis="y", labelleft=labelled)


def _rows(samples: pd.DataFrame) -> list[Row]:
    rows = [
        Row(
            label="KV cache\nin use",
            is_share=True,
            lines=lambda own: [(_level(own, KV_USAGE), "-")],
        ),
        Row(
            label="waiting\n── engine\n╌╌ Triton",
            lines=lambda own: [
                (_level(own, WAITING), "-"),
                (summed(own[own["name"] == PENDING]), DASHED),
            ],
        ),
        Row(label="preemptions\nso far", lines=lambda own: [(_level(own, PREEMPTIONS), "-")]),
    ]
    if has_gpu(samples):
        rows.append(Row(label="GPU\n── busy\n╌╌ memory", is_share=True, lines=_gpu))
    return rows


def _grid(columns: int) -> tuple[int, int]:
    bands = -(-max(1, columns) // ACROSS)
    return -(-max(1, columns) // bands), bands


def _draw(
    ax: Axes,
    row: Row,
    samples: pd.DataFrame,
    trials: pd.DataFrame,
    by: list[str],
    shades: dict[str, str],
) -> float:
    """The lines of one release's trials; returns the highest value."""
    top, drawn = 0.0, False
    for trial in trials.to_dict("records"):
        own = samples[samples["trial_id"] == trial["trial_id"]]
        shade = shades[cell_name(trial, by)]
        for number, (series, dashes) in enumerate(row.lines(own)):
            if series.empty:
                continue
            drawn, top = True, max(top, float(series.max()))
            ax.plot(
                series.index,
                series,
                drawstyle="steps-post",
                color=shade,
                ls=dashes,
                lw=1.2,
                alpha=0.85,
                gid=f"{row.label.split(chr(10))[0]} {trial['trial_id']} {number}",
            )
            if number == 0:
                points = pd.DataFrame({"t_s": series.index, "value": series.to_numpy()})
                draw_death(ax, points, trial, shade)
    if not drawn:
        say(ax, _why_empty(trials))
    return top


def _why_empty(trials: pd.DataFrame) -> str:
    if trials["watch_fault"].notna().any():
        return "the watcher failed"
    return NOT_EXPORTED


def _level(own: pd.DataFrame, name: str) -> pd.Series:
    """A figure over time by the first source that tells it: Triton's metrics, vLLM's, the log."""
    rows = own[own["name"] == name]
    told = list(dict.fromkeys(rows["source"]))
    best = next((s for s in (TRITON_METRICS, VLLM_METRICS) if s in told), None) or next(
        iter(told), None
    )
    rows = rows[rows["source"] == best]
    if name == KV_USAGE:
        return rows.groupby("t_s")["value"].max().sort_index()
    return summed(rows)


def _gpu(own: pd.DataFrame) -> list[tuple[pd.Series, Any]]:
    rows = own[own["name"].isin([GPU_BUSY, GPU_USED, GPU_TOTAL])]
    wide = rows.pivot_table(index="t_s", columns="name", values="value", aggfunc="max").ffill()
    empty = pd.Series(dtype=float)
    used = wide[GPU_USED] / wide[GPU_TOTAL] if {GPU_USED, GPU_TOTAL} <= set(wide) else empty
    return [(wide.get(GPU_BUSY, empty), "-"), (used, DASHED)]


def _title(samples: pd.DataFrame, trials: pd.DataFrame) -> str:
    """What kv_title says, and the most preemptions of a trial if any are told."""
    counts = samples[samples["name"] == PREEMPTIONS].groupby("trial_id", observed=True)["value"]
    most = counts.max()
    said = kv_title(samples, trials)
    if most.empty or trials.empty:
        return said
    highest = int(most.max())
    if not highest:
        return f"{said}; no request is preempted"
    return f"{said}; up to {highest} preemption{'s' if highest > 1 else ''} a trial"
