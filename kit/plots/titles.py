"""Frames in, the sentence that a picture says out; computed, so that it cannot contradict it."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

import pandas as pd
from matplotlib.axes import Axes

from kit.plots.style import in_order, neighbours

#: What tells cells apart; those of them that vary in a frame must not be pooled.
CELL = ("release", "scenario", "engine", "concurrency", "protocol")


def varying(frame: pd.DataFrame, among: Sequence[str] = CELL) -> list[str]:
    """`release`, and every other column of `among` with more than one value."""
    return [c for c in among if c == "release" or frame[c].nunique(dropna=False) > 1]


def listing(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def ranges(chosen: Iterable[str], line: Sequence[str]) -> str:
    """Releases with runs along `line` drawn together: "23.10 and 24.08–24.10"."""
    members = set(chosen)
    runs = [list(run) for inside, run in groupby(line, members.__contains__) if inside]
    words = [word for run in runs for word in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else run)]
    return listing(words)


def crash_title(trials: pd.DataFrame) -> str:
    """What the trials of one scenario say about the releases."""
    counted = trials[trials["counted"]]
    line = in_order(counted["release"])
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


def latency_title(table: pd.DataFrame) -> str:
    """What a user meets: the worst share unanswered, and what the others answer within.

    table: kit.stats.latency.latency_table.
    """
    if table.empty:
        return "No request tells a latency"
    failed = table.groupby("release", observed=True)["failed_fraction"].max()
    worst = [release for release in in_order(failed.index) if failed[release] > 0]
    tail = table[table["quantile"] == 0.95].groupby("release", observed=True)["ms"].max()
    known = [r for r in in_order(tail.index) if r not in worst and math.isfinite(tail[r])]
    answers = f"{ranges(known, in_order(failed.index))} {_verb('answer', known)} 95 % within "
    if worst:
        lost = failed[worst]
        share = percent(lost.max()) if lost.nunique() == 1 else f"up to {percent(lost.max())}"
        said = f"{ranges(worst, in_order(failed.index))} {_verb('leave', worst)} {share} unanswered"
        return f"{said}; {answers}{milliseconds(tail[known].max())}" if known else said
    if not known:
        return "Too few requests for a 95 % latency"
    return f"{answers}{milliseconds(tail[known].max())}"


def map_title(died: pd.Series) -> str:
    """died: bool, indexed by (release, scenario), of the cells that were decided."""
    if died.empty:
        return "No cell is decided yet"
    per_release = died.groupby(level=0).any()
    line = in_order(per_release.index)
    safe = [release for release in line if not per_release[release]]
    back = set()
    for _, cells in died.groupby(level=1):
        known = cells.droplevel(1)
        order = [r for r in line if r in known.index]
        for i, (old, new) in enumerate(pairwise(order)):
            again = known[new] and not known[old] and known[order[:i]].any()
            back |= {new} if again and neighbours(old, new) else set()
    words = []
    if back:
        words.append(f"{listing(in_order(back))} {_verb('bring', back)} a crash back")
    if not safe:
        words.append("no release is safe under all traffic")
    elif len(safe) == len(line):
        words.append("no release crashes under this traffic")
    else:
        kept = _verb("survive", safe)
        words.append(f"only {ranges(safe, line)} {kept} all that was tried on {_it(safe)}")
    sentence = "; ".join(words)
    return sentence[0].upper() + sentence[1:]


def milliseconds(value: float) -> str:
    """A latency for people: "48 ms", "1.2 s", "never"."""
    if math.isinf(value):
        return "never"
    if value >= 1000:
        return f"{value / 1000:.2g} s" if value < 10_000 else f"{value / 1000:.0f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def percent(fraction: float) -> str:
    """A share for people: "47 %"; what is neither nothing nor all is not rounded to it."""
    if 0 < fraction < 0.005:
        return "under 1 %" if fraction >= 0.001 else "under 0.1 %"
    if 0.995 < fraction < 1:
        return "over 99 %"
    return f"{100 * fraction:.0f} %"


def set_title(ax: Axes, sentence: str) -> None:
    """The sentence above the axes, on as many lines as its figure is narrow."""
    figure = ax.get_figure(root=True)
    width_in = figure.get_size_inches()[0] if figure is not None else 6.4
    tied = re.sub(r"(?<=\d) (?=(ms|s|%)\b|%)", "\N{NO-BREAK SPACE}", sentence)
    most = max(24, int(width_in * 0.88 / 0.1))
    wrapped = textwrap.wrap(tied, most)
    while most > 24 and len(textwrap.wrap(tied, most - 1)) == len(wrapped):
        most -= 1  # as many lines, but about equally long
        wrapped = textwrap.wrap(tied, most)
    ax.set_title("\n".join(wrapped))


def _it(things: Sequence[str]) -> str:
    return "it" if len(things) == 1 else "them"


def _verb(stem: str, subjects: Sequence[str] | set[str]) -> str:
    if len(subjects) != 1:
        return stem
    return stem + ("es" if stem.endswith("sh") else "s")
