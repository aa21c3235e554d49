"""Study: what it shows of itself, and what its plots leave as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from synthetic_studies import first_light, write_study, write_trial

import kit
from kit.errors import SpecError
from kit.plots.crash import plot_crash_strip
from kit.study.result import Verdict

PLOTS = ["plot_crashes", "plot_survival", "plot_latency", "plot_kv", "plot_queue", "plot_map"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kit.Study:
    return kit.Study(first_light(tmp_path_factory.mktemp("studies") / "mine"))


def settings() -> dict[str, Any]:
    return {name: value for name, value in mpl.rcParams.items() if name != "backend"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_says_its_source_and_leaves_the_style_of_others_alone(
    study: kit.Study, name: str
) -> None:
    before = settings()
    ax = getattr(study, name)()
    assert settings() == before
    assert ax.get_title(loc="left")
    assert "live · run mine" in ax.figure.get_supxlabel()
    assert plt.get_fignums() == [ax.figure.number], "a notebook shows it once"
    plt.close("all")


@pytest.mark.slow
def test_a_plot_draws_on_the_axes_that_it_is_given(study: kit.Study) -> None:
    figure, axes = plt.subplots(1, 2)
    assert study.plot_crashes(ax=axes[0]) is axes[0]
    assert study.plot_survival(ax=axes[1]) is axes[1]
    assert figure.get_supxlabel().count("run mine") == 1
    plt.close("all")


@pytest.mark.slow
def test_a_frame_of_the_wrong_kind_is_refused_by_name(study: kit.Study) -> None:
    _, ax = plt.subplots()
    with pytest.raises(SpecError, match=r"looks like study\.requests.*study\.trials"):
        plot_crash_strip(study.requests, ax)
    with pytest.raises(SpecError, match=r"plot_crash_strip of a str.*study\.trials"):
        plot_crash_strip("trials", ax)  # type: ignore[arg-type]
    plt.close("all")


@pytest.mark.slow
def test_its_text_and_its_card_give_the_same_answer(study: kit.Study) -> None:
    text, card = " ".join(repr(study).split()), study._repr_html_()
    for part in ("23.10", "3 of 3", "live · run mine"):
        assert part in text
        assert part in card
    assert study.answer in text


def test_a_part_of_a_study_answers_for_its_own_trials(study: kit.Study) -> None:
    part = study.where(release=["24.05", "24.10"], scenario="cancel-race")
    assert set(part.trials["release"]) == {"24.05", "24.10"}
    assert set(part.requests["trial_id"]) == set(part.trials["trial_id"])
    assert [crash.releases for crash in part.crashes] == [("24.10",)]
    with pytest.raises(SpecError, match="did you mean scenario"):
        study.where(scenarios="control")
    with pytest.raises(SpecError, match=r"did you mean 24\.05"):
        study.where(release="24.5")


@pytest.mark.slow
def test_deaths_with_and_without_a_stack_are_groups_of_their_own(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", ["23.10"], ["cancel-race"])
    for repeat in range(3):
        write_trial(folder, "23.10", repeat=repeat, crash_after=7)
    write_trial(folder, "23.10", repeat=3, crash_after=9, verdict=Verdict.HUNG, signature=None)
    crashes = kit.Study(folder).crashes
    assert [(crash.text.partition(" in ")[0], crash.deaths) for crash in crashes] == [
        ("SIGSEGV", 3),
        ("hung, without a stack", 1),
    ]
    assert crashes[0].iterations == (7, 7, 7)
    assert crashes[0].trials == 4


@pytest.mark.slow
def test_an_unfinished_study_shows_what_there_is_and_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", ["23.10", "24.05"], ["cancel-race"])
    empty = kit.Study(folder)
    assert "Not finished" in repr(empty)
    assert "Not finished" in empty._repr_html_()
    with pytest.raises(SpecError, match="no trial yet"):
        empty.plot_crashes()
    write_trial(folder, "23.10", crash_after=7)
    write_trial(folder, "24.05", finished=False)
    begun = kit.Study(folder)
    assert "1 trial has a result" in repr(begun)
    assert "after 7 requests" in begun.crashes[0].where


@pytest.mark.slow
def test_what_a_server_said_is_no_markup_and_no_terminal_control(tmp_path: Path) -> None:
    from kit.study.result import Signature

    folder = write_study(tmp_path / "study", ["23.10"], ["cancel-race"])
    bad = Signature(signal=11, key="k", text="<img src=x onerror=alert(1)>\x1b[31m")
    write_trial(folder, "23.10", crash_after=7, signature=bad)
    study = kit.Study(folder)
    for shown in (study._repr_html_(), study.crashes._repr_html_()):
        assert "<img" not in shown
    for shown in (repr(study), repr(study.crashes)):
        assert "\x1b" not in shown


def test_completion_offers_the_public_names_of_a_study_only(study: kit.Study) -> None:
    assert not [name for name in dir(study) if name.startswith("_")]
    undocumented = [name for name in dir(study) if not getattr(kit.Study, name).__doc__]
    assert undocumented == []
