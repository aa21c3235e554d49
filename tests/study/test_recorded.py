"""Recorded studies read like the folders they were made of."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from synthetic_studies import first_light

from kit.errors import StoreError
from kit.report.page import write_report
from kit.stats.frames import (
    client_frame,
    requests_frame,
    samples_frame,
    token_gaps_frame,
    trials_frame,
)
from kit.study.folder import StudyFolder
from kit.study.recorded import is_recorded, open_study, record_study
from kit.ui.cli import main

FRAMES = [trials_frame, requests_frame, samples_frame, client_frame, token_gaps_frame]


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return first_light(tmp_path / "study")


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_of_a_recorded_study_is_that_of_the_study(
    study: StudyFolder, tmp_path: Path, frame: Callable[[Path], pd.DataFrame]
) -> None:
    record_study(study, tmp_path / "recorded", about="A test.")
    pd.testing.assert_frame_equal(frame(tmp_path / "recorded"), frame(study.path))


def test_a_table_that_was_left_out_reads_as_empty(study: StudyFolder, tmp_path: Path) -> None:
    recorded = record_study(study, tmp_path / "recorded", about="A test.", tables=["requests"])
    assert samples_frame(recorded).empty
    assert not requests_frame(recorded).empty
    assert (
        "Left out to keep it small: `client`, `samples`"
        in (recorded.path / "README.md").read_text()
    )


def test_only_recorded_studies_are_called_recorded(study: StudyFolder, tmp_path: Path) -> None:
    record_study(study, tmp_path / "recorded", about="A test.")
    assert is_recorded(open_study(tmp_path / "recorded"))
    assert not is_recorded(open_study(study.path))
    assert "recorded" in write_report(tmp_path / "recorded", tmp_path / "report").read_text()


def test_a_recorded_study_is_never_overwritten(study: StudyFolder, tmp_path: Path) -> None:
    record_study(study, tmp_path / "recorded", about="A test.")
    with pytest.raises(StoreError, match="exists already"):
        record_study(study, tmp_path / "recorded", about="A test.")


def test_an_unfinished_study_is_not_recorded(study: StudyFolder, tmp_path: Path) -> None:
    trial = study.trials()[0]
    (trial.path / "result.json").unlink()
    with pytest.raises(StoreError, match=trial.path.name):
        record_study(study, tmp_path / "recorded", about="A test.")


def test_a_log_that_is_recorded_names_no_folder_of_the_machine(
    study: StudyFolder, tmp_path: Path
) -> None:
    dead = next(t for t in study.trials() if t.result and t.result.signature)
    dead.log.write_text(f"loading {dead.path}/repository\n{Path.home()}/.cache/x.so\nSignal (11)\n")
    recorded = record_study(study, tmp_path / "recorded", about="A test.")
    log = recorded.trial(dead.spec.trial_id).log_text()
    assert log is not None
    assert log.splitlines() == ["loading <trial>/repository", "~/.cache/x.so", "Signal (11)"]


def test_the_command_writes_the_copy_that_the_repository_keeps(
    study: StudyFolder, tmp_path: Path
) -> None:
    about = tmp_path / "about.md"
    about.write_text("A test of the command.")
    into = tmp_path / "recorded"
    assert main(["dev", "record", str(study.path), str(into), "--about", str(about)]) == 0
    assert is_recorded(open_study(into))
    assert "A test of the command." in (into / "README.md").read_text()
