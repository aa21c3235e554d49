"""The whole distribution of a latency, and the time to first token and between tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kit.errors import NotEnoughDataError
from kit.plots.axes import LineEnd, key, latency_ticks, name_lines, percent_axis
from kit.plots.latency import MEASURES, plot_latency
from kit.plots.style import DASHES, DEATH, FAINT
from kit.plots.titles import cell_colours, cell_names, set_title, varying
from kit.stats.latency import LatencySample
from kit.stats.timings import measured
from kit.study.words import listing, milliseconds, percent

#: Quantiles of the gaps between tokens: how they are marked, and in a line of text.
GAP_QUANTILES = ((0.5, "o", "● median"), (0.95, "s", "■ p95"), (0.99, "^", "▲ p99"))


def plot_distribution(requests: pd.DataFrame, ax: Axes, *, latency: str | None = None) -> Axes:
    """Share of all judged requests answered within a time, one step line a cell (ECDF).

    requests: kit.stats.frames.requests_frame. latency: column; None: end to end, as
        kit.stats.timings.measured has it. Failures count as never answered, so a line ends below
        100 % by just their share, which its name says.

    Raises:
        NotEnoughDataError: no judged request.
    """
    latency = latency or measured(requests)
    samples = distribution_samples(requests, latency)
    shades = cell_colours(requests[requests["judged"].to_numpy(bool)], varying(requests))
    ends, finite_ms = [], []
    for number, (name, sample) in enumerate(samples.items()):
        shade = shades[name]
        values, n = sample.values_ms, sample.n
        answered = values[np.isfinite(values)]
        finite_ms += [answered[0], answered[-1]] if answered.size else []
        share = sample.cumulative[: answered.size] / n
        ax.step(
            answered,
            share,
            where="post",
            color=shade,
            ls=DASHES[number % len(DASHES)],
            lw=1.8,
            gid=f"answered {name}",
        )
        lost = f", {percent(sample.failed_fraction)} never" if sample.failed_fraction else ""
        text = f"{name} (n {n:,}{lost})"
        x, y = (answered[-1], share[-1]) if answered.size else (math.nan, 0.0)
        ends.append(LineEnd(name=text, x=float(x), y=float(y), colour=shade))
    low, high = (min(finite_ms), max(finite_ms)) if finite_ms else (1.0, 10.0)
    ax.set_xscale("log")
    ticks, names = latency_ticks(low / 1.2, high * 1.2)
    ax.set_xticks(ticks, names)
    ax.set_xticks([], minor=True)
    ax.set_xlim(low / 1.2, high * 1.2)
    percent_axis(ax, "requests answered")
    if any("never" in end.name for end in ends):
        ax.axhline(1.0, color=DEATH, lw=0.8, ls=":", gid="all requests")
    reached = [
        e if math.isfinite(e.x) else LineEnd(name=e.name, x=low, y=0, colour=e.colour) for e in ends
    ]
    name_lines(ax, reached)
    what = MEASURES[latency]
    key(ax, f"{what} (log scale)", "a line that ends below 100 %: the rest was never answered")
    set_title(ax, distribution_title(samples, latency))
    return ax


def plot_ttft(requests: pd.DataFrame, ax: Axes) -> Axes:
    """Time to first token, median and p95 of each cell; requests: as for plot_latency, streamed.

    Raises:
        NotEnoughDataError: no request was streamed, so that no token has a time of its own.
    """
    if not requests["ttft_ms"].notna().any():
        raise NotEnoughDataError(
            "requests without a time to first token",
            "a streamed protocol",
            'choose protocol="http-generate-stream" or "grpc-stream"',
        )
    return plot_latency(requests, ax, latency="ttft_ms")


def plot_itl(gaps: pd.DataFrame, ax: Axes) -> Axes:
    """Gaps between tokens of each cell: median, p95 and p99 as marks, the longest as a bar's end.

    gaps: kit.stats.frames.token_gaps_frame; reads release, concurrency, itl_ms and what else
        tells cells apart. Gaps of requests that failed later are among them; beneath: n gaps.

    Raises:
        NotEnoughDataError: no gap between tokens.
    """
    if gaps.empty:
        raise NotEnoughDataError(
            "no gap between tokens",
            "a streamed protocol, and answers of two tokens or more",
            'choose protocol="http-generate-stream" or "grpc-stream"',
        )
    by = [
        "release",
        "concurrency",
        *(c for c in varying(gaps) if c not in ("release", "concurrency")),
    ]
    by = [c for c in by if c in varying(gaps)]
    shades = cell_colours(gaps, by)
    labels, longest = [], {}
    names = cell_names(gaps, by)
    for x, (name, shade) in enumerate(shades.items()):
        values = gaps.loc[names == name, "itl_ms"].to_numpy(float)
        longest[name] = float(values.max())
        low = float(np.quantile(values, 0.5, method="inverted_cdf"))
        ax.plot([x, x], [low, longest[name]], color=shade, lw=1.4, alpha=0.55)
        ax.plot(x, longest[name], marker="_", ms=12, mew=2, color=shade, gid=f"longest {name}")
        for quantile, mark, _ in GAP_QUANTILES:
            at = float(np.quantile(values, quantile, method="inverted_cdf"))
            filled = shade if quantile == 0.5 else "none"
            ax.plot(
                x,
                at,
                marker=mark,
                ms=7,
                mfc=filled,
                mew=1.6,
                color=shade,
                gid=f"p{100 * quantile:g} {name}",
            )
        ax.annotate(
            milliseconds(longest[name]),
            (x, longest[name]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=shade,
        )
        labels.append(name.replace(" at ", "\nat ") + f"\nn {values.size:,}")
    low, high = float(gaps["itl_ms"].clip(lower=0.01).quantile(0.4)), max(longest.values())
    ax.set_yscale("log")
    ticks, tick_names = latency_ticks(low / 2, high * 1.5)
    ax.set_yticks(ticks, tick_names)
    ax.set_yticks([], minor=True)
    ax.set_ylim(low / 2, high * 1.8)
    ax.set_xticks(range(len(labels)), labels, fontsize=9 if len(labels) < 8 else 8)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.grid(axis="y")
    ax.set_ylabel("gap between tokens (log scale)", color=FAINT)
    key(ax, "", "   ".join([*(word for _, _, word in GAP_QUANTILES), "━ longest"]))
    worst = max(longest, key=longest.__getitem__)
    middle = float(gaps["itl_ms"].median())
    set_title(
        ax,
        f"Tokens come every {milliseconds(middle)}; the longest wait for one was "
        f"{milliseconds(longest[worst])}" + (f", on {worst}" if len(longest) > 1 else ""),
    )
    return ax


def distribution_samples(requests: pd.DataFrame, latency: str) -> dict[str, LatencySample]:
    """The judged requests of each cell by its name, oldest release first.

    Raises:
        NotEnoughDataError: no judged request.
    """
    judged = requests[requests["judged"].to_numpy(bool)]
    if judged.empty:
        raise NotEnoughDataError("no judged request", "one or more", "run with requests recorded")
    by = varying(requests)
    names = cell_names(judged, by)
    return {
        name: LatencySample.of(judged[names == name], latency) for name in cell_colours(judged, by)
    }


def distribution_title(samples: Mapping[str, LatencySample], latency: str) -> str:
    """What the lines say in a sentence; samples: of each cell by its name."""
    lost = {name: s.failed_fraction for name, s in samples.items() if s.failed_fraction}
    if not lost:
        slowest = max(s.values_ms[-1] for s in samples.values())
        done = "begun" if latency == "ttft_ms" else "answered"
        return f"Every request is {done} within {milliseconds(slowest)}"
    worst = max(lost, key=lost.__getitem__)
    if len(lost) <= 3:
        return f"Never answered: {listing([f'{percent(s)} on {n}' for n, s in lost.items()])}"
    return (
        f"{len(lost)} of {len(samples)} cells leave requests unanswered, "
        f"{worst} most: {percent(lost[worst])}"
    )
