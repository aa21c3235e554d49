"""Finds crashes that went and came back along the line of releases.

Each cell is decided by itself, with an error of some percent; along a line of many cells that all
die alike now and then, one that "survives" by luck would make a return. So a change along the
line counts only where the trials before it and those after it differ for sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from kit.stats.intervals import same_share_p_value
from kit.study.hybrids import on_the_line
from kit.study.releases import in_order
from kit.study.sequential import Decision

#: Below this chance, if both sides died equally often, a change counts. A line has many places
#: for a change and a map many lines, hence less than the usual 5 %.
SURE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Releases in a row of which the trials do not show for sure that they differ."""

    dies: bool
    releases: tuple[str, ...]  # those of them that were decided so
    others: tuple[str, ...]  # decided otherwise, but not for sure
    died: int
    trials: int


def returns(cells: pd.DataFrame) -> dict[str, list[Segment]]:
    """Scenarios whose crash went and came back for sure: scenario -> its whole line.

    cells: kit.plots.release_map.release_map; reads release, scenario, verdict, died, trials.
        Undecided cells are left out.
    """
    found = {}
    for scenario, own in cells.groupby("scenario", sort=False):
        line = segments(own)
        if sum(segment.dies for segment in line) > 1:  # they alternate
            found[str(scenario)] = line
    return found


def segments(cells: pd.DataFrame) -> list[Segment]:
    """The line of one scenario, oldest first, cut only where both sides differ for sure. Hybrids
    are left out.

    The pooled counts of neighbouring segments are compared by Fisher's exact test; the two that
    differ least are joined until all differ.
    """
    decided = {cell["release"]: cell for cell in cells.to_dict("records")}
    line = [
        Segment(
            dies=cell["verdict"] == Decision.CRASHES,
            releases=(release,),
            others=(),
            died=int(cell["died"]),
            trials=int(cell["trials"]),
        )
        for release in on_the_line(in_order(decided))
        if (cell := decided[release])["verdict"] in (Decision.CRASHES, Decision.SURVIVES)
    ]
    line = _joined_alike(line)
    while len(line) > 1:
        chances = [
            same_share_p_value(a.died, a.trials, b.died, b.trials) for a, b in pairwise(line)
        ]
        at = chances.index(max(chances))
        if chances[at] < SURE:
            break
        line = _joined_alike([*line[:at], _join(line[at], line[at + 1]), *line[at + 2 :]])
    return line


def _joined_alike(line: Sequence[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in line:
        if joined and joined[-1].dies == segment.dies:
            segment = _join(joined.pop(), segment)
        joined.append(segment)
    return joined


def _join(a: Segment, b: Segment) -> Segment:
    """Both as one, which is what most of its trials were run on."""
    larger = a if a.trials >= b.trials else b
    parts = [
        (s.releases, s.others) if s.dies == larger.dies else (s.others, s.releases) for s in (a, b)
    ]
    return Segment(
        dies=larger.dies,
        releases=parts[0][0] + parts[1][0],
        others=parts[0][1] + parts[1][1],
        died=a.died + b.died,
        trials=a.trials + b.trials,
    )
