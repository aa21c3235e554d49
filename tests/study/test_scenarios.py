"""The catalog of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.crash.catalog import known_crashes
from kit.errors import CatalogError, UnknownScenarioError
from kit.servers.repository import build_repository
from kit.study import scenarios
from kit.study.scenarios import Scenario, get_scenario, load_scenarios, read_scenarios
from kit.study.spec import ServerSpec, TrialSpec

ALL = list(load_scenarios().values())
FAULTS = [scenario for scenario in ALL if scenario.kind == "fault"]
#: What says what a scenario is rather than what it does.
WORDS = {"name", "title", "kind", "crash", "control", "about", "needs"}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Everything a scenario does, one entry a number or word."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in leaves(value[key], f"{path}.{key}").items()}
    return {path: value}


def deeds(scenario: Scenario) -> dict[str, Any]:
    known = {k: v for k, v in msgspec.to_builtins(scenario).items() if k not in WORDS}
    return leaves(known)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda s: s.name)
def test_a_fault_differs_from_its_control_in_one_thing(fault: Scenario) -> None:
    control = deeds(get_scenario(str(fault.control)))
    own = deeds(fault)
    changed = {k for k in own.keys() | control.keys() if own.get(k) != control.get(k)}
    assert len(changed) == 1, changed


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_every_scenario_has_a_repository(scenario: Scenario, tmp_path: Path) -> None:
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(release="23.10"),
        scenario=scenario.name,
        model=scenario.model,
        parameters=scenario.parameters,
        workload=scenario.workload,
    )
    assert (build_repository(spec, tmp_path) / scenario.model / "config.pbtxt").exists()


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_needs_follow_from_what_a_scenario_does(scenario: Scenario) -> None:
    generate = scenario.workload.protocol.value.startswith("http-generate")
    asks = scenario.parameters.get("cancel_check", "none") != "none"
    assert ("generate" in scenario.needs) == generate
    assert ("cancellation" in scenario.needs) == asks


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_every_scenario_says_what_it_is(scenario: Scenario) -> None:
    assert len(scenario.about) > 80
    assert scenario.title
    assert scenario.about == scenario.about.strip()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda s: s.name)
def test_a_fault_names_a_crash_of_the_catalog(fault: Scenario) -> None:
    crash = known_crashes()[str(fault.crash)]
    assert fault.name in crash.scenarios


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownScenarioError, match="cancel-race"):
        get_scenario("cancel-rase")


GOOD = {"title": "t", "kind": "control", "model": "simulated", "about": "a"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({}, "not a table"),
        ({"a": {**GOOD, "modle": "x"}}, "modle"),
        ({"a": {**GOOD, "kind": "maybe"}}, "kind"),
        ({"a": {**GOOD, "crash": "c"}}, "a control neither"),
        ({"a": {**GOOD, "kind": "fault"}}, "names its crash"),
        ({"a": {**GOOD, "kind": "fault", "crash": "c", "control": "b"}}, "not one of the controls"),
        ({"a": {**GOOD, "needs": ["gpu"]}}, "needs gpu"),
        ({"a": {**GOOD, "workload": {"requests": None}}}, "without an end"),
        ({"a": "text"}, "not a table under a name"),
    ],
)
def test_a_wrong_row_is_named(rows: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "scenarios.yaml"
    path.write_bytes(msgspec.yaml.encode(rows))
    with pytest.raises(CatalogError, match=says):
        read_scenarios(path)


def test_a_missing_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nothing"):
        scenarios.read_scenarios(tmp_path / "nothing")
