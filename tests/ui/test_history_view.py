"""The page of earlier studies in the application."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_studies import first_light

from kit.ui.app import app_notebook
from kit.ui.history_view import ALL, HistoryView

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def view(tmp_path: Path) -> HistoryView:
    first_light(tmp_path / "spring")
    (tmp_path / HOSTILE).mkdir()
    (tmp_path / HOSTILE / "study.json").write_text("{")
    return HistoryView(tmp_path)


def test_nothing_is_read_before_it_is_asked_for(view: HistoryView) -> None:
    assert view.listed.value == ""
    assert view.children == (view.show,)


@pytest.mark.slow
def test_a_click_lists_the_studies_and_a_choice_takes_a_part(view: HistoryView) -> None:
    view.show.click()
    assert "1 study, 18 trials" in view.listed.value
    assert view.release.options == (ALL, "23.10", "24.05", "24.10")
    view.release.value = "24.05"
    assert "1 study, 6 trials" in view.listed.value
    view.scenario.value = "control"
    assert "1 study, 3 trials" in view.listed.value
    view.show.click()
    assert (view.release.value, view.scenario.value) == ("24.05", "control")


def test_what_a_folder_is_called_is_text(view: HistoryView) -> None:
    view.show.click()
    assert "could not be read" in view.listed.value
    assert "<img" not in view.listed.value


def test_where_nothing_was_run_it_says_so(tmp_path: Path) -> None:
    view = HistoryView(tmp_path / "none")
    view.show.click()
    assert "No study was run here yet." in view.listed.value


def test_the_application_shows_it_beneath_the_panel(tmp_path: Path) -> None:
    text = app_notebook(tmp_path, tmp_path / "studies").read_text()
    assert text.index("Panel(") < text.index("HistoryView(")
