"""Latency against load, one line a release: how its tail grows with clients or with the rate."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kit.errors import SpecError
from kit.plots.axes import LineEnd, key, label_ends, say
from kit.plots.columns import check_frame
from kit.plots.latency import MEASURES, draw_intervals, latency_axis, reach
from kit.plots.style import FAINT, colour, dashes, marker
from kit.plots.titles import latency_title, set_title, varying
from kit.stats.latency import OFFERED, latency_table
from kit.stats.throughput import offered_rate, throughput_table
from kit.stats.timings import measured
from kit.study.releases import in_order
from kit.study.words import percent

RATE = "rate"
LOADS = {"concurrency": "concurrent clients", RATE: "requests a second that were due"}


def with_load(requests: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The requests, and the column that says how much load they are of.

    An open loop's load is its rate: the column rate, measured from the schedule where the
    frame has none. A closed loop's is its concurrency.
    """
    if not bool(requests["open_loop"].all()) or requests.empty:
        return requests, "concurrency"
    if RATE in requests and requests[RATE].notna().any():
        return requests, RATE
    if OFFERED in requests:
        return requests.assign(**{RATE: requests[OFFERED]}), RATE
    return requests.assign(**{RATE: offered_rate(requests)}), RATE


def plot_latency_curve(
    requests: pd.DataFrame, ax: Axes, *, quantile: float = 0.95, latency: str | None = None
) -> Axes:
    """One quantile of all judged requests against concurrency (or rate), one line a release.

    requests: kit.stats.frames.requests_frame, of one scenario, engine and protocol, as for
        plot_latency. latency: as there. Upright bars: 95 % intervals. Hollow marks: some of the
        requests failed; the name says the largest share. A quantile among requests that were
        never answered stands in the band "never".

    Raises:
        SpecError: more than release and load varies.
    """
    check_frame(
        requests, "requests", ("release", "concurrency", "judged", "ok"), plot="plot_latency_curve"
    )
    mixed = [c for c in varying(requests) if c not in ("release", "concurrency", RATE)]
    if mixed:
        raise SpecError(
            f"requests of several values of {', '.join(mixed)}", "one", "draw one figure for each"
        )
    latency = latency or measured(requests)
    requests, load = with_load(requests)
    table = latency_table(requests, ["release", load], quantiles=(quantile,), latency=latency)
    places = {c: x for x, c in enumerate(sorted(table[load].dropna().unique()))}
    finite, never = reach(table)
    ends = []
    releases = in_order(table["release"])
    for number, release in enumerate(releases):
        own = table[table["release"] == release].sort_values(load)
        own = own[own["ms"].notna()]  # too few requests: no point, rather than a wrong one
        if own.empty:
            continue
        aside = 0.22 * ((number + 0.5) / len(releases) - 0.5)  # intervals side by side
        x = own[load].map(places).to_numpy(float) + aside
        y = np.minimum(own["ms"].to_numpy(float), never)
        shade, mark = colour(release), marker(release)
        ax.plot(x, y, label=release, color=shade, ls=dashes(release), marker=mark, ms=6)
        failed = own["failed_fraction"].to_numpy(float)
        ax.plot(
            x[failed > 0],
            y[failed > 0],
            ls="none",
            marker=mark,
            ms=7.5,
            mfc="white",
            mec=shade,
            mew=1.6,
            gid=f"some failed {release}",
        )
        style = {"color": shade, "lw": 1.4, "alpha": 0.55, "gid": f"interval {release}"}
        draw_intervals(ax, x, own, (finite, never), **style)
        lost = f" ({percent(failed.max())} failed)" if failed.max() else ""
        ends.append(LineEnd(name=release + lost, x=float(x[-1]), y=float(y[-1]), colour=shade))
    infinite = np.isinf(table[["ms", "high_ms"]].to_numpy(float)).any()
    latency_axis(ax, finite, never if infinite else None)
    ax.set_xlim(-0.4, max(1, len(places)) - 0.6)
    if not ends:
        say(ax, f"too few requests in each cell for p{100 * quantile:g}")
    label_ends(ax, ends)
    ax.set_xticks(range(len(places)), [f"{c:g}" for c in places])
    counts = table.groupby("release", observed=True)["n"].sum()
    n = f"n {counts.min():,} to {counts.max():,} requests a release" if len(counts) > 1 else ""
    n = n or f"n {int(counts.sum()):,} requests"
    hollow = "hollow: some failed" if (table["failed_fraction"] > 0).any() else ""
    key(ax, LOADS[load], "   ".join(filter(None, [n, "bars: 95 % intervals", hollow])))
    ax.grid(axis="y")
    ax.set_ylabel(f"p{100 * quantile:g} {MEASURES[latency]} (log scale)", color=FAINT)
    set_title(ax, latency_title(table))
    return ax


