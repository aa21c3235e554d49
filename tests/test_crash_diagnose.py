"""Real and made-up crash logs (tests/stacks) against what their diagnosis must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.crash.advice import GOOD_MATCH
from kit.crash.diagnose import diagnose_file
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
    best = found.matches[0].id if found.matches and found.matches[0].score >= GOOD_MATCH else None
    if row["match"] != "*":
        assert best == row["match"], found.matches
    assert set(row.get("also", [])) <= {match.id for match in found.matches}
    assert is_reported_crash(found.signature) is row.get("reported", False)
    assert found.origin.agrees is row.get("agrees")
    if "process" in row:
        assert found.process == row["process"]
    assert found.advice
    assert ("Unknown" in found.advice) is (best is None and "out of order" not in found.advice)
