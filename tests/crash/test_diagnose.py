"""Real and made-up crash logs (tests/crash/stacks) against what their diagnosis must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.crash.diagnose import diagnose_file
from kit.crash.match import best_of
from kit.crash.verdict import is_reported_crash

STACKS = Path(__file__).parent / "stacks"
INDEX: list[dict[str, Any]] = yaml.safe_load((STACKS / "index.yaml").read_text())


def _ids(row: dict[str, Any]) -> str:
    return str(row["file"])


@pytest.mark.parametrize("row", INDEX, ids=_ids)
def test_the_diagnosis_of(row: dict[str, Any]) -> None:
    found = diagnose_file(STACKS / row["file"], believed_release=row.get("believed"))
    assert found.died is row.get("died", True), found.summary
    assert found.release_guess == row["release"]
    if not found.died:
        assert found.component == "none"
        assert (found.signal, found.top_frame, found.matches) == (None, None, ())
        return
    assert found.signal == row["signal"]
    assert found.component == row["component"]
    if row["top_frame"] != "*":
        assert found.top_frame == row["top_frame"]
    best = [match.id for match in best_of(found.matches)]
    assert best == [row["match"], *row.get("also", [])] if row["match"] else not best, found.matches
    assert is_reported_crash(found.signature) is row.get("reported", False)
    assert found.origin.agrees is row.get("agrees")
    if "process" in row:
        assert found.process == row["process"]
    assert found.advice
    explained = best or "out of order" in found.advice or "started it again" in found.advice
    assert ("Unknown" in found.advice) is not bool(explained)
