"""The lines that a person types first, from an empty notebook, against real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

import kit

PLOTS = ("plot_crashes", "plot_survival", "plot_latency", "plot_kv", "plot_map")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kit.Study:
    """Eight lives.

    One 23.10 in twenty outlives 200 requests at concurrency 16, and fewer at 4 than at 16 die at
    once: that both outlive 400 comes in fewer than 1 of 1,000 runs.
    """
    return kit.run(
        ["23.10", "24.05"],
        scenario=["cancel-race", "control"],
        concurrency=[4, 16],
        requests=400,
        repeats=1,
        folder=tmp_path_factory.mktemp("door") / "study",
        progress=False,
    )


def test_a_study_of_releases_scenarios_and_concurrency_answers(study: kit.Study) -> None:
    assert len(study.trials) == 8
    assert study.finished
    assert "Under cancel-race, 23.10 died" in study.answer
    assert "under control" in study.answer
    assert study.answer in " ".join(repr(study).split())
    assert "<table" in study._repr_html_()


@pytest.mark.parametrize("name", PLOTS)
def test_each_plot_draws_it(study: kit.Study, name: str) -> None:
    axes = getattr(study, name)()
    assert isinstance(axes, Axes)
    assert axes.get_title(loc="left")


def test_its_frames_are_tidy_and_its_crashes_have_a_stack(study: kit.Study) -> None:
    assert set(study.requests["trial_id"]) == set(study.trials["trial_id"])
    assert {"release", "concurrency", "itl_ms"} <= set(study.tokens)
    assert {"time_s", "name", "value"} <= set(study.samples)
    crash = study.crashes[0]
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in crash.text
    assert crash.stack
    assert crash.known
    assert crash.advice


def test_it_is_reported_opened_again_and_not_run_twice(study: kit.Study, tmp_path: Path) -> None:
    assert study.report(tmp_path / "reports").suffix == ".html"
    again = kit.open(str(study.path))
    assert again.trials.equals(study.trials)
    resumed = kit.run(
        ["23.10", "24.05"],
        scenario=["cancel-race", "control"],
        concurrency=[4, 16],
        requests=400,
        repeats=1,
        folder=str(study.path),
        progress=False,
    )
    assert resumed.trials.equals(study.trials)


def test_traffic_of_ones_own_is_swept_and_drawn_by_what_varies(tmp_path: Path) -> None:
    swept = kit.run(
        "24.05",
        workload=kit.Workload(protocol="grpc-stream", requests=20),
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
    labels = [tick.get_text() for tick in swept.plot_latency().get_xticklabels()]
    assert len(labels) == 4
    rows = [line for line in repr(swept).splitlines() if line.strip().startswith("24.05")]
    assert len(rows) == 4
