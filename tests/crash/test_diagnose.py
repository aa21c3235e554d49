"""Real and made-up crash logs (tests/crash/stacks) against what their diagnosis must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.crash.diagnose import diagnose_file
from kit.crash.match import best_of
from kit.crash.state import State
from kit.crash.verdict import is_reported_crash

STACKS = Path(__file__).parent / "stacks"
INDEX: list[dict[str, Any]] = yaml.safe_load((STACKS / "index.yaml").read_text())


def _ids(row: dict[str, Any]) -> str:
    return str(row["file"])


@pytest.mark.parametrize("row", INDEX, ids=_ids)
def test_the_diagnosis_of(row: dict[str, Any]) -> None:
    found = diagnose_file(STACKS / row["file"], believed_release=row.get("believed"))
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


#: Of the public logs so many must be right; the rest is named when the test fails.
DIED_RIGHT, COMPONENT_RIGHT = 0.98, 0.95


def test_the_score_on_public_logs() -> None:
    rows = [row for row in INDEX if row["kind"] == "public"]
    found = {row["file"]: diagnose_file(STACKS / row["file"]) for row in rows}
    wrong_death = [r["file"] for r in rows if found[r["file"]].died is not r.get("died", True)]
    dead = [row for row in rows if row.get("died", True)]
    elsewhere = [r["file"] for r in dead if found[r["file"]].component not in _right(r)]
    signals = [r["file"] for r in dead if r["signal"] not in (None, found[r["file"]].signal)]
    assert len(rows) >= 90
    assert not signals
    assert len(wrong_death) <= (1 - DIED_RIGHT) * len(rows), wrong_death
    assert len(elsewhere) <= (1 - COMPONENT_RIGHT) * len(dead), elsewhere
