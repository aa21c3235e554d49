"""Real and made-up crash logs (tests/crash/stacks) against what their diagnosis must say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kit.crash.diagnose import Diagnosis, diagnose_file
from kit.crash.match import best_of
from kit.crash.state import State
from kit.crash.verdict import is_reported_crash
from kit.study.plain_yaml import from_yaml

STACKS = Path(__file__).parent / "stacks"
INDEX: list[dict[str, Any]] = from_yaml((STACKS / "index.yaml").read_text())


@cache
def _found(file: str, believed: str | None) -> Diagnosis:
    return diagnose_file(STACKS / file, believed_release=believed)


def _ids(row: dict[str, Any]) -> str:
    return str(row["file"])


@pytest.mark.slow
@pytest.mark.parametrize("row", INDEX, ids=_ids)
def test_the_diagnosis_of(row: dict[str, Any]) -> None:
    found = _found(row["file"], row.get("believed"))
    assert found.died is row.get("died", True), found.summary
    if row["release"] != "*":
        assert found.release_guess == row["release"]
    if not found.died:
        assert found.component in row.get("component", "none")
        assert (found.signal, found.top_frame, found.matches) == (None, None, ())
        assert found.advice
        return
    if row["signal"] is not None or row["match"] != "*":
        assert found.signal == row["signal"]
    assert found.component in _right(row)
    if row["top_frame"] != "*":
        assert found.top_frame == row["top_frame"]
    best = [match.id for match in best_of(found.matches)]
    if row["match"] != "*":
        wanted = [row["match"], *row.get("also", [])] if row["match"] else []
        assert best == wanted, found.matches
    assert is_reported_crash(found.signature) is row.get("reported", False)
    assert found.origin.agrees is row.get("agrees")
    if "process" in row:
        assert found.process == row["process"]
    assert found.advice
    if found.state is State.DIED and "Unknown" in found.advice:
        assert not best


def _right(row: dict[str, Any]) -> list[str]:
    component = row["component"]
    return component if isinstance(component, list) else [component]


def _missed(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The logs of which the diagnosis is wrong, by what it gets wrong, each with what it says."""
    missed: dict[str, list[str]] = {"died": [], "component": [], "signal": []}
    for row in rows:
        found = _found(row["file"], row.get("believed"))
        said = f"{row['file']}: died {found.died}, {found.component.value}, signal {found.signal}"
        died = row.get("died", True)
        if found.died is not died:
            missed["died"].append(said)
        if died and found.component not in _right(row):
            missed["component"].append(said)
        if died and row["signal"] not in (None, found.signal):
            missed["signal"].append(said)
    return missed


#: Of all logs, and of those of one kind, so many must be right.
DIED_RIGHT, COMPONENT_RIGHT = 0.98, 0.95


@pytest.mark.parametrize("kinds", [{"public"}, {"public", "measured", "synthetic"}])
def test_the_score_on_the_collection_names_each_miss(kinds: set[str]) -> None:
    rows = [row for row in INDEX if row["kind"] in kinds]
    dead = sum(row.get("died", True) for row in rows)
    missed = _missed(rows)
    assert len(rows) >= 240
    assert len(rows) - dead >= 35
    assert not missed["signal"]
    assert len(missed["died"]) <= (1 - DIED_RIGHT) * len(rows), missed["died"]
    assert len(missed["component"]) <= (1 - COMPONENT_RIGHT) * dead, missed["component"]


def test_a_miss_is_named() -> None:
    wrong = [row | {"died": not row.get("died", True)} for row in INDEX[:1]]
    assert [said.partition(":")[0] for said in _missed(wrong)["died"]] == [INDEX[0]["file"]]
