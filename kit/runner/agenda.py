"""Chooses the trial to run next, from the trials left and the results so far.

A fixed agenda runs all of them in their order. A sequential one (kit.study.sequential) runs a
cell's trials until they have decided it, and spends them where the question is open. It can be
asked for some trials of every cell whatever they say: a death in the first trial decides, by
default, that a release dies, and says little of how soon.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, Protocol

from kit.runner.limit import LimitAgenda
from kit.runner.next_cells import CellState, likely_to_decide, next_cells
from kit.study.folder import StudyFolder
from kit.study.once import computed_once
from kit.study.recorded import open_study
from kit.study.result import TrialResult
from kit.study.sequential import Decision, Observation, Progress, TrialTest, decide
from kit.study.spec import Engine, ServerSpec, StudySpec, TrialSpec, Workload


class Cell(NamedTuple):
    """What the repeats of a trial have in common. The workload is without its seed."""

    server: ServerSpec
    scenario: str
    engine: Engine
    workload: Workload


Results = Mapping[str, TrialResult]


class Agenda(Protocol):
    """Which trial is next."""

    def next(self, results: Results, running: Collection[str]) -> TrialSpec | None:
        """The trial to start now; None: none now, and none at all if nothing runs."""

    def total(self, results: Results, running: Collection[str]) -> int:
        """How many trials it will have been in the end, as far as can be told."""


class FixedAgenda:
    """All trials, in their order."""

    def __init__(self, trials: Sequence[TrialSpec]) -> None:
        self._trials = list(trials)

    def next(self, results: Results, running: Collection[str]) -> TrialSpec | None:
        taken = {*results, *running}
        return next((t for t in self._trials if t.trial_id not in taken), None)

    def total(self, results: Results, running: Collection[str]) -> int:
        return len(self._trials)


class SequentialAgenda:
    """Of each cell as many trials as `test` needs to decide it, at most those that are given.

    least: trials that every cell gets, decided or not; those after the decision do not change it.
    """

    def __init__(self, trials: Sequence[TrialSpec], test: TrialTest, *, least: int = 1) -> None:
        self._test = test
        self._least = least
        self._cells: dict[Cell, list[TrialSpec]] = {}
        for trial in sorted(trials, key=lambda t: t.repeat):
            self._cells.setdefault(cell_of(trial), []).append(trial)
        self._budget = max(map(len, self._cells.values()), default=0)

    def next(self, results: Results, running: Collection[str]) -> TrialSpec | None:
        states = self._states(results, running)
        waiting = {cell: self._waiting(cell, results, running) for cell in states}
        # A cell whose last trials are under way must not keep its slot from the others.
        able = {cell: state for cell, state in states.items() if waiting[cell]}
        chosen = next_cells(self._test, able, slots=1, budget=self._budget)
        cells = chosen or self._short(able, results, running)
        return waiting[cells[0]][0] if cells else None

    def total(self, results: Results, running: Collection[str]) -> int:
        more = 0
        for cell, state in self._states(results, running).items():
            missing = self._missing(cell, results, running)
            if state.progress.decision is Decision.OPEN:
                likely = likely_to_decide(self._test, state) - state.running
                left = len(self._waiting(cell, results, running))
                missing = max(missing, min(likely, left))
            more += max(0, missing)
        return len(results) + len(running) + more

    def decisions(self, results: Results) -> dict[Cell, Progress]:
        """How each cell was decided."""
        return {cell: state.progress for cell, state in self._states(results, ()).items()}

    def _short(
        self, states: Mapping[Cell, CellState], results: Results, running: Collection[str]
    ) -> list[Cell]:
        """Cells that are decided and have not had the least number of trials."""
        return [
            cell
            for cell, state in states.items()
            if state.progress.decision in (Decision.CRASHES, Decision.SURVIVES)
            and self._missing(cell, results, running) > 0
        ]

    def _waiting(self, cell: Cell, results: Results, running: Collection[str]) -> list[TrialSpec]:
        """The trials of a cell that can still be started, in their order."""
        return [
            trial
            for trial in self._cells[cell]
            if trial.trial_id not in results and trial.trial_id not in running
        ]

    def _missing(self, cell: Cell, results: Results, running: Collection[str]) -> int:
        """Trials that the cell lacks of the least; one that says nothing counts as none."""
        names = [trial.trial_id for trial in self._cells[cell]]
        silent = sum(n in results and not results[n].verdict.is_counted for n in names)
        taken = sum(n in results or n in running for n in names)
        return min(self._least + silent, len(names)) - taken

    def _states(self, results: Results, running: Collection[str]) -> dict[Cell, CellState]:
        states = {}
        for cell, trials in self._cells.items():
            # In the order in which they were started: crashes end sooner than survivors. What
            # ended ahead of its turn still counts as running.
            ended = list(takewhile(lambda t: t.trial_id in results, trials))
            started = [t for t in trials if t.trial_id in results or t.trial_id in running]
            telling = [r for t in ended if (r := results[t.trial_id]).verdict.is_counted]
            seen = [Observation(crashed=r.verdict.is_death, requests=r.completed) for r in telling]
            budget = len(trials) - (len(ended) - len(telling))
            states[cell] = CellState(
                progress=decide(self._test, seen, budget=budget),
                running=len(started) - len(ended),
            )
        return states


def cell_of(trial: TrialSpec) -> Cell:
    """The cell of a study that a trial belongs to."""
    return Cell(trial.server, trial.scenario, trial.engine, replace(trial.workload, seed=0))


def agenda_for(spec: StudySpec, trials: Sequence[TrialSpec], study: StudyFolder) -> Agenda:
    """The agenda of a study: sequential if it has a test, a search if it looks for a limit."""
    if spec.limit is not None:
        return LimitAgenda(spec, study)
    if spec.sequential is None:
        return FixedAgenda(trials)
    return SequentialAgenda(trials, spec.sequential, least=spec.least_repeats)


@computed_once
def decisions_of(study: StudyFolder | Path) -> dict[Cell, Progress]:
    """How a sequential study decided its cells, from its trials; empty for a fixed one."""
    opened = open_study(study)
    test = opened.spec.sequential
    if test is None:
        return {}
    trials = opened.trials()
    results = {t.spec.trial_id: r for t in trials if (r := t.result)}
    return SequentialAgenda([t.spec for t in trials], test).decisions(results)


def decided(study: StudyFolder) -> dict[tuple[str, str], str]:
    """What a sequential study decided of each (release, scenario): the worst of its cells."""
    worst: dict[tuple[str, str], str] = {}
    for cell, progress in decisions_of(study).items():
        release, scenario = cell.server.label, cell.scenario
        said = Decision.UNDECIDED if progress.decision is Decision.OPEN else progress.decision
        if SEVERITY.index(said) >= SEVERITY.index(worst.get((release, scenario), SEVERITY[0])):
            worst[release, scenario] = said.value
    return worst


SEVERITY = (Decision.SURVIVES, Decision.UNDECIDED, Decision.CRASHES)
