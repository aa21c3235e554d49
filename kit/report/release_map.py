"""Writes the sentences about a release map as Markdown; every number is computed."""

from __future__ import annotations

import pandas as pd

from kit.plots.release_map import release_map, signature_letters, traffic_cells
from kit.plots.titles import DECIDED
from kit.report.crashes import study_crashes
from kit.report.sentences import evidence_by_scenario
from kit.runner.agenda import decided, decisions_of
from kit.stats.frames import trials_frame
from kit.stats.returns import Segment, returns
from kit.study.folder import StudyFolder
from kit.study.hybrids import is_hybrid
from kit.study.releases import in_order
from kit.study.scenarios import is_traffic
from kit.study.sequential import Decision, characteristic, saving
from kit.study.words import listing, ranges

#: True chances of a death for which `how_sure` tells what the test makes of a cell.
CHANCES = (0.02, 0.08, 0.2, 0.5, 0.9)


def map_answer(study: StudyFolder) -> str:
    """Whether any release stands all traffic, and which crashes came back: two sentences."""
    cells = traffic_cells(release_map(trials_frame(study), decided(study)))
    cells = cells[~cells["release"].map(is_hybrid).astype(bool)]  # no releases
    line = in_order(cells["release"])
    said = {release: set(own["verdict"]) for release, own in cells.groupby("release")}
    standing = [release for release in line if said[release] == {Decision.SURVIVES}]
    dying = [release for release in line if Decision.CRASHES in said[release]]
    kinds = cells.groupby("release")["scenario"].nunique()
    part = [release for release in standing if kinds[release] < cells["scenario"].nunique()]
    if standing and standing == part:
        first = (
            f"No release stands all the traffic that was tried: {len(dying)} of {len(line)} die of "
            f"some of it, and {ranges(part, line)} stood the {_kinds(cells, part)} that "
            f"{'it' if len(part) == 1 else 'they'} can serve"
        )
    elif standing:
        first = f"Of {len(line)} releases {ranges(standing, line)} stood all the traffic tried"
    elif len(dying) == len(line):
        first = f"None of {len(line)} releases stands all the traffic that was tried"
    else:
        first = (
            f"Of {len(line)} releases {len(dying)} die under some of the traffic that was tried, "
            "and no other is decided to stand all of it"
        )
    left = int((~cells["verdict"].isin(DECIDED)).sum())
    open_ones = f" ({left} of {len(cells)} cells undecided)" if left else ""
    second = "; ".join(
        f"{scenario} {_along(parts, line)}" for scenario, parts in returns(cells).items()
    )
    if second:
        return f"{first}{open_ones}. And crashes return: {second}."
    return f"{first}{open_ones}; no crash is sure to have gone and come back."


def _kinds(cells: pd.DataFrame, releases: list[str]) -> str:
    """How many kinds of traffic these releases had, of all: "3 of 7 kinds"."""
    own = cells[cells["release"].isin(releases)].groupby("release")["scenario"].nunique()
    counts = f"{own.min()}" if own.nunique() == 1 else f"{own.min()} to {own.max()}"
    return f"{counts} of {cells['scenario'].nunique()} kinds"


def _along(parts: list[Segment], line: list[str]) -> str:
    """ "kills 23.10, spares 23.12–24.07 and kills 24.08–24.10"."""
    return listing([f"{'kills' if s.dies else 'spares'} {ranges(s.releases, line)}" for s in parts])


def how_sure(study: StudyFolder) -> str:
    """What the study's test makes of cells of known crash chance, as a Markdown table; exact."""
    test, budget = study.spec.sequential, study.spec.repeats
    if test is None:
        return "The number of trials was fixed: no test decided."
    rows = [
        "| a trial dies with | crashes | survives | undecided | trials |",
        "|---:|---:|---:|---:|---:|",
    ]
    for chance in CHANCES:
        found = characteristic(test, chance, budget=budget)
        shares = (found.crashes, found.survives, found.undecided)
        words = " | ".join(f"{share:.1%}" for share in shares)
        rows.append(f"| {chance:.0%} | {words} | {found.expected_trials:.1f} |")
    return "\n".join(rows)


def bounds(study: StudyFolder) -> str:
    """What the evidence bounds for releases that never died, scenario by scenario, as a list."""
    trials = trials_frame(study)
    traffic = trials[trials["counted"] & trials["scenario"].map(is_traffic).astype(bool)]
    rows = [f"- {said}" for said in evidence_by_scenario(traffic)]
    return "\n".join(rows) or "No release stood any of the traffic without a death."


def what_it_cost(study: StudyFolder) -> str:
    """Trials and time that a study took, against a fixed design and against one at a time."""
    test, cells = study.spec.sequential, decisions_of(study)
    trials = trials_frame(study)
    lived_s = float(trials["duration_s"].sum())
    begun, ended = _span(study)
    wall_s = (ended - begun) / 1e9
    kept = f"in {len(cells)} cells " if cells else ""
    said = (
        f"{len(trials)} trials {kept}took {wall_s / 60:.0f} minutes of wall time for "
        f"{lived_s / 60:.0f} minutes of trials: {lived_s / wall_s:.1f} at a time on average."
    )
    if test is None:
        return said
    spared = saving(test, list(cells.values()))
    really = 1 - len(trials) / spared.fixed
    more = f"{really:.0%} fewer" if really >= 0 else f"{-really:.0%} more"
    asked = study.spec.least_repeats
    least = f", since a cell gets at least {asked}" if asked > 1 else ""
    open_cells = sum(p.decision in (Decision.UNDECIDED, Decision.OPEN) for p in cells.values())
    return (
        f"{said} The decisions rest on {spared.trials} trials, where a fixed design with the same "
        f"error rates would have needed {spared.fixed} ({spared.fraction:.0%} fewer). All in all "
        f"{len(trials)} were run ({more}){least}. {str(open_cells or 'No').capitalize()} "
        f"{'cell is' if open_cells == 1 else 'cells are'} undecided."
    )


def causes(study: StudyFolder) -> str:
    """The deaths grouped by where they happened, largest group first, as a list.

    Groups and letters are those of the map: one line of text, such as "SIGSEGV in f". A stack can
    have several causes, and several ways can lead to one place.
    """
    line, trials = list(study.spec.releases), trials_frame(study)
    letters = signature_letters(release_map(trials))
    rows = []
    for crash in study_crashes(study, trials):
        group = crash.group
        if group.has_stack:
            named = f"{_lettered(letters, group.text)}{group.text}"
            where = f"{ranges(group.releases, line)}{_ways(group.stacks)}"
            rows.append(f"- {named}: {_deaths(crash.deaths)}, in {where}")
        else:
            kind = group.text.partition(",")[0]
            rows.append(f"- no stack, {kind}: {_deaths(crash.deaths)} ({listing(group.scenarios)})")
    return "\n".join(rows) or "No server died."


def _lettered(letters: dict[str, str], text: str) -> str:
    """The letter of a signature; one that is the commonest of no cell has none in the map."""
    return f"**{letters[text]}** " if text in letters else ""


def _deaths(count: int) -> str:
    return f"{count} death{'' if count == 1 else 's'}"


def _ways(count: int) -> str:
    return f" ({count} different stacks)" if count > 1 else ""


def _span(study: StudyFolder) -> tuple[int, int]:
    """When the first trial began and the last one ended, nanoseconds since the epoch."""
    results = [r for trial in study.trials() if (r := trial.result)]
    begun = min(r.started_ns + r.wall_offset_ns for r in results if r.started_ns)
    return begun, max(r.ended_ns + r.wall_offset_ns for r in results if r.ended_ns)
