"""What is known of several releases under some traffic: before a run, and beyond a study."""

from __future__ import annotations

import pytest

from kit.crash.catalog import known_crashes
from kit.crash.outlook import Outlook, outlook
from kit.crash.upgrade import LABELS, advise
from kit.study.releases import load_releases

CANCEL = ["cancel-race"]


def whole(found: Outlook) -> str:
    return " ".join([found.line, *(fault.text for fault in found.faults), *found.more])


def test_each_statement_says_what_it_rests_on() -> None:
    found = outlook(["26.11", "24.08", "23.12"], CANCEL)
    assert found.line == (
        "known to be hit under cancel-race: 24.08 (measured here), 26.11 (read in source); "
        "measured here without a death: 23.12"
    )
    (fault,) = found.faults
    assert fault.crash == "is-cancelled-after-final"
    assert fault.where == "24.08 (measured here), 26.11 (read in source)"
    assert fault.advice
    assert "nobody has measured cancel-race on 26.11" in found.more


def test_what_is_better_is_told_with_whether_it_was_measured() -> None:
    better = outlook(["23.10"], CANCEL).more[0]
    assert better.startswith("not known to be hit by any fault of this traffic: ")
    assert "24.05" not in outlook(["23.10"], CANCEL).line
    assert "measured here without a death: 23.12–24.07" in better


def test_what_the_study_itself_shows_is_not_told_again() -> None:
    pairs = {("23.10", "cancel-race"), ("26.11", "cancel-race")}
    found = outlook(["23.10", "26.11"], CANCEL, died=[("23.10", "cancel-race")], measured=pairs)
    (fault,) = found.faults
    assert "23.10" not in fault.where
    assert "26.11 (read in source)" in found.line
    assert "nothing further is known to kill 23.10" in found.line
    assert not [text for text in found.more if "nobody has measured cancel-race" in text]


def test_a_release_that_died_in_the_study_is_neither_spared_nor_better() -> None:
    found = outlook(["23.10", "24.05"], CANCEL, died=[("24.05", "cancel-race")])
    assert "without a death" not in found.line
    (better,) = (text for text in found.more if text.startswith("not known to be hit"))
    assert "24.05" not in better
    assert "23.12–24.04, 24.06 and 24.07" in better


@pytest.mark.parametrize("traffic", [["control"], []])
def test_traffic_that_exercises_no_fault_is_said_to(traffic: list[str]) -> None:
    found = outlook(["24.05"], traffic)
    assert found.line.startswith("no fault of the catalog is about this traffic")
    assert not found.faults
    assert all(text.startswith("known of 24.05 under other traffic: ") for text in found.more)


def test_releases_that_the_catalog_does_not_have_are_left_out() -> None:
    assert outlook(["99.99"], CANCEL) == Outlook(line="")
    assert outlook(["99.99", "23.10", "23.10"], CANCEL) == outlook(["23.10"], CANCEL)


@pytest.mark.parametrize("release", load_releases())
def test_it_says_no_more_and_no_less_than_the_advice_on_one_release(release: str) -> None:
    for name in {name for crash in known_crashes().values() for name in crash.scenarios}:
        advice = advise(release=release, traffic=[name])
        found = outlook([release], [name])
        assert [fault.crash for fault in found.faults] == [
            risk.crash
            for risk in sorted(advice.risks, key=lambda one: one.labels[0] != LABELS["measured"])
        ]
        untold = f"nobody has measured {name} on {release}" in found.more
        assert untold is (name in advice.unmeasured)
        assert release in found.line
        assert len(whole(found)) < 6000


def test_the_line_stays_one_line_for_every_release_and_scenario() -> None:
    every = sorted({name for crash in known_crashes().values() for name in crash.scenarios})
    line = outlook(load_releases(), every).line
    assert "\n" not in line
    assert len(line) < 500
