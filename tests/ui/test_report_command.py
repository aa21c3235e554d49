"""`kit report --watch`: the report of a study that is being run."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.study.folder import StudyFolder
from kit.ui.cli import main
from kit.ui.commands import report


def test_a_watched_study_is_written_after_each_trial_until_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "study", ["23.10", "24.05"], ["cancel-race"])
    steps = iter(range(100))
    written: list[tuple[float | None, int]] = []

    def look(_: float) -> None:
        """What happens between two looks: a trial ends, nothing, a trial ends, the study does."""
        match next(steps):
            case 0:
                write_trial(study, "23.10", crash_after=7)
            case 3:
                write_trial(study, "24.05")
            case 6:
                (study.path / "done.json").write_text("{}")

    def write(study: object, into: Path, *, refresh_s: float | None = None, **_: object) -> Path:
        trials = StudyFolder(tmp_path / "study").trials()
        written.append((refresh_s, sum(t.result is not None for t in trials)))
        return into / "study.html"

    monkeypatch.setattr(report.time, "sleep", look)
    monkeypatch.setattr(report, "_write", write)
    assert main(["report", str(study.path), "--watch", "--out", str(tmp_path / "out")]) == 0
    assert written == [(10.0, 0), (10.0, 1), (10.0, 2), (None, 2)]
    assert "2 trials ended" in capsys.readouterr().err
