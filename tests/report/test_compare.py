"""The comparison as a report of its own, from recorded and invented studies."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import matplotlib.pyplot as plt
import pytest
from synthetic_studies import finish_study, first_light, write_study, write_trial

import kit
from kit.errors import NotEnoughDataError
from kit.report.compare import (
    ComparedStudies,
    comparison_document,
    usual_by,
    write_comparison,
)
from kit.stats.compare import headline
from kit.study.folder import StudyFolder
from kit.study.recorded import open_study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, StudyFolder]:
    """Before and after: the second dies of what the first does not, and has a scenario more."""
    folder = tmp_path_factory.mktemp("both")
    before = write_study(folder / "before", ["24.05"], ["control", "cancel-race"])
    after = write_study(folder / "after", ["24.05"], ["control", "cancel-race", "stub-dies"])
    for repeat in range(6):
        write_trial(before, "24.05", repeat=repeat, requests=200)
        write_trial(after, "24.05", repeat=repeat, crash_after=4 + repeat)
        write_trial(after, "24.05", scenario="stub-dies", repeat=repeat, crash_after=2)
    return before, after


@pytest.fixture(scope="module")
def compared(studies: tuple[StudyFolder, StudyFolder]) -> ComparedStudies:
    return ComparedStudies(studies=studies, by="study")


@pytest.mark.slow
def test_the_page_says_who_is_worse_and_what_was_not_compared(
    compared: ComparedStudies, tmp_path: Path
) -> None:
    page = write_comparison(compared, tmp_path)
    assert page.name == "before-against-after.html"
    html = page.read_text()
    assert "<h1>after dies more than before under " in html
    assert "only after had it: " in html
    assert "stub-dies" in html
    assert "<svg" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "after dies more than before" in page.with_suffix(".md").read_text()


@pytest.mark.slow
def test_deaths_under_traffic_of_one_side_alone_are_not_counted(compared: ComparedStudies) -> None:
    (row,) = compared.crashes
    assert (row.first, row.second) == (0, 6)
    assert row.only == "after"


@pytest.mark.slow
def test_the_document_is_strict_json_with_infinite_ratios_as_text(
    compared: ComparedStudies, tmp_path: Path
) -> None:
    document = json.loads(
        write_comparison(compared, tmp_path).with_suffix(".json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert (document["first"], document["second"]) == ("before", "after")
    (one,) = document["comparisons"]
    assert "after is worse than before" in one["says"]
    assert one["crash_rate"]["value"] == 0
    turned = ComparedStudies(studies=compared.studies[::-1], by="study")
    (other,) = comparison_document(turned)["comparisons"]
    assert other["crash_rate"]["value"] == "inf"


@pytest.mark.slow
def test_what_else_two_studies_differ_in_is_shown(compared: ComparedStudies) -> None:
    assert [name for name, _, _ in compared.differences] == ["scenarios"]
    assert {"before", "after"} == set(compared.names)


@pytest.mark.slow
def test_releases_of_one_study_are_compared_without_a_word_on_differences(tmp_path: Path) -> None:
    study = first_light(tmp_path / "study", repeats=5)
    both = ComparedStudies(studies=(study,), by="release", levels=("24.10", "24.05"))
    assert both.differences == []
    assert both.left_out == {"24.10": [], "24.05": []}
    assert "How they died" in write_comparison(both, tmp_path).read_text()


def test_a_rate_is_not_pooled_with_another_rate(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.07", "24.08"], ["control"])
    write_trial(study, "24.07", requests=50)
    write_trial(study, "24.08", requests=50)
    both = ComparedStudies(studies=(study,), by="release")
    vars(both)["trials"] = both.trials.assign(rate=[5.0, 20.0])
    with pytest.raises(NotEnoughDataError):
        _ = both.found


@pytest.mark.slow
def test_hostile_names_stand_as_text(
    studies: tuple[StudyFolder, StudyFolder], tmp_path: Path
) -> None:
    first, second = studies
    hostile = open_study(copytree(first.path, tmp_path / "<b>x&\u202e"))
    html = write_comparison(
        ComparedStudies(studies=(hostile, second), by="study"), tmp_path
    ).read_text()
    assert "<b>x" not in html
    assert "\u202e" not in html


@pytest.mark.slow
def test_a_person_gets_it_from_the_front_door(tmp_path: Path) -> None:
    study = kit.recorded("first_light")
    found = study.compare("24.10", "24.05")
    assert found.report(tmp_path).read_text().startswith("<!doctype html>")
    assert found.sentences[-1].startswith("Over all traffic")
    left, right = found.plot()
    assert left.get_figure() is right.get_figure()
    plt.close("all")


@pytest.mark.slow
def test_studies_of_one_release_each_are_compared_by_release(tmp_path: Path) -> None:
    def study(name: str, *releases: str) -> StudyFolder:
        made = write_study(tmp_path / name, releases, ["cancel-race"])
        for release in releases:
            dies = 7 if release == "24.10" else None
            write_trial(made, release, crash_after=dies, requests=1500)
        return finish_study(made)

    old, new, both = study("old", "24.05"), study("new", "24.10"), study("both", "24.05", "24.10")
    assert usual_by([new, old]) == usual_by([both]) == "release"
    assert usual_by([old, old]) == usual_by([both, both]) == usual_by([both, old]) == "study"
    soaks = ComparedStudies(studies=(new, old), by="release")
    assert soaks.sides == ("24.10", "24.05")
    (said,) = soaks.sentences  # one life each tells a test of lives nothing: requests do
    assert "24.10 is worse than 24.05: 1 of 1 servers died against 0 of 1 (one life each" in said
    assert headline(soaks.found) == "24.10 dies more than 24.05 under cancel-race"
