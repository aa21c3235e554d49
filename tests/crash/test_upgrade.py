"""What is said of a release before an upgrade, and what it rests on."""

from __future__ import annotations

from dataclasses import replace

import pytest

import kit
from kit.crash.catalog import known_crashes
from kit.crash.upgrade import LABELS, advise
from kit.errors import UnknownReleaseError, UnknownScenarioError
from kit.study.scenarios import load_scenarios


def test_a_measured_crash_is_named_with_its_trials_and_label() -> None:
    found = advise(release="24.05", traffic=["grpc-stream-cancel"])
    (risk,) = [r for r in found.risks if r.crash == "grpc-stream-cancel-state-race"]
    assert risk.labels == ("measured here", "read in source")
    assert risk.seen == "measured here: 14 of 15 trials died on 24.05"
    assert "grpc-stream-cancel-state-race (measured here)" in found.summary


def test_releases_that_a_crash_does_not_hit_are_better_and_measured_ones_are_told_apart() -> None:
    found = advise(release="23.10", traffic=["cancel-race"])
    assert found.risks[0].crash == "is-cancelled-after-final"
    assert {"23.12", "24.05", "24.07"} <= set(found.better)
    assert {"24.08", "26.11"}.isdisjoint(found.better)
    assert "24.05" in found.better_measured


def test_no_release_after_24_10_is_called_free_of_the_stream_cancel_fault() -> None:
    found = advise(release="24.10", traffic=["grpc-stream-cancel"])
    assert not [name for name in found.better if name > "23.10"]
    later = advise(release="26.09", traffic=["grpc-stream-cancel"])
    assert later.risks[0].labels == ("inferred",)
    assert later.unmeasured == ("grpc-stream-cancel",)
    assert "Nobody has measured grpc-stream-cancel on 26.09" in later.summary


def test_a_protocol_asks_for_all_faults_that_use_it() -> None:
    by_protocol: dict[str, set[str]] = {}
    for scenario in load_scenarios().values():
        if scenario.kind == "fault":
            by_protocol.setdefault(scenario.workload.protocol.value, set()).add(scenario.name)
    assert "grpc-stream-cancel" in by_protocol["grpc-stream"]
    for protocol, names in by_protocol.items():
        assert set(advise(release="24.05", traffic=[protocol]).traffic) == names
    assert set(advise(release="24.05", traffic=[*by_protocol]).traffic) == set().union(
        *by_protocol.values()
    )


def test_the_front_doors_answer_shows_every_risk_with_its_label_and_is_escaped() -> None:
    card = kit.advise(release="24.05", traffic="grpc-stream-cancel")
    assert card.to_json() == advise(release="24.05", traffic=["grpc-stream-cancel"]).to_json()
    for shown in (repr(card), card._repr_html_()):
        for risk in card.risks:
            assert risk.crash in shown
            assert risk.labels[0] in shown
        assert all(risk.crash in shown for risk in card.others)
    odd = replace(card, risks=(replace(card.risks[0], title="<b onclick=x>"),))
    assert "<b onclick" not in odd._repr_html_()


def test_every_statement_has_a_label_that_the_catalog_backs() -> None:
    for release in ("23.10", "24.05", "26.11"):
        found = advise(release=release, traffic=["cancel-race", "grpc-stream-cancel"])
        for risk in (*found.risks, *found.others):
            assert risk.labels
            assert set(risk.labels) <= set(LABELS.values())
            assert known_crashes()[risk.crash].hits(release)


def test_a_release_is_named_by_its_triton_version_as_well() -> None:
    assert advise(release="2.46.0", traffic=["control"]).release == "24.05"


def test_what_is_not_known_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownScenarioError, match="grpc-stream-cancel"):
        advise(release="24.05", traffic=["grpc-stream-cancle"])
    with pytest.raises(UnknownReleaseError):
        advise(release="31.01", traffic=["cancel-race"])
