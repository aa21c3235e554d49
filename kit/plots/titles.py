"""Computes the sentence that stands over a plot, so that it cannot contradict the data."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kit.plots.style import CELL_COLOURS, colour
from kit.stats.returns import returns
from kit.study.grid import COLUMNS
from kit.study.hybrids import beside_the_line, on_the_line, together
from kit.study.releases import in_order, neighbours
from kit.study.sequential import Decision
from kit.study.words import in_lines, listing, milliseconds, percent, ranges

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Verdicts of a cell that say something of its release.
DECIDED = frozenset({Decision.CRASHES, Decision.SURVIVES})
#: What tells cells apart; those of them that vary in a frame must not be pooled.
CELL = ("release", "scenario", "engine", "concurrency", "protocol")


def varying(frame: pd.DataFrame, among: Sequence[str] | None = None) -> list[str]:
    """`release`, and every other column of `among` with more than one value.

    among: None: CELL, and the traffic fields that the frame's study varied.
    """
    if among is None:
        among = [*CELL, *(name for name in COLUMNS if name in frame.columns and name not in CELL)]
    return [c for c in among if c == "release" or frame[c].nunique(dropna=False) > 1]


def cell_name(row: Mapping[Hashable, object], by: Sequence[str]) -> str:
    """What a cell is called in a figure: "23.10 at 16"; `by` as `varying` has it."""
    return " ".join(cell_word(c, row[c]) for c in by)


def cell_word(column: str, value: object) -> str:
    """One value of a cell in few letters: "23.10", "at 16", "rate 5", "prompt 16–128"."""
    if column == "concurrency":
        return f"at {value}"
    if column in CELL:
        return str(value)
    between = re.fullmatch(r"uniform\((\S+),(\S+)\)", str(value))
    amount = "{}–{}".format(*between.groups()) if between else value
    return f"{column.removesuffix('_tokens').replace('_', ' ')} {amount}"


def cells_of(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a cell: oldest release first, then by what else there is."""
    place = {release: i for i, release in enumerate(in_order(frame["release"]))}
    cells = frame[list(by)].drop_duplicates()
    cells = cells.assign(_place=cells["release"].astype(str).map(place))
    rest = [c for c in by if c != "release"]
    return cells.sort_values(["_place", *rest], kind="stable").drop(columns="_place")


def cell_colours(frame: pd.DataFrame, by: Sequence[str]) -> dict[str, str]:
    """Colour of each cell by its name: its release's; where there is only one release, one each."""
    cells = cells_of(frame, by)
    names = [cell_name(row, by) for row in cells.to_dict("records")]
    releases = [str(release) for release in cells["release"]]
    if len(set(releases)) > 1 or len(names) == 1:
        return {name: colour(release) for name, release in zip(names, releases, strict=True)}
    return {name: CELL_COLOURS[i % len(CELL_COLOURS)] for i, name in enumerate(names)}


