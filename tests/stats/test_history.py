"""All studies of a folder, side by side by time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import first_light, write_study, write_trial

from kit.errors import StoreError
from kit.stats.history import index_studies
from kit.study.encoding import to_json
from kit.study.files import write_whole
from kit.study.folder import StudyFolder
from kit.study.result import Verdict
from kit.ui.cli import parser
from kit.ui.console import DONE, NOTHING_LEARNED
from kit.ui.histories import history

DAY_NS = 86_400 * 10**9


def later(study: StudyFolder, days: int) -> StudyFolder:
    """The same study, run so many days later."""
    for trial in study.trials():
        result = trial.result
        assert result is not None
        moved = replace(result, wall_offset_ns=result.wall_offset_ns + days * DAY_NS)
        write_whole(trial.path / "result.json", to_json(moved))
    return study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Spring, in which 24.10 died 5 of 5 times, and autumn, in which it died of nothing."""
    root = tmp_path / "studies"
    first_light(root / "2026" / "spring", repeats=5)
    autumn = write_study(root / "autumn", ["24.10"], ["cancel-race"])
    for repeat in range(5):
        write_trial(autumn, "24.10", repeat=repeat, requests=200, concurrency=16)
    later(StudyFolder(root / "autumn"), 180)
    return root


@pytest.mark.slow
def test_cells_of_the_same_question_are_compared_by_time(folder: Path) -> None:
    found = index_studies(folder)
    assert list(found.table["when"]) == sorted(found.table["when"])
    assert found.table["trials"].sum() == 35
    [change] = found.changes()
    assert (change.first_died, change.first_trials) == (5, 5)
    assert (change.last_died, change.last_trials) == (0, 5)
    assert change.differs
    assert (change.last - change.first).days == 180
    assert found.skipped == {}


@pytest.mark.slow
def test_it_is_told_in_sentences_and_a_table(folder: Path) -> None:
    found = history(folder, release="24.10")
    assert "24.10 under cancel-race (simulated, 16 clients): 5 of 5 died" in found.answer[1]
    assert "0 of 5" in found.answer[1]
    assert "Of 1 cell run in more than one study, 1 differs" in found.answer[2]
    assert "48 % to 100 %" in repr(found)
    assert "<table>" in found._repr_html_()
    assert set(found.table["release"]) == {"24.10"}


@pytest.mark.slow
def test_what_cannot_be_read_is_named_and_loses_no_other(folder: Path) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "study.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / "hostile").mkdir()
    (folder / "hostile" / "study.json").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(folder)
    found = history(folder)
    assert {path.name for path in found.skipped} == {"broken", "hostile"}
    assert found.table["study"].nunique() == 2
    assert "2 folders could not be read: broken and hostile." in found.answer


def test_trials_that_say_nothing_are_no_survivors(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s" / "one", ["24.10"], ["cancel-race"])
    write_trial(study, "24.10", verdict=Verdict.CLIENT_FAULT)
    [row] = index_studies(tmp_path / "s").table.to_dict("records")
    assert (row["trials"], row["died"]) == (0, 0)
    assert row["low"] != row["low"]
    assert "no verdict" in repr(history(tmp_path / "s"))


def test_a_study_by_itself_and_a_folder_without_one(tmp_path: Path) -> None:
    study = first_light(tmp_path / "s", repeats=1)
    assert index_studies(study.path).table["trials"].sum() == 6
    (tmp_path / "nothing").mkdir()
    assert "0 studies" in repr(history(tmp_path / "nothing"))
    with pytest.raises(StoreError, match="no folder"):
        history(tmp_path / "missing")


@pytest.mark.slow
def test_the_command_prints_the_same_and_says_when_there_is_no_study(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        args = parser().parse_args(["history", *words])
        return int(args.function(args))

    assert run(str(folder), "--json", "--scenario", "cancel-race") == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["changes"][0]["p_value"] < 0.05
    assert {cell["scenario"] for cell in told["cells"]} == {"cancel-race"}
    (folder.parent / "nothing").mkdir()
    assert run(str(folder.parent / "nothing")) == NOTHING_LEARNED
