"""The decision that a study supports: which release to run under which traffic, how surely, and
what was not tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from kit.plots.release_map import release_map
from kit.report.sentences import scenario_title, survivors_by_scenario
from kit.runner.agenda import decided
from kit.stats.frames import trials_frame
from kit.stats.intervals import evidence_of_each, share
from kit.stats.summary import cell_columns, crash_table
from kit.study.folder import StudyFolder
from kit.study.hybrids import on_the_line
from kit.study.plan import not_applicable
from kit.study.releases import in_order, load_releases
from kit.study.scenarios import is_traffic, load_scenarios
from kit.study.sequential import Decision as Decided
from kit.study.spec import EngineKind, StudySpec
from kit.study.words import listing, percent, ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficDecision:
    """What to run under one kind of traffic; releases oldest first."""

    scenario: str
    title: str
    run: tuple[str, ...]  # survived
    avoid: tuple[str, ...]  # crashed
    undecided: tuple[str, ...]
    unable: tuple[str, ...]  # cannot serve this traffic at all
    sure: str  # n and interval
    died: int  # servers of the releases to avoid that died
    tried: int  # servers of those
    outlived: tuple[int, ...]  # requests that each cell of the releases to run answered

    def text(self, line: list[str]) -> str:
        """ "run 23.12–24.07; do not run 23.10, 24.08–24.10"."""
        parts = [
            f"run {ranges(self.run, line)}" if self.run else "no release that was tried stands it",
            f"do not run {ranges(self.avoid, line)}" if self.avoid else "",
            f"not decided for {ranges(self.undecided, line)}" if self.undecided else "",
            f"{ranges(self.unable, line)} cannot serve it" if self.unable else "",
        ]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDecision:
    """What a lead reads first."""

    question: str
    overall: str  # one sentence
    advice: tuple[TrafficDecision, ...]  # one a kind of traffic
    line: tuple[str, ...]  # all releases, oldest first
    not_tried: tuple[str, ...]

    @property
    def together(self) -> list[tuple[str, str]]:
        """What to run, once for all kinds of traffic of which the same is said."""
        kinds: dict[str, list[str]] = {}
        for one in self.advice:
            kinds.setdefault(one.text(list(self.line)), []).append(one.scenario)
        return [(listing(names), text) for text, names in kinds.items()]

    @property
    def sure(self) -> str:
        """How sure all of it is, in one sentence; of the survivors the weakest bound is stated."""
        parts = []
        if tried := sum(one.tried for one in self.advice):
            died = sum(one.died for one in self.advice)
            parts.append(f"where a release is not to be run, {died} of {tried} servers died")
        if outlived := [n for one in self.advice for n in one.outlived]:
            parts.append(f"where it is, none did ({evidence_of_each(outlived)})")
        return "; ".join(parts)


def study_decision(study: StudyFolder) -> StudyDecision:
    """The decision of a study as far as it has come."""
    trials, spec = trials_frame(study), study.spec
    cells = release_map(trials, decided(study))
    skipped = not_applicable(spec)
    every = list(dict.fromkeys([*cells["scenario"], *(s for _, s in skipped)]))
    kinds = [name for name in every if is_traffic(name)] or every
    # A hybrid is no release: nobody can run it, and nobody is told to.
    line = on_the_line(in_order({*cells["release"], *(release for release, _ in skipped)}))
    cells = cells[cells["release"].isin(line)]
    trials = trials[trials["release"].isin(line)]
    counted = trials[trials["counted"]]
    survivors = survivors_by_scenario(counted, line)
    table = crash_table(counted, cell_columns(counted))
    advice = tuple(_advice(name, cells, table, survivors, skipped, line) for name in kinds)
    return StudyDecision(
        question=_question(kinds, line),
        overall=_overall(advice, line),
        advice=advice,
        line=tuple(line),
        not_tried=tuple(_not_tried(spec, trials, kinds, line)),
    )


def _question(kinds: list[str], line: list[str]) -> str:
    if not kinds or not line:
        return "No trial has been run yet."
    what = kinds[0] if len(kinds) == 1 else f"{len(kinds)} kinds of traffic"
    if len(line) == 1:
        return f"Does {line[0]} stand {what}?"
    return f"Which of {len(line)} releases ({ranges(line, line)}) stands {what}?"


def _advice(
    scenario: str,
    cells: pd.DataFrame,
    table: pd.DataFrame,
    survivors: Mapping[str, str],
    skipped: Mapping[tuple[str, str], str],
    line: list[str],
) -> TrafficDecision:
    own = cells[cells["scenario"] == scenario]
    dead = own[own["verdict"] == Decided.CRASHES]
    said = dict(zip(own["release"], own["verdict"], strict=True))

    def those(verdict: str) -> tuple[str, ...]:
        return tuple(release for release in line if said.get(release) == verdict)

    return TrafficDecision(
        scenario=scenario,
        title=scenario_title(scenario),
        run=those(Decided.SURVIVES),
        avoid=those(Decided.CRASHES),
        undecided=tuple(r for r in line if r in said and said[r] not in _SAID),
        unable=tuple(r for r in line if (r, scenario) in skipped and r not in said),
        sure=_sure(dead, survivors.get(scenario)),
        died=int(dead["died"].sum()),
        tried=int(dead["trials"].sum()),
        outlived=_outlived(table[table["scenario"] == scenario], those(Decided.SURVIVES)),
    )


_SAID = (Decided.SURVIVES, Decided.CRASHES)


def _sure(dead: pd.DataFrame, survivors: str | None) -> str:
    """Died of how many servers, and what the survivors' silence is worth."""
    parts = []
    if len(dead):
        died, tried = int(dead["died"].sum()), int(dead["trials"].sum())
        of_servers = share(died, tried)
        parts.append(
            f"{died} of {tried} servers of those died "
            f"({percent(of_servers.low)} to {percent(of_servers.high)} at 95 %)"
        )
    return "; ".join(parts + ([survivors] if survivors else []))


