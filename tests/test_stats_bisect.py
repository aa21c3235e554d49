"""kit.bisect on synthetic lines of releases whose truth is known."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.bisect import MOST_SILENT, Assumptions, Bisection, find_flips
from kit.errors import SpecError

LINE = ["23.07", "23.10", "23.12", *(f"24.{month:02}" for month in range(1, 11))]
SURE = Assumptions(flip=0.15, detect=0.99, false_alarm=0.001)


def dying(*releases: str) -> dict[str, bool]:
    return {release: release in releases for release in LINE}


def test_all_three_flips_of_the_cancellation_crash_are_found() -> None:
    truth = dying("23.10", "24.08", "24.09", "24.10")
    found = find_flips(LINE, truth.__getitem__, assume=SURE)
    assert [(f.older, f.newer, f.came) for f in found.flips] == [
        ("23.07", "23.10", True),
        ("23.10", "23.12", False),
        ("24.07", "24.08", True),
    ]
    assert found.decided
    assert all(flip.probability > 0.9 for flip in found.flips)
    assert found.trials < 5 * len(LINE)  # what a fixed five trials a release would take


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=16))
def test_any_line_is_found_when_much_is_believed_possible(line: list[bool]) -> None:
    """With flip 0.5 neighbours tell nothing of each other: everything is tried."""
    names = [f"r{i}" for i in range(len(line))]
    assume = Assumptions(flip=0.5, detect=0.999, false_alarm=0.001)
    found = find_flips(names, lambda name: line[int(name[1:])], assume=assume)
    assert list(found.dies) == line
    wanted = [(names[i], names[i + 1]) for i in range(len(line) - 1) if line[i] != line[i + 1]]
    assert [(flip.older, flip.newer) for flip in found.flips] == wanted


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 40), st.data())
def test_one_flip_is_found_in_about_half_as_many_trials_as_releases(
    length: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, length - 1))
    assume = Assumptions(flip=0.02, detect=0.999, false_alarm=0.0001)
    names = [f"r{i}" for i in range(length)]
    found = find_flips(names, lambda name: int(name[1:]) >= at, assume=assume, confidence=0.99)
    assert [(flip.older, flip.newer) for flip in found.flips] == [(f"r{at - 1}", f"r{at}")]
    assert found.trials <= length // 2 + 4


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_answer_is_wrong_no_more_often_than_it_says(confidence: float) -> None:
    rng, assume, wrong = random.Random(3), Assumptions(), 0
    for _ in range(150):
        state, truth = rng.random() < 0.5, {}
        for release in LINE:
            truth[release] = state
            state ^= rng.random() < assume.flip
        found = find_flips(
            LINE,
            lambda release, truth=truth: (
                rng.random() < (assume.detect if truth[release] else assume.false_alarm)
            ),
            confidence=confidence,
        )
        wrong += list(found.dies) != list(truth.values())
    expected = 150 * (1 - confidence)
    assert wrong <= expected + 3 * math.sqrt(expected)


def test_the_posterior_is_that_of_bayes_over_all_lines() -> None:
    """Against plain enumeration of the 2**4 lines."""
    names, seen = ["a", "b", "c", "d"], {"a": [True], "c": [False, False]}
    steps: list[Bisection] = []
    script = iter([*seen["a"], *seen["c"]])
    assume = Assumptions(flip=0.2, detect=0.7, false_alarm=0.05)
    tried: list[str] = []

    def run(name: str) -> bool:
        tried.append(name)
        return next(script)

    find_flips(names, run, budget=3, assume=assume, on_trial=steps.append, confidence=0.999)
    outcomes = list(zip(tried, [True, False, False], strict=True))
    weights = {}
    for line in product([False, True], repeat=4):
        weight = 0.5
        for old, new in pairwise(line):
            weight *= 0.2 if old != new else 0.8
        for name, died in outcomes:
            p = 0.7 if line[names.index(name)] else 0.05
            weight *= p if died else 1 - p
        weights[line] = weight
    total = sum(weights.values())
    best = max(weights.values())
    assert weights[steps[-1].dies] == pytest.approx(best)  # two lines may be equally likely
    assert steps[-1].probability == pytest.approx(best / total)
    for i, release in enumerate(steps[-1].releases):
        marginal = sum(w for line, w in weights.items() if line[i]) / total
        assert release.dies == pytest.approx(marginal)
    for flip in steps[-1].flips:
        i = names.index(flip.older)
        pair = sum(w for line, w in weights.items() if line[i] != flip.came == line[i + 1])
        assert flip.probability == pytest.approx(pair / total)


def test_a_release_that_cannot_be_tried_is_left_and_the_rest_is_found() -> None:
    asked: list[str] = []

    def run(release: str) -> bool | None:
        asked.append(release)
        return None if release == "24.04" else release >= "24.08"

    found = find_flips(LINE, run, assume=SURE)
    assert asked.count("24.04") <= MOST_SILENT
    assert [(f.older, f.newer) for f in found.flips] == [("24.07", "24.08")]


def test_a_budget_ends_the_search_and_says_that_nothing_is_decided() -> None:
    found = find_flips(LINE, dying("23.10").__getitem__, budget=2)
    assert (found.trials, found.decided) == (2, False)


def test_lines_that_make_no_sense_are_refused() -> None:
    for releases in ([], ["a", "a"]):
        with pytest.raises(SpecError):
            find_flips(releases, lambda _: True)
    with pytest.raises(SpecError):
        find_flips(["a"], lambda _: True, confidence=1.0)
    with pytest.raises(SpecError):
        Assumptions(detect=1.0)
