"""Claims about loads that stop by their own rule: told from the records, and said in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.load.worker.counts import failed
from kit.report.page import write_report
from kit.report.sentences import early_sentence
from kit.stats.frames import trials_frame
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.result import Outcome
from kit.study.spec import Fault, FaultKind


@pytest.fixture
def half(tmp_path: Path) -> TrialFolder:
    """40 requests, 12 of which failed."""
    study = write_study(tmp_path / "s", ["24.05"], ["control"])
    outcomes = dict.fromkeys(range(0, 36, 3), Outcome.HTTP_ERROR)
    return write_trial(study, "24.05", scenario="control", requests=40, outcomes=outcomes)


def test_what_a_fault_intends_is_no_failure(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["control"])
    given = dict.fromkeys(range(20), Outcome.DISCONNECTED)
    leaves = (Fault(kind=FaultKind.DISCONNECT),)
    on_purpose = write_trial(study, "24.05", requests=40, outcomes=given, faults=leaves)
    assert failed(on_purpose.requests()) == 0
    by_itself = write_trial(study, "24.05", repeat=1, requests=40, outcomes=given)
    assert failed(by_itself.requests()) == 20


@pytest.mark.slow
def test_the_report_and_the_frame_say_which_loads_stopped_early(
    half: TrialFolder, tmp_path: Path
) -> None:
    study = StudyFolder(tmp_path / "s")
    assert early_sentence(study) == ""
    assert half.result is not None
    half.finish(replace(half.result, stopped_early="12 of 40 requests failed"))
    assert trials_frame(study)["stopped_early"].tolist() == ["12 of 40 requests failed"]
    page = write_report(study, tmp_path / "reports").read_text(encoding="utf-8")
    assert 'id="early">In 1 of 1 trials the load stopped early' in page
    ticket = (tmp_path / "reports" / "latest.md").read_text(encoding="utf-8")
    assert "\nIn 1 of 1 trials the load stopped early" in ticket
