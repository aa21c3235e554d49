"""What the recorded factor experiment shows: real vLLM in two versions, in three Tritons."""

from __future__ import annotations

import pandas as pd
import pytest

from kit.stats.factors import RELEASES, VLLM_VERSIONS, factor_study, factors, vllm_or_triton
from kit.stats.frames import trials_frame
from kit.study.paths import RECORDED
from kit.study.recorded import open_study

STUDY = RECORDED / "vllm_or_triton"


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return trials_frame(STUDY)


def test_the_whole_design_was_run(trials: pd.DataFrame) -> None:
    assert open_study(STUDY).spec == factor_study()
    assert len(trials) == 54
    assert trials["counted"].all()
    assert set(trials["engine_version"].dropna()) == set(VLLM_VERSIONS)


def test_two_releases_crash_and_one_does_not_whatever_runs_behind_them(
    trials: pd.DataFrame,
) -> None:
    faults = trials[trials["kind"] == "fault"]
    share = faults.groupby(["release", "engine"], observed=True)["crashed"].mean().unstack()

    assert list(share.index) == list(RELEASES)
    assert (share.loc[["23.10", "24.10"]] == 1.0).all(axis=None)
    assert (share.loc["24.05"] == 0.0).all()


def test_the_stack_is_the_reported_one_whatever_runs_behind(trials: pd.DataFrame) -> None:
    died = trials[trials["verdict"] == "crashed"]
    stacks = died.groupby(["release", "engine"], observed=True)["signature_text"].agg(set)

    assert len(stacks) == 6
    assert all("TRITONBACKEND_ResponseFactoryIsCancelled" in text for s in stacks for text in s)


def test_the_answer_is_triton(trials: pd.DataFrame) -> None:
    found = {factor.name: factor for factor in factors(trials)}

    assert vllm_or_triton(list(found.values())).startswith("It is Triton, not vLLM")
    assert found["release"].explained == pytest.approx(1.0)
    assert found["engine"].explained == pytest.approx(0.0)


def test_no_control_crashed(trials: pd.DataFrame) -> None:
    controls = trials[trials["kind"] == "control"]

    assert (controls["verdict"] != "crashed").all()
