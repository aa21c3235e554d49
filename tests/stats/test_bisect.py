"""kit.stats.bisect on synthetic lines of releases whose truth is known."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product

import pytest
from effort import many
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import SpecError
from kit.stats.bisect import (
    BELIEFS,
    DETECTS,
    MOST_SILENT,
    Assumptions,
    Bisection,
    Count,
    Line,
    find_flips,
)

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


@pytest.mark.slow
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


@pytest.mark.slow
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


def wrong_lines(
    detect: float, lines: int, *, confidence: float = 0.95, assume: Assumptions | None = None
) -> tuple[int, float]:
    """How many of so many random lines the search gets wrong although it says that it is sure,
    and the mean number of trials.
    """
    rng, wrong, trials = random.Random(3), 0, 0
    for _ in range(lines):
        state, truth = rng.random() < 0.5, {}
        for release in LINE:
            truth[release] = state
            state ^= rng.random() < 0.2
        found = find_flips(
            LINE,
            lambda release, truth=truth: rng.random() < (detect if truth[release] else 0.0),
            confidence=confidence,
            assume=assume,
        )
        wrong += found.decided and list(found.dies) != list(truth.values())
        trials += found.trials
    return wrong, trials / lines


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_answer_is_wrong_no_more_often_than_it_says(confidence: float) -> None:
    assume = Assumptions(detect=0.9)
    lines = many(40, 150)
    wrong, _ = wrong_lines(0.9, lines, confidence=confidence, assume=assume)
    expected = lines * (1 - confidence)
    assert wrong <= expected + 3 * math.sqrt(expected)


@pytest.mark.slow
@pytest.mark.parametrize("detect", [0.4, 0.5, 0.75, 1.0])
def test_it_is_no_more_often_wrong_where_a_crash_comes_seldom(detect: float) -> None:
    """Nothing is told of how often a release that dies does so."""
    wrong, trials = wrong_lines(detect, many(24, 60))
    assert wrong <= many(4, 7)  # 5 % expected; more has probability 0.6 % (24), 1.0 % (60)
    assert trials < 20 * len(LINE) / 3
    assert detect < 1 or trials < 4 * len(LINE), "where it always comes, few trials are enough"


@pytest.mark.slow
def test_one_number_assumed_for_all_crashes_would_be_wrong_more_often_than_it_says() -> None:
    """The check of the check above: it notices what it is there for."""
    wrong, _ = wrong_lines(0.5, 40, assume=Assumptions(detect=0.9))
    assert wrong > 12


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


def test_calls_that_ran_nothing_are_no_trials() -> None:
    found = find_flips(LINE, lambda release: True if release == "23.10" else None, budget=40)
    tried = {tried.release: tried.trials for tried in found.releases}
    assert found.trials == tried.pop("23.10") > 0
    assert set(tried.values()) == {0}


def test_how_often_a_dying_release_dies_is_learned_along_the_line() -> None:
    names, script = ["a", "b", "c"], {"a": [1, 0, 1], "b": [0, 0], "c": [1]}
    counts = [Count(trials=len(s), deaths=sum(s)) for s in script.values()]
    line = Line.of(Assumptions(flip=0.3, false_alarm=0.01), counts)
    weights: dict[tuple[tuple[bool, ...], float], float] = {}
    for states in product([False, True], repeat=3):
        for detect, belief in zip(DETECTS, BELIEFS, strict=True):
            weight = 0.5 * belief
            for old, new in pairwise(states):
                weight *= 0.3 if old != new else 0.7
            for dies, seen in zip(states, script.values(), strict=True):
                chance = detect if dies else 0.01
                weight *= math.prod(chance if died else 1 - chance for died in seen)
            weights[states, float(detect)] = weight
    total = sum(weights.values())
    for i, name in enumerate(names):
        marginal = sum(w for (states, _), w in weights.items() if states[i]) / total
        assert line.marginals()[i] == pytest.approx(marginal), name
    assert line.detect() == pytest.approx(sum(d * w for (_, d), w in weights.items()) / total)
    by_line = {
        states: sum(w for (s, _), w in weights.items() if s == states) / total
        for states, _ in weights
    }
    assert line.likeliest() == (
        max(by_line, key=by_line.__getitem__),
        pytest.approx(max(by_line.values())),
    )
    pair = sum(p for states, p in by_line.items() if states[:2] == (True, False))
    assert line.pair(0, 1, 0) == pytest.approx(pair)


def test_lines_that_make_no_sense_are_refused() -> None:
    for releases in ([], ["a", "a"]):
        with pytest.raises(SpecError):
            find_flips(releases, lambda _: True)
    with pytest.raises(SpecError):
        find_flips(["a"], lambda _: True, confidence=1.0)
    with pytest.raises(SpecError):
        Assumptions(detect=1.0)