def plot_pareto(requests: pd.DataFrame, ax: Axes, *, quantile: float = 0.95) -> Axes:
    """Throughput against a latency quantile, a point a load, joined for each release.

    requests: as for plot_latency_curve. Right and low is good. x: right answers a second, mean
        over trials; y: the quantile of all judged requests. Each point is labelled with its load, a
        line with the largest share of requests that failed, where some did.
        Bars: 95 % intervals; there is none across for a single trial.

    Raises:
        SpecError: more than release and load varies.
    """
    mixed = [c for c in varying(requests) if c not in ("release", "concurrency", RATE)]
    if mixed:
        raise SpecError(
            f"requests of several values of {', '.join(mixed)}", "one", "draw one figure for each"
        )
    latency = measured(requests)
    requests, load = with_load(requests)
    by = ["release", load]
    slow = latency_table(requests, by, quantiles=(quantile,), latency=latency)
    table = slow.merge(throughput_table(requests, by)[[*by, *_RATES]], on=by)
    table = table[table["ms"].notna()]
    finite, never = reach(table)
    ends = []
    for release in in_order(table["release"]):
        own = table[table["release"] == release].sort_values(load)
        x, y = own["answers_per_s"].to_numpy(float), np.minimum(own["ms"].to_numpy(float), never)
        shade = colour(release)
        ax.plot(x, y, label=release, color=shade, ls=dashes(release), marker=marker(release), ms=6)
        draw_intervals(ax, x, own, (finite, never), color=shade, lw=1.3, alpha=0.5)
        across = own[own["low_per_s"].notna()]
        ax.hlines(
            np.minimum(across["ms"].to_numpy(float), never),
            across["low_per_s"],
            across["high_per_s"],
            color=shade,
            lw=1.3,
            alpha=0.5,
        )
        for px, py, row in zip(x, y, own.to_dict("records"), strict=True):
            ax.annotate(
                f"{row[load]:g}",
                (px, py),
                xytext=(-5, 6),
                textcoords="offset points",
                ha="right",
                fontsize=8.5,
                color=shade,
                gid=f"load {release} {row[load]:g}",
            )
        failed = own["failed_fraction"].max()
        lost = f" ({percent(failed)} failed)" if failed else ""
        ends.append(LineEnd(name=release + lost, x=float(x[-1]), y=float(y[-1]), colour=shade))
    infinite = np.isinf(table[["ms", "high_ms"]].to_numpy(float)).any()
    latency_axis(ax, finite, never if infinite else None)
    ax.set_xlim(0, 1.25 * float(table["answers_per_s"].max()) if len(table) else 1.0)
    label_ends(ax, ends)
    ax.grid(axis="both")
    unit = "concurrent clients" if load == "concurrency" else "requests a second due"
    n = int(table["n"].sum())
    key(ax, "right answers a second", f"numbers: {unit}   bars: 95 % intervals   n {n:,} requests")
    ax.set_ylabel(f"p{100 * quantile:g} {MEASURES[latency]} (log scale)", color=FAINT)
    set_title(ax, _pareto_title(table, load, quantile))
    return ax


_RATES = ["answers_per_s", "low_per_s", "high_per_s"]


def _pareto_title(table: pd.DataFrame, load: str, quantile: float) -> str:
    """Who serves most, at which load, and what more load brings."""
    if table.empty:
        return "Too few requests to tell throughput and latency"
    best = table.sort_values("answers_per_s").iloc[-1]
    unit = "clients" if load == "concurrency" else "requests/s"
    said = f"{best['release']} answers most: {best['answers_per_s']:.3g}/s at {best[load]:g} {unit}"
    own = table[(table["release"] == best["release"]) & (table[load] > best[load])]
    if own.empty:
        return said
    worst = own["ms"].max()
    times = "an endless" if math.isinf(worst) else f"{worst / best['ms']:.2g} times the"
    return f"{said}; more load only brings {times} p{100 * quantile:g}"
