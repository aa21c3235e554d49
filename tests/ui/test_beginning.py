"""Claims about what is said before a study begins: no more than is true of this run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kit
from kit.study.spec import StudySpec, Workload
from kit.ui import beginning
from kit.ui.beginning import begin
from kit.ui.choices import choose
from kit.ui.consent import Cap
from kit.ui.panel_plan import planned


def own(**words: Any) -> StudySpec:
    return choose("24.05", "control", name="p", repeats=6, **words)


def running_already() -> StudySpec:
    server = kit.attach("http://127.0.0.1:9", model="m")
    return choose(server, workload=Workload(), name="p", repeats=2)


def said(spec: StudySpec, **how: Any) -> str:
    return "\n".join(planned(spec, **{"requests": None, "minutes": None} | how))


def test_trials_at_a_time_are_those_of_this_run() -> None:
    assert "1 at a time" in said(own(), parallel=1)
    assert "3 at a time" in said(own(), parallel=3)
    assert "6 at a time" in said(own(), parallel=9), "there are no more"


def test_a_cluster_is_said_no_time_that_nobody_knows() -> None:
    [product, budget] = planned(own(), requests=None, minutes=5, is_here=False)
    assert product.startswith("6 trials")
    assert budget == "5 minutes at the most"
    assert "at a time" not in said(own(), is_here=False)


def test_only_a_budget_that_holds_is_named() -> None:
    assert "at the most" not in said(running_already())
    assert "for 10 minutes at the most" in said(running_already(), minutes=10)
    assert said(own(), requests=500).endswith("500 requests at the most")


def test_of_a_study_that_is_done_nothing_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "beforehand", lambda *_, **__: ["warning: low on disk"])
    lines: list[str] = []
    assert begin(own(), tmp_path, Cap(minutes=3), lines.append) == 3
    assert lines[0] == f"study folder: {tmp_path}"
    assert lines[1] == "warning: low on disk"
    assert lines[2].startswith("6 trials")
    (tmp_path / "done.json").touch()
    again: list[str] = []
    assert begin(own(), tmp_path, Cap(minutes=3), again.append) is None
    assert again == lines[:1]
