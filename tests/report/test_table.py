"""The result table, as a terminal and a notebook show it; studies are synthetic."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import SEGFAULT, first_light, write_study, write_trial

from kit.report.cells import result_cells
from kit.report.table import COLUMNS, html_table, text_table
from kit.study.paths import RECORDED
from kit.study.recorded import open_study
from kit.study.result import Outcome


def rows(text: str) -> list[dict[str, str]]:
    """The table read back by the columns of its header."""
    header, _, *lines = text.splitlines()
    begins = [header.index(name) for name in COLUMNS]
    ends = [*begins[1:], None]
    cut = [[line[a:b].strip() for a, b in zip(begins, ends, strict=True)] for line in lines]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cut]


@pytest.mark.slow
def test_each_cell_says_how_many_crashed_and_after_how_many_requests(tmp_path: Path) -> None:
    table = rows(text_table(result_cells(first_light(tmp_path))))
    by_cell = {(row["release"], row["scenario"]): row for row in table}
    assert len(by_cell) == 6
    died = by_cell["23.10", "cancel-race"]
    assert (died["crashed"], died["after requests"]) == ("3 of 3", "28, 33, 51")
    assert died["ended as"] == "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"
    lived = by_cell["24.05", "cancel-race"]
    assert (lived["crashed"], lived["after requests"]) == ("0 of 3", "")
    assert lived["ended as"] == "survived"


def test_what_is_not_exported_is_a_dash_and_not_0(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", kv=False, requests=3)
    (row,) = rows(text_table(result_cells(study)))
    assert (row["KV peak"], row["p50 ms"]) == ("-", "-")


def test_a_study_stopped_before_its_first_result_has_a_table_all_the_same(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["cancel-race"])
    assert rows(text_table(result_cells(study))) == []
    write_trial(study, "23.10", finished=False)
    (row,) = rows(text_table(result_cells(study)))
    assert (row["crashed"], row["ended as"]) == ("0 of 0", "no verdict")


@pytest.mark.slow
def test_many_crash_iterations_are_cut_short(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["cancel-race"])
    for repeat in range(8):
        write_trial(study, "23.10", repeat=repeat, crash_after=repeat + 1)
    (row,) = rows(text_table(result_cells(study)))
    assert row["after requests"] == "1, 2, 3, 4, 5, 6, …"


def test_html_escapes_what_a_server_printed(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=3, signature=replace(SEGFAULT, text="<script>"))
    assert "<script>" not in html_table(result_cells(study))
    assert "&lt;script&gt;" in html_table(result_cells(study))


@pytest.mark.slow
def test_a_latency_that_never_came_is_told_from_one_of_too_few_requests(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["24.05", "23.10"], ["cancel-race"])
    write_trial(study, "24.05", requests=30)
    write_trial(study, "23.10", requests=30, outcomes=dict.fromkeys(range(30), Outcome.TIMEOUT))
    never, few = rows(text_table(result_cells(study)))
    assert few["p95 ms"] == "-"
    assert float(few["p50 ms"]) > 0
    assert (never["p50 ms"], never["p95 ms"]) == ("never", "never")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_light", "release_map"])
def test_a_table_for_80_columns_loses_details_and_names_them(name: str) -> None:
    cells = result_cells(open_study(RECORDED / name))
    text = text_table(cells, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for cell in cells:
        assert re.search(rf"^{cell['release']} .*{cell['crashed']} of {cell['trials']}", text, re.M)
    whole, shown = (body.splitlines()[0] for body in (text_table(cells), text))
    gone = [column for column in re.split(r"  +", whole) if column not in shown]
    assert gone
    below = text.partition("\n\n")[2]
    assert [column for column in gone if column not in below] == []