def _outlived(table: pd.DataFrame, survivors: tuple[str, ...]) -> tuple[int, ...]:
    """Requests that each cell of these releases has outlived."""
    return tuple(int(n) for n in table.loc[table["release"].isin(survivors), "requests"])


def _overall(advice: tuple[TrafficDecision, ...], line: list[str]) -> str:
    """Which release stands all of it, as far as it was tried; one that cannot serve it does not."""
    if not line:
        return "No trial has been run yet."
    if len(advice) == 1:
        return f"For this traffic {advice[0].text(line)}."
    whole = [release for release in line if all(release in one.run for one in advice)]
    if whole:
        stand = "stands" if len(whole) == 1 else "stand"
        return f"{ranges(whole, line)} {stand} all {len(advice)} kinds of traffic that were tried."
    text = f"No release stands all {len(advice)} kinds of traffic that were tried."
    stood = {release: sum(release in one.run for one in advice) for release in line}
    best = max(stood.values())
    if best:
        most = [release for release in line if stood[release] == best]
        verb = "stands" if len(most) == 1 else "stand"
        text += f" {ranges(most, line)} {verb} the most, {best} of {len(advice)}"
        unable = {sum(release in one.unable for one in advice) for release in most} - {0}
        text += f", and cannot serve {max(unable)} of them" if unable else ""
        text += ": choose by your traffic."
    return text


def _not_tried(
    spec: StudySpec, trials: pd.DataFrame, kinds: list[str], line: list[str]
) -> list[str]:
    every = list(load_releases())
    rest = [release for release in every if release not in line]
    found = [f"releases {ranges(rest, every)}"] if rest else []
    others = [n for n in load_scenarios() if is_traffic(n) and n not in kinds]
    found += [f"traffic: {listing(others)}"] if others else []
    clients = sorted({int(n) for n in trials["concurrency"].dropna()})
    if clients:
        found.append(f"other numbers of clients than {listing([str(n) for n in clients])}")
    if all(engine.kind is EngineKind.SIMULATED for engine in spec.engines):
        found.append("a real model behind these servers: the engine was simulated")
    if len(trials):
        asked = int(trials["requests_asked"].max()) if trials["requests_asked"].notna().any() else 0
        found += [f"more than {asked:,} requests in one server's life"] if asked else []
    return found
