"""The notebook's sentences say what the frames say, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import SEGFAULT, first_light, write_study, write_trial

from kit.report.crashes import study_crashes
from kit.report.sentences import cache_verdict, compared
from kit.stats.frames import samples_frame, trials_frame
from kit.study.folder import StudyFolder


@pytest.mark.slow
def test_the_stack_of_the_deaths_is_shown_without_addresses(tmp_path: Path) -> None:
    study = first_light(tmp_path)
    (crash,) = study_crashes(study, trials_frame(study))
    stack = "\n".join(crash.stack)
    assert (crash.deaths, crash.text[:26]) == (6, "SIGSEGV in TRITONBACKEND_R")
    assert "+0x13d" in stack
    assert "0x7f" not in stack


def test_the_same_death_in_two_builds_is_one_crash_with_two_builds(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10", "24.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=3)
    write_trial(study, "24.10", crash_after=3, signature=replace(SEGFAULT, key="another"))
    (crash,) = study_crashes(study, trials_frame(study))
    assert [build.where for build in crash.builds] == [
        "23.10 under cancel-race (1 of 1 trials)",
        "24.10 under cancel-race (1 of 1 trials)",
    ]


def test_different_deaths_are_not_told_as_one(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10", "24.10"], ["cancel-race"])
    other = replace(SEGFAULT, key="another", text="SIGABRT in elsewhere")
    write_trial(study, "23.10", crash_after=3)
    write_trial(study, "24.10", crash_after=3, signature=other)
    assert [crash.deaths for crash in study_crashes(study, trials_frame(study))] == [1, 1]


def test_no_death_is_no_crash(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", crash_after=None)
    assert study_crashes(study, trials_frame(study)) == []


def cache_said(study: StudyFolder) -> str:
    return cache_verdict(samples_frame(study), trials_frame(study))


def test_servers_that_died_emptier_than_others_lived_acquit_the_cache(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10", "24.05"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=10, requests=200)
    write_trial(study, "24.05", requests=200)
    kv = trials_frame(study)
    samples = samples_frame(study)
    dead = samples["trial_id"].isin(kv.loc[kv["crashed"], "trial_id"])
    samples.loc[dead, "value"] /= 2
    assert "a full cache is not what it takes" in cache_verdict(samples, kv)
    samples.loc[dead, "value"] = 1.0
    assert "cannot tell" in cache_verdict(samples, kv)


def test_usage_that_is_not_exported_says_nothing_for_the_cache(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=10, kv=False)
    assert "nothing here speaks for the cache" in cache_said(study)


def test_deaths_alone_have_nothing_to_be_compared_with(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=30)
    assert "none survived" in cache_said(study)


@pytest.mark.slow
def test_a_run_is_compared_with_the_recorded_one_cell_by_cell(tmp_path: Path) -> None:
    recorded = trials_frame(first_light(tmp_path / "recorded"))
    again = trials_frame(first_light(tmp_path / "again", repeats=2))
    assert compared(again, recorded).startswith("In all 6 cells")
    study = write_study(tmp_path / "other", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", crash_after=5)
    assert "24.05 under cancel-race" in compared(trials_frame(study), recorded)
    foreign = write_study(tmp_path / "foreign", ["24.01"], ["cancel-race"])
    write_trial(foreign, "24.01")
    assert "no cell in common" in compared(trials_frame(foreign), recorded)
