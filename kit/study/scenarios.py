"""Reads `data/scenarios.yaml`: what each scenario serves and sends, checked.

A scenario is a server model with its parameters plus traffic. A fault scenario exercises one
crash of the catalog and names its control: the same but for one thing, and nothing dies of it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from kit.errors import CatalogError, SpecError, UnknownScenarioError
from kit.study.encoding import from_json
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml
from kit.study.spec import OWN_WORKLOAD, Workload

CATALOG = DATA / "scenarios.yaml"
#: What a release must have for a scenario: HTTP generate; a model that can ask for cancellation;
#: gRPC streams that end with the status of an error.
NEEDS = ("generate", "cancellation", "stream-status")
#: Of the faults, those that the kit's own model commits: they tell how a server bears its
#: model's death, not whether traffic can kill the server.
SELF_INFLICTED = frozenset({"stub-dies"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way to use a server, with all that is needed to do it again."""

    name: str
    title: str
    kind: Literal["fault", "control"]
    crash: str | None = None  # id in data/crashes.yaml; None: a control
    control: str | None = None  # the scenario that differs from this one in a single thing
    model: str  # a folder of kit/servers/models
    parameters: dict[str, str] = field(default_factory=dict)  # of the model's configuration
    workload: Workload = field(default_factory=Workload)  # a template; plans set concurrency, seed
    needs: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()  # of tritonserver
    about: str = ""


#: Traffic of the user's own, on the model of the simulated engine. Not one of the catalog.
OWN = Scenario(name=OWN_WORKLOAD, title="Traffic of one's own", kind="control", model="simulated")


def load_scenarios() -> dict[str, Scenario]:
    """All scenarios by name, in the catalog's order: each fault after its control.

    Raises:
        CatalogError: data/scenarios.yaml does not have the rows it should.
    """
    return dict(read_scenarios(CATALOG))


def is_traffic(name: str) -> bool:
    """True for a fault that traffic alone brings about: no control, and not the kit's own doing."""
    known = load_scenarios()
    return name in known and known[name].kind == "fault" and name not in SELF_INFLICTED


def get_scenario(name: str) -> Scenario:
    """The scenario called `name`; OWN for traffic of the user's own.

    Raises:
        UnknownScenarioError: there is none of that name; the nearest ones are named.
    """
    scenarios = load_scenarios()
    if name == OWN_WORKLOAD:
        return OWN
    if name in scenarios:
        return scenarios[name]
    near = difflib.get_close_matches(name, scenarios, n=3, cutoff=0.4)
    raise UnknownScenarioError(
        f"scenario {name!r}",
        f"one of {', '.join(scenarios)}",
        f"did you mean {' or '.join(near)}?" if near else "choose one of them",
    )


@cache
def read_scenarios(path: Path) -> dict[str, Scenario]:
    """The scenarios that the file at `path` lists.

    Raises:
        CatalogError: it cannot be read, or a row is wrong.
    """
    try:
        rows = from_yaml(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise _bad(path, str(error)) from error
    if not isinstance(rows, dict) or not rows:
        raise _bad(path, "not a table of scenarios by name")
    scenarios = {name: _scenario(path, name, row) for name, row in rows.items()}
    for scenario in scenarios.values():
        _check(path, scenario, scenarios)
    return scenarios


def _scenario(path: Path, name: object, row: object) -> Scenario:
    if not isinstance(name, str) or not isinstance(row, dict):
        raise _bad(path, f"the row {name!r} is not a table under a name")
    try:
        return from_json(msgspec.json.encode({"name": name, **row}), Scenario)
    except SpecError as error:
        raise _bad(path, f"{name}: {error}") from error


def _check(path: Path, scenario: Scenario, scenarios: dict[str, Scenario]) -> None:
    """What the types alone do not say."""
    name, is_fault = scenario.name, scenario.kind == "fault"
    if is_fault != (scenario.crash is not None) or is_fault != (scenario.control is not None):
        raise _bad(path, f"{name}: a fault names its crash and its control, a control neither")
    if is_fault:
        control = scenarios.get(scenario.control or "")
        if control is None or control.kind != "control":
            raise _bad(path, f"{name}: {scenario.control!r} is not one of the controls")
    unknown = set(scenario.needs) - set(NEEDS)
    if unknown:
        raise _bad(path, f"{name}: needs {', '.join(sorted(unknown))}; known: {', '.join(NEEDS)}")


def _bad(path: Path, what: str) -> CatalogError:
    return CatalogError(
        f"{path}: {what}",
        "the rows of kit.study.scenarios.Scenario",
        "correct the file, or restore it",
    )
