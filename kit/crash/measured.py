"""Counts, by release or hybrid, how many servers of studies died of each known crash.

A scenario's traffic can kill a server in more ways than one, so a death counts for the crash that
its own stack or words show, not for the scenario. One that fits no known crash counts for none,
and is named. `kit dev measured STUDY …` writes the table into data/crashes.yaml, where the catalog
and its diagnoses read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from msgspec import structs

from kit.crash.catalog import CATALOG, Crash, known_crashes, read_catalog
from kit.crash.diagnose import crashes_of
from kit.crash.match import best_of
from kit.study.files import write_whole
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.recorded import open_study
from kit.study.result import TrialResult, Verdict
from kit.study.scenarios import Scenario, load_scenarios

#: Crash id -> release -> (trials, deaths).
Table = dict[str, dict[str, tuple[int, int]]]

#: How each crash of a kind ends a trial.
_ENDS = {
    Verdict.CRASHED: {"crash"},
    Verdict.HUNG: {"hang"},
    Verdict.ENGINE_DIED: {"hang", "error", "false-health"},
    Verdict.OUT_OF_MEMORY: {"crash", "leak"},
}

_ENTRY = re.compile(r"(?m)^(?=- id: )")
_ID = re.compile(r"- id: (\S+)")
_BLOCK = re.compile(r"(?m)^  measured:.*\n(?:    .*\n)*")


def measured_deaths(*studies: StudyFolder | Path) -> Table:
    """For each crash that has scenarios in the studies, by release or hybrid: the trials of those
    scenarios that tell anything about the server, and how many servers died of this crash.

    A release under a scenario counts from the first study that has it.

    Raises:
        StoreError: there is no such study.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    for trial, died_of in _told(*studies):
        for crash in known_crashes().values():
            if trial.spec.scenario in crash.scenarios:
                row = counts.setdefault(crash.id, {}).setdefault(trial.spec.release, [0, 0])
                row[0] += 1
                row[1] += died_of is not None and crash.id in died_of
    return {
        crash: {release: (row[0], row[1]) for release, row in sorted(rows.items())}
        for crash, rows in counts.items()
    }


def unexplained_deaths(*studies: StudyFolder | Path) -> list[TrialFolder]:
    """Trials of fault scenarios whose server died of nothing that the catalog knows.

    Raises:
        StoreError: there is no such study.
    """
    return [trial for trial, died_of in _told(*studies) if died_of is not None and not died_of]


def _told(*studies: StudyFolder | Path) -> Iterator[tuple[TrialFolder, set[str] | None]]:
    """The trials of fault scenarios that tell of the server; what it died of, None: it lived."""
    scenarios = load_scenarios()
    earlier: set[tuple[str, str]] = set()
    for study in studies:
        own = set()
        for trial in open_study(study).trials():
            scenario, result = scenarios.get(trial.spec.scenario), trial.result
            cell = (trial.spec.release, trial.spec.scenario)
            if scenario is None or scenario.crash is None or result is None or cell in earlier:
                continue
            own.add(cell)
            if result.verdict.is_death:
                yield trial, died_of_which(trial, result, scenario)
            elif result.verdict.is_counted:
                yield trial, None
        earlier |= own


def died_of_which(trial: TrialFolder, result: TrialResult, scenario: Scenario) -> set[str]:
    """The known crashes that the server of a trial died of. Several: they leave the same stack,
    and its release has each; where it has none, the one that the scenario is made for counts.
    Empty: nothing that is known.
    """
    release, log = trial.spec.release, trial.log_text() or ""
    # a stack as one crash leaves it is that crash, whether or not it was known on that release
    for releases in ((release,), ()):
        best = best_of(crashes_of(result.signature, releases=releases, log=log, crashes=_bare()))
        tied = {match.id for match in best}
        if len(tied) == 1:
            return tied
        if hit := {crash for crash in tied if known_crashes()[crash].holds(release)}:
            return hit
        if scenario.crash in tied:
            return {scenario.crash}
    return _meant(scenario, result, release)


@cache
def _bare() -> dict[str, Crash]:
    """The catalog without what was measured, which must not decide what is measured next."""
    return {name: structs.replace(crash, measured={}) for name, crash in known_crashes().items()}


def _meant(scenario: Scenario, result: TrialResult, release: str) -> set[str]:
    """What a death is taken for that shows no crash by name: the one that its scenario is made
    for, else another that its scenario shows, if the server ended as it does and its release has
    it. Only where nothing was printed does the range not matter.
    """
    shown = [crash for crash in known_crashes().values() if scenario.name in crash.scenarios]
    alike = {crash.id: crash for crash in shown if _ENDS[result.verdict] & set(crash.kinds)}
    there = {name for name, crash in alike.items() if crash.holds(release)}
    own = {scenario.crash} & set(alike)
    printed = result.signature is not None and result.signature.frames
    return own & there or there or (set() if printed else own)  # type: ignore[return-value]


def with_measured(text: str, table: Table) -> str:
    """The text of the catalog with its `measured` blocks written anew; all else stays as it is.

    Notes on a release stay, too. A crash that the table lacks loses its block.

    Raises:
        CatalogError: the text is no catalog.
    """
    catalog = read_catalog(text)
    head, *entries = _ENTRY.split(text)
    return head + "".join(_with_block(entry, table, catalog) for entry in entries)


def _with_block(entry: str, table: Table, catalog: Mapping[str, Crash]) -> str:
    found = _ID.match(entry)
    assert found is not None, "the entries were split there"
    crash = catalog[found[1]]
    block = _block(crash, table.get(crash.id, {}))
    if _BLOCK.search(entry):
        return _BLOCK.sub(lambda _: block, entry, count=1)
    body = entry.rstrip("\n")
    return f"{body}\n{block}{entry[len(body) + 1 :]}"


def _block(crash: Crash, rows: Mapping[str, tuple[int, int]]) -> str:
    if not rows:
        return ""
    lines = ["  measured:"]
    for release, (trials, deaths) in rows.items():
        seen = crash.measured.get(release)
        note = f", note: '{_quoted(seen.note)}'" if seen and seen.note else ""
        lines.append(f'    "{release}": {{trials: {trials}, deaths: {deaths}{note}}}')
    return "\n".join(lines) + "\n"


def _quoted(note: str) -> str:
    return note.replace("'", "''")


def update_catalog(*studies: Path, catalog: Path = CATALOG) -> tuple[Table, list[TrialFolder]]:
    """Write the table of these studies into the catalog; the table, and the deaths that fit no
    known crash.

    Raises:
        StoreError: no study there, or the catalog cannot be written.
        CatalogError: the catalog cannot be read.
    """
    table = measured_deaths(*studies)
    text = with_measured(catalog.read_text(encoding="utf-8"), table)
    read_catalog(text)
    write_whole(catalog, text.encode())
    return table, unexplained_deaths(*studies)