def cell_names(frame: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Of each row, the name of its cell."""
    cells = frame[list(by)].drop_duplicates()
    known = {tuple(row[c] for c in by): cell_name(row, by) for row in cells.to_dict("records")}
    keys = zip(*(frame[c] for c in by), strict=True)
    return pd.Series([known[key] for key in keys], index=frame.index, dtype="string")


def crash_title(trials: pd.DataFrame) -> str:
    """What the trials of one scenario say about the releases, and about hybrids apart from them."""
    counted = trials[trials["counted"]]
    named = in_order(counted["release"])
    line, hybrids = on_the_line(named), beside_the_line(named)
    if hybrids:
        whole = counted["release"].astype(str)
        died = counted.groupby("release", observed=True)["crashed"].any()
        bad = [name for name in hybrids if died[name]]
        good = [name for name in hybrids if not died[name]]
        said = [f"{together(bad)} {_verb('crash', bad)}"] if bad else []
        said += [f"{together(good)} {_verb('survive', good)}"] if good else []
        beside = f"{', '.join(said)} ({_no_release(hybrids)})"
        if not line:
            return beside
        return f"{crash_title(trials[whole.isin(line)])}; {beside}"
    died = counted.groupby("release", observed=True)["crashed"].any()
    bad = [release for release in line if died[release]]
    good = [release for release in line if not died[release]]
    if not line:
        return "No trial ended with a verdict on the server"
    if not bad:
        return f"{line[0]} survives" if len(line) == 1 else f"All {len(line)} releases survive"
    if not good:
        return f"{line[0]} crashes" if len(line) == 1 else f"All {len(line)} releases crash"
    back = [
        new
        for i, (old, new) in enumerate(pairwise(line))
        if new in bad and old in good and neighbours(old, new) and set(line[:i]) & set(bad)
    ]
    if back:
        return f"{listing(back)} {_verb('bring', back)} the crash back"
    return (
        f"{ranges(bad, line)} {_verb('crash', bad)}, {ranges(good, line)} {_verb('survive', good)}"
    )


def kv_title(samples: pd.DataFrame, trials: pd.DataFrame) -> str:
    """How full the KV cache was, above all where a server died."""
    usage = samples[samples["name"] == "kv_usage_fraction"]
    if usage.empty:
        if trials["watch_fault"].notna().any():
            return "KV usage: not seen, the watcher failed"
        return "KV usage: not exported by any of these servers"
    peak = usage.groupby("trial_id", observed=True)["value"].max()
    dead = peak[peak.index.isin(trials.loc[trials["crashed"], "trial_id"])]
    if dead.empty:
        return f"No server dies; the KV cache fills to {percent(peak.max())}"
    names = trials.set_index("trial_id").loc[dead.index, "release"]
    who = listing(in_order(names)) if names.nunique() <= 3 else f"{names.nunique()} releases"
    verb = "dies" if names.nunique() == 1 else "die"
    if dead.max() < 0.9:
        return f"{who} {verb} with the KV cache at most {percent(dead.max())} full"
    return f"{who} {verb}; the KV cache had been {percent(dead.max())} full"


def latency_title(table: pd.DataFrame, verb: str = "answer") -> str:
    """What a user meets: the worst share unanswered, and what the others answer within.

    table: kit.stats.latency.latency_table. verb: what the latency is the time to.
    """
    if table.empty:
        return "No request tells a latency"
    failed = table.groupby("release", observed=True)["failed_fraction"].max()
    line = in_order(failed.index)
    worst = [release for release in line if failed[release] > 0]
    known = [release for release in line if release not in worst]
    within = _within(table[table["release"].astype(str).isin(known)])
    answers = f"{ranges(known, line)} {_verb(verb, known)} {within}"
    if worst:
        lost = failed[worst]
        share = percent(lost.max()) if lost.nunique() == 1 else f"up to {percent(lost.max())}"
        said = f"{ranges(worst, line)} {_verb('leave', worst)} {share} unanswered"
        return f"{said}; {answers}" if within else said
    return answers if within else "Too few requests for a quantile of the latency"


def _within(table: pd.DataFrame) -> str:
    """What all cells answer within: of the highest quantile that every one of them has."""
    for quantile, share in ((0.95, "95 %"), (0.5, "half")):
        ms = table.loc[table["quantile"] == quantile, "ms"].to_numpy(float)
        if ms.size and np.isfinite(ms).all():
            return f"{share} within {milliseconds(ms.max())}"
    return ""


def map_title(cells: pd.DataFrame) -> str:
    """What the cells of kit.plots.release_map.release_map say; those that are not the kit's own
    doing, and no controls.

    A crash "comes back" only where the counts bear it out (kit.stats.returns), a release survives
    only if all its cells do, and what is undecided is counted.
    """
    decided = cells["verdict"].isin(DECIDED)
    if not decided.any():
        return "No cell is decided yet"
    hybrids = beside_the_line(in_order(cells["release"]))
    if hybrids:
        line_cells = cells[~cells["release"].isin(hybrids)]
        own = cells[cells["release"].isin(hybrids) & decided]
        dead = set(own.loc[own["verdict"] == Decision.CRASHES, "release"])
        dying = [name for name in hybrids if name in dead]
        word = _no_release(hybrids)
        beside = f"{together(dying)} {_verb('crash', dying)} ({word})" if dying else ""
        if line_cells.empty:
            return beside or f"{together(hybrids)}: no crash ({word})"
        return "; ".join(filter(None, (map_title(line_cells), beside)))
    line = in_order(cells["release"])
    said = {release: set(own["verdict"]) for release, own in cells.groupby("release")}
    safe = [release for release in line if said[release] == {Decision.SURVIVES}]
    dying = [release for release in line if Decision.CRASHES in said[release]]
    words = [sentence for sentence in [_came_back(cells)] if sentence]
    if len(dying) == len(line):
        words.append("no release stands all traffic")
    elif safe and len(safe) < len(line):
        kept = _verb("survive", safe)
        only = "only " if len(safe) + len(dying) == len(line) else ""
        words.append(f"{only}{ranges(safe, line)} {kept} all that was tried on {_it(safe)}")
    elif not dying:
        died = int(cells["died"].sum())
        crashes = "crashes" if decided.all() and not died else "is found to crash"
        words.append(f"no release {crashes} under this traffic")
        if died:
            words.append(f"{died} of {int(cells['trials'].sum())} servers died all the same")
    else:
        words.append(f"{ranges(dying, line)} {_verb('crash', dying)}")
    if not decided.all():
        words.append(f"{int((~decided).sum())} of {len(cells)} cells undecided")
    sentence = "; ".join(words)
    return sentence[0].upper() + sentence[1:]


def _came_back(cells: pd.DataFrame) -> str:
    """ "24.08 brings a crash back", of releases that come right after one that survives."""
    back = set()
    for parts in returns(cells).values():
        for i, (spared, dying) in enumerate(pairwise(parts)):
            if i and dying.dies:
                old, new = spared.releases[-1], dying.releases[0]
                back |= {new} if neighbours(old, new) else set()
    return f"{listing(in_order(back))} {_verb('bring', back)} a crash back" if back else ""


def set_title(ax: Axes, sentence: str) -> None:
    """The sentence above the axes, on as many lines as its figure is narrow."""
    figure = ax.get_figure(root=True)
    width_in = figure.get_size_inches()[0] if figure is not None else 6.4
    tied = re.sub(r"(?<=\d) (?=(ms|s|%)\b|%)", "\N{NO-BREAK SPACE}", sentence)
    most = max(24, int(width_in * 0.88 / 0.1))
    wrapped = in_lines(tied, most)
    while most > 24 and len(in_lines(tied, most - 1)) == len(wrapped):
        most -= 1  # as many lines, but about equally long
        wrapped = in_lines(tied, most)
    ax.set_title("\n".join(wrapped))


def _no_release(hybrids: Sequence[str]) -> str:
    return "no release" if len(hybrids) == 1 else "no releases"


def _it(things: Sequence[str]) -> str:
    return "it" if len(things) == 1 else "them"


def _verb(stem: str, subjects: Sequence[str] | set[str]) -> str:
    if len(subjects) != 1:
        return stem
    return stem + ("es" if stem.endswith("sh") else "s")
