"""Writes the sentences about a release map as Markdown; every number is computed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from kit.crash.catalog import FRONTENDS, known_crashes
from kit.errors import KitError
from kit.plots.release_map import pairs_of, release_map, signature_letters, traffic_cells
from kit.plots.titles import DECIDED
from kit.report.crashes import study_crashes
from kit.report.sentences import evidence_by_scenario, scenarios_in_order
from kit.runner.agenda import decided, decisions_of
from kit.stats.frames import trials_frame
from kit.stats.returns import Segment, returns
from kit.study.folder import StudyFolder
from kit.study.hybrids import (
    NO_RELEASE_BRIEF,
    beside_the_line,
    is_hybrid,
    together,
)
from kit.study.plan import not_applicable
from kit.study.releases import in_order
from kit.study.scenarios import get_scenario, is_traffic
from kit.study.sequential import Decision, characteristic, saving
from kit.study.words import listing, ranges

#: True chances of a death for which `how_sure` tells what the test makes of a cell.
CHANCES = (0.02, 0.08, 0.2, 0.5, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapParts:
    """What a map is drawn of (kit.plots.release_map.plot_release_map), by one study or two."""

    cells: pd.DataFrame
    skipped: dict[tuple[str, str], str]
    error: float | None
    untested: int | None

    @property
    def columns(self) -> int:
        return len({*self.cells["release"], *(release for release, _ in self.skipped)})

    @property
    def rows(self) -> int:
        return int(self.cells["scenario"].nunique())

    @property
    def size_in(self) -> tuple[float, float]:
        """Of a figure with readable cells, width and height."""
        return 2.4 + 0.62 * self.columns, 1.8 + 0.46 * self.rows


def map_parts(study: StudyFolder, *beside: StudyFolder | None) -> MapParts:
    """The map of a study, with the cells that only others have, such as those of hybrids.

    Every cell is of one study, the first that has it, as it was run: nothing is added up.
    """
    studies = [study, *(one for one in beside if one is not None)]
    frames = [trials_frame(one) for one in studies]
    maps = [release_map(f, decided(one)) for f, one in zip(frames, studies, strict=True)]
    skipped: dict[tuple[str, str], str] = {}
    for one, frame in zip(studies, frames, strict=True):
        names = set(frame["scenario"])
        found = {cell: why for cell, why in _skips(one).items() if cell[1] in names}
        skipped = {**found, **skipped}
    had: set[tuple[str, str]] = set()
    parts = []
    for own in maps:
        pairs = pairs_of(own)
        parts.append(own[[cell not in had for cell in pairs]])
        had |= set(pairs)
    cells = pd.concat([part for part in parts if len(part)])
    order = scenarios_in_order(pd.concat(frames))
    cells = cells.sort_values("scenario", key=lambda s: s.map(order.index), kind="stable")
    test = study.spec.sequential
    # Of those whose number of trials no test decided.
    fixed = [own for own, one in zip(parts, studies, strict=True) if one.spec.sequential is None]
    few = [int(own["trials"].max()) for own in fixed if len(own)]
    return MapParts(
        cells=cells.reset_index(drop=True),
        skipped={cell: why for cell, why in skipped.items() if cell not in set(pairs_of(cells))},
        error=None if test is None else test.beta,
        untested=max(few) if few and test is not None else None,
    )


def _skips(study: StudyFolder) -> dict[tuple[str, str], str]:
    """Cells that cannot be run; none if the study names what is not known."""
    try:
        return not_applicable(study.spec)
    except KitError:  # recorded with another version of the kit
        return {}


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


def beside_answer(study: StudyFolder) -> str:
    """What a study saw on hybrids, as Markdown: beside_sentences, and a table."""
    trials = trials_frame(study)
    trials = trials[trials["counted"]]
    table = _beside_table(trials, in_order(trials["release"]))
    return "\n\n".join([*beside_sentences(study), table])


def beside_sentences(study: StudyFolder) -> list[str]:
    """Of which faults of the frontends hybrids die, which they stand though a release of the same
    study dies of it, and what they have from their core.
    """
    trials = trials_frame(study)
    trials = trials[trials["counted"]]
    hybrids = beside_the_line(in_order(trials["release"]))
    if not hybrids:
        return ["No hybrid was run."]
    told: dict[str, list[str]] = {"die": [], "stand": [], "core": []}
    for scenario in filter(is_traffic, scenarios_in_order(trials)):
        own = trials[trials["scenario"] == scenario]
        here = own[own["release"].map(is_hybrid).astype(bool)]
        there = own[~own["release"].map(is_hybrid).astype(bool)]
        said = f"{scenario} ({_tally(here)}{_against(there)})"
        crash = known_crashes()[str(get_scenario(scenario).crash)]
        if here["crashed"].any():
            told["die" if crash.component in FRONTENDS else "core"].append(said)
        elif there["crashed"].any():
            told["stand"].append(said)
    who = f"{together(hybrids)} ({NO_RELEASE_BRIEF})"
    words = {
        "die": "{} still die of faults of the frontends, under {}.",
        "stand": "{} stand what a release of the same days dies of: {}.",
        "core": "What lies in the core or its Python backend, they have from there: {1}.",
    }
    lines = [words[kind].format(who, listing(found)) for kind, found in told.items() if found]
    return [f"{text[0].upper()}{text[1:]}" for text in lines]


def _tally(trials: pd.DataFrame) -> str:
    return f"{int(trials['crashed'].sum())} of {len(trials)}"


def _against(trials: pd.DataFrame) -> str:
    """ "; 24.10: 3 of 3", of the releases of the same study."""
    own = [f"{name}: {_tally(part)}" for name, part in trials.groupby("release", observed=True)]
    return f"; {', '.join(own)}" if own else ""


def _beside_table(trials: pd.DataFrame, servers: list[str]) -> str:
    rows = [f"| | {' | '.join(servers)} |", "|---|" + "---:|" * len(servers)]
    for scenario in scenarios_in_order(trials):
        cells = []
        for name in servers:
            own = trials[(trials["scenario"] == scenario) & (trials["release"] == name)]
            after = own["crash_iteration"].dropna().astype(float)
            requests = f", after {after.median():,.0f}" if len(after) else ""
            cells.append(f"{_tally(own)}{requests}" if len(own) else "–")
        rows.append(f"| {scenario} | {' | '.join(cells)} |")
    return "\n".join(rows)


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
