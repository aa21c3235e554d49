"""The course's own figures; each says one thing in its title, and beneath where it comes from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from kit.plots.axes import latency_ticks
from kit.plots.style import DEATH, FAINT, INK
from kit.plots.titles import set_title
from kit.study.words import percent
from kit.ui.drawing import draw

SAFE, OTHER = "#0843be", "#e7740f"
MODEL = "a model: no server was run"


def plot_interleavings(orders: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One row an order, one square a step, in the colour of its client.

    orders: experiments.interleavings().
    """
    return draw(lambda axes: _interleavings(orders, axes), note=MODEL, height_in=5.2, ax=ax)


def _interleavings(orders: pd.DataFrame, ax: Axes) -> None:
    rows = orders.sort_values("lost").reset_index(drop=True)
    for y, row in enumerate(rows.to_dict("records")):
        for x, step in enumerate(row["order"].split()):
            client = step[0]
            ax.barh(y, 0.94, left=x, color=SAFE if client == "A" else OTHER, height=0.82)
            ax.text(x + 0.47, y, step[2:], ha="center", va="center", color="white", fontsize=6.5)
        ax.text(6.1, y, str(row["final"]), va="center", color=DEATH if row["lost"] else INK)
    lost = int(rows["lost"].sum())
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 6.6)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(
        "time →      client A blue, client B orange; on the right: the counter at the end"
    )
    set_title(ax, f"{lost} of {len(rows)} orders lose an addition, without a faulty step in any")


