"""Which of two is worse, from invented trials whose truth is known."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from synthetic_studies import first_light, write_study, write_trial

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.compare import compare, overall, sentence
from kit.stats.frames import requests_frame, trials_frame
from kit.stats.survival import log_rank, log_rank_exact
from kit.study.folder import StudyFolder
from kit.ui.cli import main


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return first_light(tmp_path_factory.mktemp("compare") / "study", repeats=5)


def frames(study: StudyFolder) -> tuple[pd.DataFrame, pd.DataFrame]:
    return trials_frame(study), requests_frame(study)


@pytest.mark.slow
def test_the_release_that_dies_is_worse_and_the_control_tells_no_difference(
    study: StudyFolder,
) -> None:
    race, control = compare(*frames(study), levels=["24.10", "24.05"])
    assert (race.first.died, race.first.trials, race.first.half_died_by) == (5, 5, 14)
    assert (race.second.died, race.second.requests) == (0, 1000)
    assert race.crash_rate is not None
    assert race.crash_rate.value == math.inf
    assert race.log_rank_p == pytest.approx(2 / math.comb(10, 5))
    said = sentence(race)
    assert said.startswith("cancel-race: 24.10 is worse than 24.05: 5 of 5 servers died against 0")
    assert "log-rank p = 0.0079" in said
    assert "n 170 and 1,000" in said
    assert (control.crash_rate, control.log_rank_p) == (None, None)
    assert sentence(control).startswith("control: neither 24.10 nor 24.05 died (5 and 5 servers)")
    assert control.median_latency is not None
    assert control.median_latency.low < 1 < control.median_latency.high


@pytest.mark.slow
def test_one_death_against_none_is_not_called_worse(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.07", "24.08"], ["cancel-race"])
    write_trial(study, "24.08", crash_after=3)
    for repeat in range(5):
        write_trial(study, "24.07", repeat=repeat, requests=200)
    (found,) = compare(*frames(study))
    assert found.log_rank_p == pytest.approx(1 / 6)
    assert "24.08 and 24.07 cannot be told apart" in sentence(found)


@pytest.mark.slow
def test_speed_alone_makes_one_worse_where_all_die(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.07", "24.08"], ["cancel-race"])
    for repeat in range(6):
        write_trial(study, "24.07", repeat=repeat, crash_after=40 + repeat)
        write_trial(study, "24.08", repeat=repeat, crash_after=4 + repeat)
    (found,) = compare(*frames(study))
    assert sentence(found).startswith("cancel-race: 24.08 is worse than 24.07: 6 of 6")


def test_the_exact_log_rank_goes_through_every_way_to_deal_the_groups() -> None:
    frame = pd.DataFrame(
        {
            "counted": True,
            "release": ["a", "a", "a", "b", "b", "b"],
            "completed": [3, 5, 20, 8, 30, 30],
            "crashed": [True, True, True, True, True, False],
        }
    )
    seen = log_rank(frame)
    far = abs(seen.observed["a"] - seen.expected["a"])
    dealt = {tuple(p) for p in permutations(frame["release"])}
    tests = [log_rank(frame.assign(release=list(p))) for p in dealt]
    as_far = [abs(t.observed["a"] - t.expected["a"]) >= far - 1e-9 for t in tests]
    assert log_rank_exact(frame) == pytest.approx(sum(as_far) / len(as_far))


@pytest.mark.slow
def test_all_traffic_together_is_compared_within_each_kind(study: StudyFolder) -> None:
    trials, _ = frames(study)
    said = overall(trials, levels=["24.10", "24.05"])
    assert said.startswith("Over all traffic: 24.10 against 24.05, stratified log-rank p = ")
    assert "drawn towards 1 since one side never died" in said


def test_what_cannot_be_compared_is_refused(study: StudyFolder) -> None:
    trials, requests = frames(study)
    with pytest.raises(SpecError, match=r"two of 24\.10, 24\.05, 23\.10"):
        compare(trials, requests)
    with pytest.raises(SpecError, match="two of"):
        compare(trials, requests, levels=["24.10", "24.04"])
    apart = trials[(trials["release"] == "24.10") == (trials["scenario"] == "control")]
    with pytest.raises(NotEnoughDataError, match="no traffic that both"):
        compare(apart, requests, levels=["24.10", "24.05"])


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_command_compares_two_studies_cell_by_cell(
    study: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = write_study(tmp_path / "later", ["23.10", "24.05"], ["cancel-race"])
    for release in later.spec.releases:
        for repeat in range(5):
            write_trial(later, release, repeat=repeat, requests=200, concurrency=16)
    said = " ".join(printed(capsys, "compare", study.path, later.path, "--out", tmp_path).split())
    assert "cancel-race 23.10: study is worse than later: 5 of 5 servers died" in said
    assert "cancel-race 24.05: neither study nor later died" in said
    assert "Over all traffic: study against later" in said
    assert "The studies differ in servers" in said
    assert (tmp_path / "study-against-later.html").exists()
    levels = ["--level", "24.10", "--level", "24.05"]
    race = json.loads(
        printed(capsys, "compare", study.path, *levels, "--scenario", "cancel-race", "--json")
    )
    assert [(one["first"]["died"], one["second"]["died"]) for one in race] == [(5, 0)]
