"""Plots where requests wait and how busy the GPU is, from Triton's own metrics."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kit.plots.axes import key, percent_axis
from kit.plots.columns import check_frame
from kit.plots.style import colour
from kit.plots.titles import set_title
from kit.servers.watch.names import (
    ENGINE_LOG,
    NOT_EXPORTED,
    NVML,
    TRITON_METRICS,
    VLLM_METRICS,
    WAITING,
)
from kit.study.releases import in_order
from kit.study.words import listing, percent

#: Requests that Triton has not handed to the model yet; exported from 23.09 on.
PENDING = "nv_inference_pending_request_count"
GPU_BUSY = "nv_gpu_utilization"
GPU_USED, GPU_TOTAL = "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"


def has_queue(samples: pd.DataFrame) -> bool:
    return bool(samples["name"].isin([PENDING, WAITING]).any())


def has_gpu(samples: pd.DataFrame) -> bool:
    return bool(samples["name"].isin([GPU_BUSY, GPU_USED]).any())


def plot_queue(samples: pd.DataFrame, trials: pd.DataFrame, ax: Axes) -> Axes:
    """Requests that wait, against seconds under load: in the engine (line), in Triton (dashes).

    samples: kit.stats.frames.samples_frame. trials: kit.stats.frames.trials_frame of the same
    study. One pair of lines a trial, in its release's colour; of several sources of the engine's
    figure the first of Triton's metrics, vLLM's and the log. A release that does not export
    Triton's is named.
    """
    check_frame(samples, "samples", ("trial_id", "name", "value", "source"), plot="plot_queue")
    most = {"in the engine": 0.0, "in Triton": 0.0}
    told: set[str] = set()
    exposure = dict(zip(trials["trial_id"], trials["exposure_s"], strict=True))
    queues = samples[samples["name"].isin([WAITING, PENDING])]
    for trial, release in zip(trials["trial_id"], trials["release"], strict=True):
        own = queues[queues["trial_id"] == trial]
        waiting = own[(own["name"] == WAITING) & (own["source"] == _engine_source(own))]
        for where, rows, look in (
            ("in the engine", waiting, "-"),
            ("in Triton", own[own["name"] == PENDING], (0, (4, 1.5))),
        ):
            series = summed(rows)
            if series.empty:
                continue
            most[where] = max(most[where], float(series.max()))
            told |= {f"{where} {release}"}
            end = max(float(exposure[trial] or 0.0), float(series.index[-1]))
            ax.plot(
                [*series.index, end],
                [*series, series.iloc[-1]],
                drawstyle="steps-post",
                color=colour(str(release)),
                ls=look,
                lw=1.3,
                alpha=0.85,
                gid=f"{where} {trial}",
            )
    silent = [r for r in in_order(trials["release"]) if f"in Triton {r}" not in told]
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    ax.grid(axis="y")
    ax.set_ylabel("requests waiting")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    key(
        ax,
        "seconds under load",
        "── in the engine   ╌╌ in Triton",
        f"{listing(silent)}: Triton's queue {NOT_EXPORTED}" if silent else "",
    )
    set_title(
        ax,
        f"Most requests that waited: {most['in the engine']:.0f} in the engine, "
        + (
            f"{most['in Triton']:.0f} in Triton"
            if len(silent) < trials["release"].nunique()
            else f"in Triton {NOT_EXPORTED}"
        ),
    )
    return ax


def plot_gpu(samples: pd.DataFrame, trials: pd.DataFrame, ax: Axes) -> Axes:
    """How busy each GPU is (line) and how full its memory (dashes), against seconds under load.

    samples and trials: as for plot_queue; one pair of lines a trial and GPU.
    """
    check_frame(samples, "samples", ("trial_id", "name", "value", "source"), plot="plot_gpu")
    peak = 0.0
    for trial, release in zip(trials["trial_id"], trials["release"], strict=True):
        own = samples[samples["trial_id"] == trial]
        gpus = own[own["name"].str.startswith("nv_gpu_")]
        if (gpus["source"] == NVML).any():  # the driver's own word; Triton's says the same again
            gpus = gpus[gpus["source"] == NVML]
        for gpu, rows in gpus.groupby("labels"):
            wide = rows.pivot_table(index="t_s", columns="name", values="value").ffill()
            lines: dict[str, tuple[Any, Any]] = {"busy": (wide.get(GPU_BUSY), "-")}
            if {GPU_USED, GPU_TOTAL} <= set(wide):
                used = wide[GPU_USED] / wide[GPU_TOTAL]
                lines["memory"] = used, (0, (4, 1.5))
                peak = max(peak, float(used.max()))
            for what, (series, look) in lines.items():
                if series is not None:
                    ax.plot(
                        series.index,
                        series,
                        color=colour(str(release)),
                        ls=look,
                        lw=1.3,
                        alpha=0.85,
                        gid=f"{what} {trial} {gpu}",
                    )
    percent_axis(ax, "GPU")
    ax.set_xlim(left=0)
    key(ax, "seconds under load", "── busy   ╌╌ memory in use")
    set_title(ax, f"GPU memory is at most {percent(peak)} full" if peak else "How busy the GPU is")
    return ax


def _engine_source(rows: pd.DataFrame) -> str | None:
    """The source that the engine's queue is taken from; None: nobody tells it."""
    told = set(rows.loc[rows["name"] == WAITING, "source"])
    return next((s for s in (TRITON_METRICS, VLLM_METRICS, ENGINE_LOG) if s in told), None)


def summed(rows: pd.DataFrame) -> pd.Series:
    """Sum over the labels (models, engines) by time; a value holds until the next one."""
    if len(rows) and (rows["labels"] == rows["labels"].iloc[0]).all():  # as mostly
        return rows.groupby("t_s")["value"].mean()
    wide = rows.pivot_table(index="t_s", columns="labels", values="value", observed=True)
    return wide.sort_index().ffill().sum(axis=1)
