"""The sentences of a release map, from invented trials whose truth is known."""

from pathlib import Path

import pytest
from synthetic_studies import release_map_study, write_study, write_trial

from kit.agenda import decided
from kit.map_story import came_back, causes, map_answer, what_it_cost
from kit.records import StudySpec
from kit.report.figures import hero_of
from kit.sequential.wald import TrialTest
from kit.store import StudyFolder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return release_map_study(tmp_path_factory.mktemp("map") / "study")


def test_a_crash_that_comes_back_is_told_from_one_that_never_went(study: StudyFolder) -> None:
    assert came_back(decided(study)) == {"cancel-race": ["23.10", "24.08", "24.10"]}


def test_the_answer_counts_the_releases_and_names_what_returned(study: StudyFolder) -> None:
    said = map_answer(study)
    assert said.startswith("None of 5 releases stands all the traffic")
    assert "cancel-race kills 23.10, 24.08 and 24.10" in said


@pytest.mark.parametrize(("survivals", "said"), [(5, "24.05 stood all"), (4, "None of 1")])
def test_a_release_stands_only_once_its_cells_are_decided(
    tmp_path: Path, survivals: int, said: str
) -> None:
    spec = StudySpec(
        name="one",
        releases=("24.05",),
        scenarios=("cancel-race",),
        repeats=8,
        sequential=TrialTest(),
    )
    study = StudyFolder.create(tmp_path / "study", spec)
    for repeat in range(survivals):
        write_trial(study, "24.05", repeat=repeat, crash_after=None)
    assert said in map_answer(study)


def test_the_cost_says_what_was_saved(study: StudyFolder) -> None:
    said = what_it_cost(study)
    trials = (
        5 * 5 + (2 * 5 + 3) + 5
    )  # controls; the race where it is survived and where not; cancels
    assert said.startswith(f"{trials} trials in 15 cells")
    assert "a fixed design with the same error rates would have needed 120" in said
    assert "No cells are undecided" in said


def test_deaths_at_one_place_are_one_cause(study: StudyFolder) -> None:
    assert causes(study).count("- ") == 1
    assert "8 deaths" in causes(study)


def test_a_study_without_deaths_has_no_cause(tmp_path: Path) -> None:
    quiet = write_study(tmp_path / "study", ["24.05"], ["control"])
    write_trial(quiet, "24.05", scenario="control", crash_after=None)
    assert causes(quiet) == "No server died."


def test_the_map_is_drawn_from_the_study_with_its_decisions(study: StudyFolder) -> None:
    drawing = hero_of(study)
    assert drawing is not None
    (ax,) = drawing.figure().axes
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows[-1] == "control", "controls stand below the faults"
    assert len(ax.patches) == 15
