"""Crashes that went and came back along the line, told from cells that were lucky."""

from __future__ import annotations

import random

import pandas as pd
import pytest

from kit.stats.returns import returns, segments
from kit.study.sequential import Observation, TrialTest, decide

LINE = ["23.10", "23.12", *(f"24.{month:02}" for month in range(1, 11))]


def cells(rows: dict[str, tuple[int, int]], **verdicts: str) -> pd.DataFrame:
    """release -> (died, trials); "crashes" where any died, unless it is said otherwise."""
    return pd.DataFrame(
        [
            {
                "release": release,
                "scenario": "cancel-race",
                "died": died,
                "trials": trials,
                "verdict": verdicts.get(
                    f"r{release.replace('.', '_')}", "crashes" if died else "survives"
                ),
            }
            for release, (died, trials) in rows.items()
        ]
    )


def by_luck(chance: float, rng: random.Random) -> pd.DataFrame:
    """Twelve releases that are all alike, each tested as the map tests its cells."""
    rows = []
    for release in LINE:
        seen = [Observation(crashed=rng.random() < chance) for _ in range(12)]
        found = decide(TrialTest(), seen, budget=12)
        trials = max(5, found.trials)
        rows.append(
            {
                "release": release,
                "scenario": "s",
                "died": sum(o.crashed for o in seen[:trials]),
                "trials": trials,
                "verdict": found.decision.value,
            }
        )
    return pd.DataFrame(rows)


@pytest.mark.slow
@pytest.mark.parametrize("chance", [0.15, 0.3, 0.5, 0.7])
def test_a_line_that_dies_alike_everywhere_seems_to_return_in_few_maps(chance: float) -> None:
    rng = random.Random(1)
    assert sum(bool(returns(by_luck(chance, rng))) for _ in range(200)) <= 7  # 1 % at most: 2


def test_a_crash_that_went_and_came_back_is_found() -> None:
    truth = {r: (5, 5) if r == "23.10" or r >= "24.08" else (0, 5) for r in LINE}
    (line,) = returns(cells(truth)).values()
    assert [(s.dies, s.releases[0], s.releases[-1]) for s in line] == [
        (True, "23.10", "23.10"),
        (False, "23.12", "24.07"),
        (True, "24.08", "24.10"),
    ]


def test_a_crash_that_only_went_or_only_came_does_not_return() -> None:
    for newest in (True, False):
        truth = {r: (5, 5) if (r >= "24.05") == newest else (0, 5) for r in LINE}
        assert returns(cells(truth)) == {}
        assert len(segments(cells(truth))) == 2


def test_one_lucky_cell_is_joined_with_its_neighbours_and_named_as_decided_otherwise() -> None:
    truth = {"24.01": (4, 8), "24.02": (5, 8), "24.03": (0, 5), "24.04": (5, 8)}
    (line,) = segments(cells(truth))
    assert (line.dies, line.died, line.trials) == (True, 14, 29)
    assert (line.releases, line.others) == (("24.01", "24.02", "24.04"), ("24.03",))


def test_an_undecided_release_is_neither_spared_nor_killed() -> None:
    truth = {"24.01": (8, 8), "24.02": (0, 3), "24.03": (0, 9), "24.04": (9, 9)}
    (line,) = returns(cells(truth, r24_02="undecided")).values()
    assert [s.releases for s in line] == [("24.01",), ("24.03",), ("24.04",)]
