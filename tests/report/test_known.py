"""A report says what is known of its releases beyond what the study itself measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_studies import first_light, write_study, write_trial

from kit.report.known import known_beyond
from kit.report.page import write_report
from kit.stats.frames import trials_frame
from kit.study.folder import StudyFolder


def section(page: str) -> str:
    found = re.search(r'<section id="known".*?</section>', page, re.S)
    return found[0] if found else ""


def study_of(folder: Path, *releases: str, scenario: str = "cancel-race") -> StudyFolder:
    study = write_study(folder, list(releases), [scenario])
    for release in releases:
        write_trial(study, release, scenario=scenario)
    return study


@pytest.mark.slow
def test_what_others_found_stands_with_the_decision_and_folded_where_long(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", "24.05", "26.11")
    text = write_report(study.path, tmp_path / "reports").read_text()
    known = section(text)
    first, folded = known.split("<details>")
    assert "known to be hit under cancel-race: 26.11 (read in source)" in first
    assert first.count("<p") == 1
    assert "<strong>is-cancelled-after-final</strong>" in folded
    assert "Known of 24.05 and 26.11 under other traffic: " in folded
    assert text.index('id="decision"') < text.index('id="known"') < text.index('id="result"')
    ticket = (tmp_path / "reports" / "latest.md").read_text()
    assert "Beyond this study: known to be hit under cancel-race: 26.11" in ticket


def test_what_the_study_measured_is_not_told_as_unmeasured(tmp_path: Path) -> None:
    def untold(study: StudyFolder) -> list[str]:
        more = known_beyond(study, trials_frame(study)).more
        return [text for text in more if text.startswith("nobody has measured")]

    assert not untold(study_of(tmp_path / "a", "26.11"))
    half = write_study(tmp_path / "b", ["26.11"], ["cancel-race", "grpc-stream-disconnect"])
    write_trial(half, "26.11", scenario="cancel-race")
    assert not [text for text in untold(half) if "cancel-race" in text]


@pytest.mark.slow
def test_what_died_in_the_study_is_left_to_its_decision(tmp_path: Path) -> None:
    study = first_light(tmp_path / "s")
    known = known_beyond(study, trials_frame(study))
    assert "23.10 (" not in known.line
    assert "24.10 (" not in known.line
    assert not known.faults


@pytest.mark.slow
def test_a_control_is_about_no_fault_of_the_catalog(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", "24.05", scenario="control")
    known = section(write_report(study.path, tmp_path / "reports").read_text())
    assert "no fault of the catalog is about this traffic (control)" in known
    assert "Under control" not in known
