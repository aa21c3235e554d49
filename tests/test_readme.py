"""The README promises what the kit does, and its figures are those of the recorded study."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kit.report.cells import result_cells
from kit.study.paths import RECORDED, ROOT
from kit.study.recorded import open_study
from kit.ui.cli import parser

README = (ROOT / "README.md").read_text()


def row(cell: dict[str, Any]) -> str:
    """A cell of the first study as the README has it."""
    how = {"cancel-race": "from a second thread", "control": "in the request's coroutine"}
    when = ", ".join(map(str, cell["crash_iterations"])) or "–"
    p50, p95 = cell["latency_p50_ms"], cell["latency_p95_ms"]
    latency = f"{p50:.0f} / {p95:.0f}" if p50 and p95 else "never answered"
    assert (cell["failed_fraction"] > 0.5) == (latency == "never answered")
    return (
        f"| {cell['release']} | {how[cell['scenario']]} | {cell['crashed']} of {cell['trials']} "
        f"| {when} | {latency} | {cell['kv_peak_fraction']:.0%} |"
    )


@pytest.mark.slow
def test_the_table_is_that_of_the_recorded_study() -> None:
    rows = [row(cell) for cell in result_cells(open_study(RECORDED / "first_light"))]
    assert re.findall(r"^\| 2\d\.\d\d .*$", README, re.MULTILINE) == rows


def test_the_first_40_lines_have_figure_commands_and_table() -> None:
    top = "\n".join(README.splitlines()[:40])
    for word in ("![", "make investigate", "make test", "| 23.10 |"):
        assert word in top


def test_every_file_that_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_every_make_target_and_command_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    for command in re.findall(r"python -m kit ([a-z]+)", README):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([command, "--help"])
        assert ended.value.code == 0, command
