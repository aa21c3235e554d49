"""The sentences of a release map, from invented trials whose truth is known."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import SEGFAULT, release_map_study, write_study, write_trial

from kit.plots.release_map import release_map, signature_key
from kit.report.decision import study_decision
from kit.report.page import write_report
from kit.report.release_map import (
    CHANCES,
    beside_answer,
    beside_sentences,
    bounds,
    causes,
    how_sure,
    map_answer,
    what_it_cost,
)
from kit.stats.frames import trials_frame
from kit.study.folder import StudyFolder
from kit.study.paths import RECORDED
from kit.study.recorded import open_study
from kit.study.result import Frame
from kit.study.sequential import TrialTest, characteristic
from kit.study.spec import EngineKind, StudySpec, embedded
from kit.ui.study_view import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return release_map_study(tmp_path_factory.mktemp("map") / "study")


def test_the_answer_counts_the_releases_and_names_what_returned(study: StudyFolder) -> None:
    assert map_answer(study) == (
        "None of 5 releases stands all the traffic that was tried. And crashes return: "
        "cancel-race kills 23.10, spares 23.12 and 24.05 and kills 24.08 and 24.10."
    )


@pytest.mark.parametrize(
    ("survivals", "said"),
    [
        (5, "Of 1 releases 24.05 stood all"),
        (4, "Of 1 releases 0 die under some of the traffic that was tried, and no other is"),
    ],
)
def test_a_release_stands_only_once_its_cells_are_decided(
    tmp_path: Path, survivals: int, said: str
) -> None:
    study = sequential_study(tmp_path, ("24.05",), ("cancel-race",))
    for repeat in range(survivals):
        write_trial(study, "24.05", repeat=repeat, crash_after=None)
    assert map_answer(study).startswith(said)
    assert ("(1 of 1 cells undecided)" in map_answer(study)) == (survivals == 4)


def sequential_study(
    path: Path, releases: tuple[str, ...], scenarios: tuple[str, ...]
) -> StudyFolder:
    spec = StudySpec(
        name="one",
        servers=embedded(*releases),
        scenarios=scenarios,
        repeats=8,
        sequential=TrialTest(),
    )
    return StudyFolder.create(path / "study", spec)


def test_the_kits_own_doing_and_controls_are_no_traffic_that_kills(tmp_path: Path) -> None:
    """A model that ends itself and a control that dies: neither answer nor title speaks of them."""
    releases = ("24.02", "24.03", "24.04", "24.05")
    study = sequential_study(tmp_path, releases, ("cancel-race", "stub-dies", "control"))
    for release in releases:
        for repeat in range(5):
            write_trial(study, release, repeat=repeat)
            write_trial(study, release, scenario="stub-dies", repeat=repeat, crash_after=3)
            write_trial(study, release, scenario="control", repeat=repeat, crash_after=3)
    assert map_answer(study).startswith("Of 4 releases 24.02–24.05 stood all the traffic")
    ax = Study(study).plot_map()
    title = " ".join(ax.get_title(loc="left").split())
    assert title == "No release crashes under this traffic"


def test_the_cost_says_what_was_saved_by_deciding_and_in_all(study: StudyFolder) -> None:
    said = what_it_cost(study)
    decisive = (
        5 * 5 + (2 * 5 + 3) + 5
    )  # the control; the race where it is survived and not; cancels
    assert said.startswith("75 trials in 15 cells")
    assert "at a time on average" in said
    assert f"The decisions rest on {decisive} trials" in said
    assert "would have needed 120 (64% fewer)" in said
    assert "75 were run (38% fewer), since a cell gets at least 5." in said
    assert "No cells are undecided" in said


def test_how_sure_a_decision_is_depends_on_how_often_a_trial_dies(study: StudyFolder) -> None:
    rows = [row.strip("|").split("|") for row in how_sure(study).splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["2%", "8%", "20%", "50%", "90%"]
    for row, chance in zip(rows, CHANCES, strict=True):
        exact = characteristic(TrialTest(), chance, budget=study.spec.repeats)
        assert row[1].strip() == f"{exact.crashes:.1%}"
        assert sum(float(share.strip(" %")) for share in row[1:4]) == pytest.approx(100, abs=0.2)


def test_bounds_are_those_of_each_release_and_not_of_their_sum(study: StudyFolder) -> None:
    said = bounds(study)
    assert said == (
        "- under cancel-race, 23.12 and 24.05 survived "
        "(0 crashes in 600 requests: each at most 1 in 100 at 95 %)"
    )


def test_deaths_at_one_place_have_the_letter_of_the_map(study: StudyFolder) -> None:
    assert causes(study) == (
        "- **A** SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled: 40 deaths, in 23.10–24.10"
    )


def test_groups_and_letters_are_the_same_in_list_and_map(tmp_path: Path) -> None:
    """One stack at two places of the code below it: one letter, and the list says two stacks."""
    study = sequential_study(tmp_path, ("23.10", "24.10"), ("cancel-race",))
    for release, below in (("23.10", "one::caller"), ("24.10", "another::caller")):
        frame = Frame(index=3, module="libtritonserver.so", offset=None, symbol=below)
        signature = replace(SEGFAULT, frames=(*SEGFAULT.frames, frame), key=f"11:{below}")
        write_trial(study, release, crash_after=7, signature=signature)
    assert causes(study).startswith(
        "- **A** SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled: 2"
    )
    assert "2 different stacks" in causes(study)
    assert len(signature_key(release_map(trials_frame(study)))) == 1


def test_a_study_without_deaths_has_no_cause(tmp_path: Path) -> None:
    quiet = write_study(tmp_path / "study", ["24.05"], ["control"])
    write_trial(quiet, "24.05", scenario="control", crash_after=None)
    assert causes(quiet) == "No server died."


def test_the_map_is_drawn_from_the_study_with_its_decisions(study: StudyFolder) -> None:
    ax = Study(study).plot_map()
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows[-1] == "control", "controls stand below the faults"
    assert len(ax.patches) == 15


def test_a_release_that_can_serve_only_a_part_stands_only_that(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", ["23.07", "24.05"], ["cancel-race", "bls-concurrency"])
    for repeat in range(5):
        write_trial(study, "23.07", scenario="bls-concurrency", repeat=repeat)
        write_trial(study, "24.05", scenario="bls-concurrency", repeat=repeat, crash_after=3)
        write_trial(study, "24.05", repeat=repeat, crash_after=3)
    assert map_answer(study).startswith(
        "No release stands all the traffic that was tried: 1 of 2 die of some of it, "
        "and 23.07 stood the 1 of 2 kinds that it can serve"
    )
    decision = study_decision(study)
    assert decision.overall.startswith("No release stands all 2 kinds of traffic that were tried.")
    assert "23.07 stands the most, 1 of 2, and cannot serve 1 of them" in decision.overall
    (bls,) = [one for one in decision.advice if one.scenario == "bls-concurrency"]
    assert (bls.run, bls.avoid, bls.unable) == (("23.07",), ("24.05",), ())
    (race,) = [one for one in decision.advice if one.scenario == "cancel-race"]
    assert (race.run, race.avoid, race.unable) == ((), ("24.05",), ("23.07",))
    assert "no release that was tried stands it" in race.text(list(decision.line))
    assert (
        "where a release is not to be run, 10 of 10 servers died; where it is, none did (0 cr"
        in (decision.sure)
    )


def test_kinds_of_traffic_of_which_the_same_is_said_are_advised_on_together(tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "study", ["23.10", "24.05"], ["cancel-race", "cancel-after-final"]
    )
    for repeat in range(5):
        for scenario in ("cancel-race", "cancel-after-final"):
            write_trial(study, "23.10", scenario=scenario, repeat=repeat, crash_after=3)
            write_trial(study, "24.05", scenario=scenario, repeat=repeat)
    [(kinds, text)] = study_decision(study).together
    assert sorted(kinds.split(" and ")) == ["cancel-after-final", "cancel-race"]
    assert text == "run 24.05; do not run 23.10"


@pytest.mark.parametrize("name", ["first_light", "kv_real_and_simulated"])
def test_only_a_study_without_a_real_engine_has_not_tried_one(name: str) -> None:
    study = open_study(RECORDED / name)
    real = any(engine.kind is not EngineKind.SIMULATED for engine in study.spec.engines)
    said = "; ".join(study_decision(study).not_tried)
    assert ("a real model" in said) is not real


def test_what_hybrids_die_of_is_told_apart_by_the_part_that_is_at_fault() -> None:
    newest = open_study(RECORDED / "frontends_of_2026")
    still, stood, core = beside_sentences(newest)
    assert "grpc-stream-cancel-verbose" in still
    assert "grpc-stream-status" in still
    assert "no releases" in still
    assert "grpc-unary-deadline (0 of 6; 24.10: 2 of 2)" in stood
    assert "cancel-race" in core
    table = beside_answer(newest).splitlines()
    assert any(line.startswith("| grpc-unary-deadline | 2 of 2") for line in table)
    assert beside_sentences(open_study(RECORDED / "first_light")) == ["No hybrid was run."]


def test_a_report_of_the_map_draws_hybrids_beside_it_and_says_what_they_are(
    study: StudyFolder, tmp_path: Path
) -> None:
    newest = open_study(RECORDED / "frontends_of_2026")
    page = write_report(study, tmp_path, beside=newest).read_text()
    assert "on core 24.10" in page
    assert "(hybrids, no releases) still die of faults of the frontends" in page