def plot_open(series: dict[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Requests open at each moment, a step line a trial, labelled at its end.

    series: label -> experiments.open_at of one trial.
    """
    return draw(
        lambda axes: _open(series, axes),
        note="recorded · run kv_real_and_simulated · real Triton, real vLLM",
        height_in=3.4,
        ax=ax,
    )


def _open(series: dict[str, pd.DataFrame], ax: Axes) -> None:
    colours = (SAFE, OTHER, DEATH, INK)
    for colour, (label, frame) in zip(colours, series.items(), strict=False):
        ax.step(frame["t_s"], frame["open"], where="post", color=colour, lw=1.2)
        most = frame["open"].max()
        first_s = frame.loc[frame["open"] == most, "t_s"].iloc[0]
        ax.annotate(label, (first_s, most), xytext=(6, 3), textcoords="offset points", color=colour)
    ax.set_xlim(left=0)
    ax.set_ylim(0, 1.12 * max(frame["open"].max() for frame in series.values()))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("seconds under load")
    ax.set_ylabel("requests open")
    set_title(ax, "One server works on many requests at once")


def plot_reuse(addresses: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of requests that got the address of a live one, against the number of clients.

    addresses: material.addresses(). Bars carry the counts.
    """
    return draw(
        lambda axes: _reuse(addresses, axes),
        note="recorded · data/course/address_reuse.parquet · real Triton, the kit's model streams",
        height_in=3.6,
        ax=ax,
    )


def _reuse(addresses: pd.DataFrame, ax: Axes) -> None:
    shares = addresses.groupby("clients")["reused"].agg(["sum", "size", "mean"])
    places = np.arange(len(shares))
    ax.bar(places, shares["mean"], color=SAFE, width=0.6)
    for place, (reused, size, share) in zip(places, shares.to_numpy().tolist(), strict=True):
        ax.annotate(
            f"{percent(share)}\n{reused:.0f} of {size:.0f}",
            (place, share),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    ax.set_xticks(places, [str(clients) for clients in shares.index])
    ax.set_ylim(0, min(1.3, shares["mean"].max() * 1.25 + 0.05))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("clients (closed loop)")
    ax.set_ylabel("requests at a live request's address")
    one, most = shares["mean"].iloc[0], shares["mean"].max()
    set_title(ax, f"Alone {percent(one)}, together up to {percent(most)}: addresses come back")


def plot_iterations(seen: pd.Series, model: pd.Series, ax: Axes | None = None) -> Axes:
    """Crash iterations of real servers as marks on the distribution that a constant chance gives.

    seen: crash iterations of real trials. model: experiments.crash_iterations.
    """
    return draw(
        lambda axes: _iterations(seen, model, axes),
        note="crosses: recorded lives · line: a model",
        height_in=3.4,
        ax=ax,
    )


def _iterations(seen: pd.Series, model: pd.Series, ax: Axes) -> None:
    values = np.sort(model.to_numpy())
    alive = 1 - np.arange(1, len(values) + 1) / len(values)
    ax.step(values, alive, where="post", color=FAINT, lw=1.4)
    ax.annotate(
        "constant chance a request (model)",
        (values[len(values) // 3], alive[len(values) // 3]),
        xytext=(12, 8),
        textcoords="offset points",
        color=FAINT,
    )
    ordered = np.sort(seen.to_numpy(dtype=float))
    steps = 1 - np.arange(1, len(ordered) + 1) / len(ordered)
    ax.plot(ordered, steps, ls="none", marker="X", ms=9, color=DEATH, mec="white", mew=0.6)
    ax.set_xlim(left=-0.5)
    ax.set_ylim(-0.05, 1.05)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.set_xlabel("requests completed before the crash")
    ax.set_ylabel("servers still alive")
    set_title(
        ax,
        f"{len(ordered)} lives ended after {ordered[0]:.0f} to {ordered[-1]:.0f} requests: "
        "one chance explains them all",
    )


def plot_history(faults: pd.DataFrame, died: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Which release holds which fault by its source, and which of them died when tried.

    faults: history.faults_by_release(). died: columns release, died, trials (of the map).
    """
    return draw(
        lambda axes: _history(faults, died, axes),
        note="bars: public git history · marks: recorded · run release_map",
        height_in=3.0,
        ax=ax,
    )


def _history(faults: pd.DataFrame, died: pd.DataFrame, ax: Axes) -> None:
    names = [column for column in faults.columns if column != "release"]
    places = {release: x for x, release in enumerate(faults["release"])}
    for y, name in enumerate(names):
        held = [places[r] for r in faults.loc[faults[name], "release"]]
        ax.barh([y] * len(held), 1, left=[x - 0.5 for x in held], color=OTHER, height=0.5)
    known = died[died["release"].isin(places)]
    for row in known.to_dict("records"):
        share = row["died"] / row["trials"]
        shape, colour = ("X", DEATH) if share else ("o", SAFE)
        ax.plot(places[row["release"]], len(names), ms=7, mec="white", marker=shape, color=colour)
    ax.set_yticks(
        range(len(names) + 1), [*(name.replace("-", " ") for name in names), "measured here"]
    )
    ax.set_xticks(range(len(places)), list(places), rotation=90, fontsize=7)
    ax.set_ylim(len(names) + 0.6, -0.6)
    ax.set_xlim(-0.8, len(places) - 0.2)
    ax.tick_params(length=0)
    ax.set_xlabel("bar: the source holds the fault    ✕ died when asked late    ● did not")
    set_title(ax, "One fix closed both faults, and a later change opened one again")


def plot_power(powers: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Chance to see at least one death, against the number of trials, a line a chance of dying.

    powers: columns trials, chance, power.
    """
    return draw(lambda axes: _power(powers, axes), note=MODEL, height_in=3.6, ax=ax)


def _power(powers: pd.DataFrame, ax: Axes) -> None:
    chances: list[float] = sorted(powers["chance"].unique().tolist())
    for colour, chance in zip((DEATH, OTHER, SAFE, INK), chances, strict=False):
        rows = powers[powers["chance"] == chance]
        ax.plot(rows["trials"], rows["power"], color=colour, lw=1.6)
        place = rows.iloc[min(len(rows) - 1, int(3 / chance**0.75))]
        ax.annotate(
            f"dies in {percent(chance)} of trials",
            (place["trials"], place["power"]),
            xytext=(8, -12),
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
        )
    ax.axhline(0.9, color=FAINT, lw=0.8, ls=":")
    ax.set_ylim(0, 1.03)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1], ["0 %", "25 %", "50 %", "75 %", "90 %", "100 %"])
    ax.set_xlabel("trials")
    ax.set_ylabel("chance to see a death")
    set_title(ax, "A rare crash needs many trials before silence means anything")


def plot_loops(closed: pd.DataFrame, opened: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The whole latency distribution of the same server, as each kind of loop reports it.

    closed, opened: experiments.queue; reads latency_ms and latency_from_due_ms.
    """
    return draw(lambda axes: _loops(closed, opened, axes), note=MODEL, height_in=3.6, ax=ax)


def _loops(closed: pd.DataFrame, opened: pd.DataFrame, ax: Axes) -> None:
    pairs = (
        ("closed loop, one client", closed["latency_ms"], SAFE),
        ("open loop, counted from when it was due", opened["latency_from_due_ms"], DEATH),
    )
    for label, values, colour in pairs:
        ordered = np.sort(values.to_numpy())
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        ax.step(ordered, share, where="post", color=colour, lw=1.6)
        slow = float((ordered > 100).mean())
        ax.annotate(
            f"{label}: {percent(slow)} over 100 ms",
            (0.98, 0.2 if colour == SAFE else 0.1),
            xycoords="axes fraction",
            ha="right",
            color=colour,
            fontsize=9,
        )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.5, 0.9, 0.99], ["0 %", "50 %", "90 %", "99 %"])
    ax.set_xticks(*latency_ticks(10, 2000))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("latency (log scale)")
    ax.set_ylabel("requests answered within")
    set_title(ax, "The closed loop hides a stall of two seconds")
