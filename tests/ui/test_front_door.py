"""The lines that a person types first, from an empty notebook, against real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from chances import recorded_chance, until
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import kit

PLOTS = ("plot_crashes", "plot_survival", "plot_latency", "plot_kv", "plot_map")


def run_both(folder: Path | str) -> kit.Study:
    return kit.run(
        ["24.05", "24.10"],
        scenario=["cancel-race", "control"],
        concurrency=[16],
        requests=100,
        repeats=1,
        folder=folder,
        progress=False,
    )


pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kit.Study:
    """Four lives; one is of 24.10 under its race. What is swept has a test of its own below."""
    folder = tmp_path_factory.mktemp("door")
    return until(
        lambda number: run_both(folder / f"study{number}"),
        lambda study: len(study.crashes) > 0,
        chance=recorded_chance("24.10", "cancel-race"),
        known=lambda study: study.finished,
    )


def test_a_study_of_releases_scenarios_and_concurrency_answers(study: kit.Study) -> None:
    assert len(study.trials) == 4
    assert study.finished
    assert "24.10 died" in study.answer
    assert study.answer in " ".join(repr(study).split())
    assert "<table" in study._repr_html_()


@pytest.mark.parametrize("name", PLOTS)
def test_each_plot_draws_it(study: kit.Study, name: str) -> None:
    axes = getattr(study, name)()
    assert isinstance(axes, Axes)
    assert axes.get_title(loc="left")
    plt.close("all")


def test_its_frames_are_tidy_and_its_crashes_have_a_stack(study: kit.Study) -> None:
    assert set(study.requests["trial_id"]) == set(study.trials["trial_id"])
    assert {"release", "concurrency", "itl_ms"} <= set(study.tokens)
    assert {"t_s", "name", "value"} <= set(study.samples)
    crash = study.crashes[0]
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in crash.text
    assert crash.stack
    assert crash.known
    assert crash.advice


def test_it_is_reported_opened_again_and_not_run_twice(study: kit.Study, tmp_path: Path) -> None:
    assert study.report(tmp_path / "reports").suffix == ".html"
    assert kit.open(str(study.path)).trials.equals(study.trials)
    assert run_both(str(study.path)).trials.equals(study.trials)


def test_traffic_of_ones_own_is_swept_and_drawn_by_what_varies(tmp_path: Path) -> None:
    swept = kit.run(
        "24.05",
        workload=kit.Workload(protocol="grpc-stream", requests=10),
        rate=[5, 20],
        output_tokens=[8, 32],
        repeats=1,
        folder=tmp_path / "sweep",
        progress=False,
    )
    cells = swept.trials[["rate", "output_tokens"]].astype(float).to_numpy().tolist()
    assert sorted(cells) == [[5, 8], [5, 32], [20, 8], [20, 32]]
    assert swept.trials["protocol"].eq("grpc-stream").all()
    assert swept.trials["counted"].all()
    assert len(swept.plot_latency().get_xticklabels()) == 4
    plt.close("all")
    rows = [line for line in repr(swept).splitlines() if line.strip().startswith("24.05")]
    assert len(rows) == 4
