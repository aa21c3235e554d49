"""kit.study.sequential against printed tables, exact enumeration and synthetic servers."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import SpecError
from kit.runner.next_cells import CellState, likely_to_decide, most_useful, next_cells
from kit.stats.sequential import dies_at_hazard, dies_with, simulate
from kit.study.sequential import (
    Decision,
    Observation,
    Progress,
    RequestTest,
    TrialTest,
    boundaries,
    characteristic,
    decide,
    expected_trials,
    fixed_trials,
    lines,
    saving,
)

DIED, LIVED = Observation(crashed=True, requests=30), Observation(crashed=False, requests=200)
TEST = TrialTest()


def cell(decision: Decision = Decision.OPEN, ratio: float = 0.0, trials: int = 0) -> CellState:
    return CellState(progress=Progress(decision=decision, log_ratio=ratio, trials=trials))


def test_lines_equal_the_nist_handbook() -> None:
    """NIST/SEMATECH e-Handbook 6.2.6: p1 .01, p2 .10, alpha .05, beta .10."""
    found = lines(TrialTest(survives=0.01, crashes=0.10, alpha=0.05, beta=0.10))
    assert (round(found.h1, 4), round(found.h2, 4)) == (0.9389, 1.2054)
    assert round(found.slope, 4) == 0.0397


def test_lines_equal_montgomery() -> None:
    """Montgomery, Introduction to Statistical Quality Control, 15.3: p1 .01, p2 .06, .05, .10."""
    found = lines(TrialTest(survives=0.01, crashes=0.06, alpha=0.05, beta=0.10))
    assert (round(found.h1, 2), round(found.h2, 2)) == (1.22, 1.57)
    assert round(found.slope, 3) == 0.028


@pytest.mark.parametrize(
    ("survives", "crashes", "beta", "n", "deaths"),
    [(0.01, 0.10, 0.10, 24, (0, 3)), (0.01, 0.06, 0.10, 45, (0, 3))],
)
def test_acceptance_and_rejection_numbers_equal_the_tables(
    survives: float, crashes: float, beta: float, n: int, deaths: tuple[int, int]
) -> None:
    """NIST: at 24 inspected accept 0, reject 3. Montgomery: at 45 likewise."""
    test = TrialTest(survives=survives, crashes=crashes, alpha=0.05, beta=beta)
    low, high = boundaries(test)

    def ratio(k: int) -> float:
        return k * test.evidence(DIED) + (n - k) * test.evidence(LIVED)

    assert max(k for k in range(n + 1) if ratio(k) <= low) == deaths[0]
    assert min(k for k in range(n + 1) if ratio(k) >= high) == deaths[1]


def test_by_default_one_death_decides_and_so_do_five_survivals() -> None:
    assert decide(TEST, [DIED]).decision is Decision.CRASHES
    assert decide(TEST, [LIVED] * 4).decision is Decision.OPEN
    assert decide(TEST, [LIVED] * 5).decision is Decision.SURVIVES
    assert decide(TEST, []).decision is Decision.OPEN
    assert decide(TEST, [LIVED] * 3, budget=3).decision is Decision.UNDECIDED


def test_what_ran_beside_the_decisive_trial_does_not_undo_the_decision() -> None:
    found = decide(TEST, [LIVED] * 5 + [DIED] * 5)
    assert (found.decision, found.trials) == (Decision.SURVIVES, 5)


@given(st.lists(st.booleans(), min_size=7, max_size=7))
def test_the_ratio_is_that_of_the_two_likelihoods(deaths: list[bool]) -> None:
    test = TrialTest(survives=0.3, crashes=0.4, alpha=1e-6, beta=1e-6)
    found = decide(test, [DIED if d else LIVED for d in deaths])
    k = sum(deaths)
    likelihood = [p**k * (1 - p) ** (7 - k) for p in (0.4, 0.3)]
    assert found.log_ratio == pytest.approx(math.log(likelihood[0] / likelihood[1]))


def test_the_hazard_test_weighs_how_long_a_trial_lasted() -> None:
    test = RequestTest(survives=1e-4, crashes=1e-2)
    early = test.evidence(Observation(crashed=True, requests=3))
    late = test.evidence(Observation(crashed=True, requests=900))
    assert early > 0 > late
    assert test.evidence(Observation(crashed=False, requests=400)) == pytest.approx(-3.96)


@pytest.mark.parametrize("probability", [0.02, 0.2, 0.5])
def test_the_exact_characteristic_is_the_sum_over_all_courses(probability: float) -> None:
    budget, said, spent = 8, dict.fromkeys(Decision, 0.0), 0.0
    for course in product([True, False], repeat=budget):
        chance = math.prod(probability if died else 1 - probability for died in course)
        found = decide(TEST, [DIED if died else LIVED for died in course], budget=budget)
        said[found.decision] += chance
        spent += chance * found.trials
    exact = characteristic(TEST, probability, budget=budget)
    assert exact.crashes == pytest.approx(said[Decision.CRASHES])
    assert exact.survives == pytest.approx(said[Decision.SURVIVES])
    assert exact.undecided == pytest.approx(said[Decision.UNDECIDED])
    assert exact.expected_trials == pytest.approx(spent)


@pytest.mark.parametrize(
    "test", [TEST, TrialTest(survives=0.1, crashes=0.3, alpha=0.02, beta=0.03)]
)
def test_error_rates_keep_walds_bounds_exactly(test: TrialTest) -> None:
    safe = characteristic(test, test.survives, budget=500)
    deadly = characteristic(test, test.crashes, budget=500)
    assert safe.crashes <= test.alpha / (1 - test.beta)
    assert deadly.survives <= test.beta / (1 - test.alpha)
    assert safe.crashes + deadly.survives <= test.alpha + test.beta


@pytest.mark.parametrize(
    ("probability", "wrong"), [(TEST.survives, "crashes"), (TEST.crashes, "survives")]
)
def test_thousands_of_synthetic_servers_are_judged_as_surely_as_promised(
    probability: float, wrong: str
) -> None:
    seen = simulate(TEST, dies_with(probability), servers=4000, budget=100, seed=7)
    exact = characteristic(TEST, probability, budget=100)
    assert getattr(seen, wrong) < 0.05
    spread = math.sqrt(0.05 * 0.95 / 4000)
    assert abs(getattr(seen, wrong) - getattr(exact, wrong)) < 4 * spread
    assert seen.mean_trials == pytest.approx(exact.expected_trials, rel=0.05)


def test_hazards_of_synthetic_servers_are_judged_as_surely_as_promised() -> None:
    test = RequestTest()
    safe = simulate(test, dies_at_hazard(test.survives, requests=1000), servers=3000, budget=100)
    deadly = simulate(test, dies_at_hazard(test.crashes, requests=1000), servers=3000, budget=100)
    assert safe.crashes < 0.05 / 0.95 + 0.005
    assert deadly.survives < 0.05 / 0.95 + 0.005
    assert safe.undecided + deadly.undecided < 0.01


def test_walds_approximate_sample_sizes_are_near_the_exact_means() -> None:
    """His formula neglects the overshoot: near where steps are small against the boundaries."""
    test = TrialTest(survives=0.1, crashes=0.3, alpha=0.02, beta=0.03)
    for probability in (0.1, test_slope := lines(test).slope, 0.3):
        exact = characteristic(test, probability, budget=2000).expected_trials
        assert expected_trials(test, probability) == pytest.approx(exact, rel=0.15)
    assert test_slope == pytest.approx(0.1862, abs=5e-5)


def test_a_fixed_design_needs_more_trials() -> None:
    fixed = fixed_trials(TEST)
    assert fixed == 8
    assert characteristic(TEST, 0.02, budget=100).expected_trials < fixed
    cells = [decide(TEST, [DIED]), decide(TEST, [LIVED] * 5)]
    saved = saving(TEST, cells)
    assert (saved.trials, saved.fixed, saved.fraction) == (6, 16, 1 - 6 / 16)


@pytest.mark.parametrize(
    "wrong",
    [{"survives": 0.0}, {"survives": 0.6}, {"crashes": 1.0}, {"alpha": 0.6}, {"beta": 0.0}],
)
def test_hypotheses_that_no_trial_can_tell_apart_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        TrialTest(**wrong)


def test_every_cell_gets_one_trial_before_any_gets_two() -> None:
    cells = {"a": cell(), "b": cell(ratio=-0.7, trials=1), "c": cell()}
    assert next_cells(TEST, cells, slots=2, budget=10) == ["a", "c"]


def test_trials_go_where_the_question_is_open_and_nearly_decided() -> None:
    cells = {
        "done": cell(Decision.CRASHES, 3.2, 1),
        "far": cell(ratio=-0.7, trials=1),
        "near": cell(ratio=-2.7, trials=4),
        "spent": cell(ratio=-0.7, trials=10),
    }
    assert next_cells(TEST, cells, slots=1, budget=10) == ["near"]
    assert "done" not in next_cells(TEST, cells, slots=9, budget=10)
    assert "spent" not in next_cells(TEST, cells, slots=9, budget=10)


def test_no_more_trials_run_beside_each_other_than_can_be_needed() -> None:
    nearly = cell(ratio=-2.7, trials=4)
    assert (likely_to_decide(TEST, nearly), most_useful(TEST, nearly)) == (1, 1)
    assert next_cells(TEST, {"near": nearly}, slots=4, budget=100) == ["near"]
    assert len(next_cells(TEST, {"new": cell()}, slots=40, budget=100)) == 5


def test_a_whole_study_decides_right_and_spends_less_than_a_fixed_one() -> None:
    """Twenty cells, three trials at a time; ends in random order, decided in order of start."""
    rng = random.Random(4)
    truth = {f"cell {i}": 0.95 if i % 4 == 0 else 0.0 for i in range(20)}
    started: dict[str, list[Observation | None]] = {name: [] for name in truth}
    running: list[tuple[str, int]] = []

    def state(name: str) -> CellState:
        whole = []
        for seen in started[name]:
            if seen is None:
                break
            whole.append(seen)
        return CellState(progress=decide(TEST, whole, budget=12), running=started[name].count(None))

    while True:
        states = {name: state(name) for name in truth}
        for name in next_cells(TEST, states, slots=3 - len(running), budget=12):
            running.append((name, len(started[name])))
            started[name].append(None)
        if not running:
            break
        name, index = running.pop(rng.randrange(len(running)))
        started[name][index] = Observation(crashed=rng.random() < truth[name], requests=100)
    said = {name: state(name).progress.decision for name in truth}
    assert said == {name: Decision.CRASHES if p else Decision.SURVIVES for name, p in truth.items()}
    assert sum(map(len, started.values())) < fixed_trials(TEST) * len(truth)
