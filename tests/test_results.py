"""The result table of a study, read from synthetic folders."""

from __future__ import annotations

from pathlib import Path

from synthetic_studies import first_light, write_study, write_trial

from kit.records import Verdict
from kit.results import html_table, result_cells, text_table


def test_each_cell_says_how_many_crashed_and_after_how_many_requests(tmp_path: Path) -> None:
    cells = {(c.release, c.scenario): c for c in result_cells(first_light(tmp_path).path)}
    died = cells["23.10", "racing-cancel"]
    assert (died.crashed, died.trials, died.iterations) == (3, 3, (28, 33, 51))
    assert died.ending == "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"
    lived = cells["24.05", "racing-cancel"]
    assert (lived.crashed, lived.iterations, lived.ending) == (0, (), "survived")


def test_trials_of_one_scenario_stand_together_releases_in_order(tmp_path: Path) -> None:
    cells = result_cells(first_light(tmp_path).path)
    assert [(c.scenario, c.release) for c in cells] == [
        (scenario, release)
        for scenario in ("cancel-in-request", "racing-cancel")
        for release in ("23.10", "24.05", "24.10")
    ]


def test_a_failure_of_our_own_is_left_out_and_said(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["racing-cancel"])
    write_trial(study, "23.10", crash_after=5)
    write_trial(study, "23.10", repeat=1, verdict=Verdict.CLIENT_FAULT)
    (cell,) = result_cells(study.path)
    assert (cell.trials, cell.left_out, cell.crashed) == (1, 1, 1)
    assert "1 of 1 (1 left out)" in text_table([cell])


def test_a_study_stopped_before_its_first_result_has_a_table_all_the_same(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["racing-cancel"])
    assert result_cells(study.path) == []
    write_trial(study, "23.10", finished=False)
    (cell,) = result_cells(study.path)
    assert (cell.trials, cell.left_out, cell.ending) == (0, 1, "interrupted")


def test_text_columns_stand_under_their_header(tmp_path: Path) -> None:
    lines = text_table(result_cells(first_light(tmp_path).path)).splitlines()
    assert lines[0].index("scenario") == lines[2].index("cancel-in-request")
    assert lines[0].index("ended as") == lines[2].index("survived")


def test_html_escapes_what_a_server_printed(tmp_path: Path) -> None:
    study = write_study(tmp_path, ["23.10"], ["<script>"])
    write_trial(study, "23.10", scenario="<script>")
    assert "<script>" not in html_table(result_cells(study.path))
