"""Chooses the cells that get the next trials, by how far each one is decided.

For studies that decide as they go (kit.study.sequential): trials go where the question is open, and
none is started beside others that may well decide the cell without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from kit.study.sequential import (
    EPSILON,
    Decision,
    Observation,
    Progress,
    SequentialTest,
    boundaries,
)

Cell = TypeVar("Cell")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """One cell: its test so far, trials that are running, and what a typical trial completes."""

    progress: Progress
    running: int = 0
    requests: int = 200  # completed by a trial that survives; only RequestTest looks at it


def likely_to_decide(test: SequentialTest, state: CellState) -> int:
    """Further trials until the decision, if all go the way that the cell leans so far."""
    low, high = boundaries(test)
    ratio = state.progress.log_ratio
    life = test.evidence(Observation(crashed=False, requests=state.requests))
    death = test.evidence(Observation(crashed=True, requests=0))
    step, end = (death, high) if ratio > 0 else (life, low)
    return max(1, math.ceil((end - ratio) / step - EPSILON))


def next_cells(
    test: SequentialTest, cells: Mapping[Cell, CellState], *, slots: int, budget: int
) -> list[Cell]:
    """Up to `slots` cells that should get a trial now, most urgent first; one may come twice.

    Cells without a trial come first, so that an early stop has seen all of them; then those
    nearest to a decision, so that a study that is cut short has decided as many as it could. A
    cell never has more trials running than decide it if all survive.
    """
    started = {key: state.progress.trials + state.running for key, state in cells.items()}
    extra = dict.fromkeys(cells, 0)
    chosen: list[Cell] = []
    while len(chosen) < slots:
        candidates = [
            key
            for key, state in cells.items()
            if state.progress.decision is Decision.OPEN
            and started[key] + extra[key] < budget
            and state.running + extra[key] < most_useful(test, state)
        ]
        if not candidates:
            break
        best = min(
            candidates,
            key=lambda key: (
                started[key] + extra[key] > 0,
                cells[key].running + extra[key] >= likely_to_decide(test, cells[key]),
                likely_to_decide(test, cells[key]),
            ),
        )
        extra[best] += 1
        chosen.append(best)
    return chosen


def most_useful(test: SequentialTest, state: CellState) -> int:
    """Trials after which the cell is decided if they all survive: more at a time are a waste."""
    low, _ = boundaries(test)
    life = test.evidence(Observation(crashed=False, requests=state.requests))
    if life >= 0:
        return 1
    return max(1, math.ceil((low - state.progress.log_ratio) / life - EPSILON))
