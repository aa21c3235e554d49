"""The course: its models, the checks of its exercises, its history, and its derived notebooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from shared_kernel import SharedKernel

from kit.errors import SpecError
from kit.ui.course import expected, experiments, history, material
from kit.ui.course.exercises import EXERCISES, check
from kit.ui.course.student import COURSE, SOLUTIONS, student_text, student_version
from kit.ui.kept import differences

PARTS = sorted(SOLUTIONS.glob("*.ipynb"))
every_part = pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)

#: What students typically answer instead; every exercise has at least one.
WRONG: dict[str, list[Any]] = {
    "1.1": [0.1, 0, 18],
    "1.2": [4000.0, 2.49, 0.0, "four"],
    "1.3": ["a", "c", ""],
    "2.1": [0.0, 1.0, None],
    "2.2": [14.4, 0.5],
    "2.3": [1.0, 0.5],
    "3.1": [0x7FC822D26AF9, 0],
    "3.2": [0, 0xAF9 + 4096],
    "3.3": ["a", "c", "d"],
    "4.1": [["23.10"], ["23.10", "23.11"], "23.12"],
    "4.2": [["23.10"], [], ["23.11"]],
    "4.3": ["a", "b"],
    "5.1": [0, 0.05, 1],
    "5.2": [0.0, 1.0],
    "5.3": ["a", "c"],
    "5.4": [1, 20],
    "6.1": [0.9, 1],
    "6.2": [0.0001],
    "6.3": [10, 21],
    "7.1": [2000, 0],
    "7.2": [10],
    "7.3": [20, 100],
}


def test_every_exercise_has_typical_wrong_answers() -> None:
    assert set(WRONG) == set(EXERCISES)


@pytest.mark.slow
@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_typical_wrong_answer_gets_a_hint_and_not_the_answer(exercise: str) -> None:
    for answer in WRONG[exercise]:
        verdict = check(exercise, answer)
        assert not verdict.right, answer
        assert len(verdict.text) > 20


def test_an_exercise_that_is_not_done_says_so() -> None:
    assert "not answered yet" in repr(check("1.1", ...))


def test_an_unknown_exercise_is_named() -> None:
    with pytest.raises(SpecError, match=r"9\.9"):
        check("9.9", 1)


def test_only_orders_without_overlap_keep_both_additions() -> None:
    orders = experiments.interleavings()
    right = orders.loc[~orders["lost"], "order"].str.replace(r"\.\w+", "", regex=True)
    assert sorted(right) == ["A A A B B B", "B B B A A A"]
    assert len(orders) == math.comb(6, 3)


def test_a_stall_is_one_request_for_a_closed_loop_and_many_for_an_open_one() -> None:
    closed = experiments.queue(clients=1, stall_s=2.0)
    opened = experiments.queue(rate_per_s=50, stall_s=2.0)
    assert (closed["latency_ms"] > 1000).sum() == 1
    # 50 a second come in the first of the two seconds in which they wait longer than one.
    assert 50 <= (opened["latency_from_due_ms"] > 1000).sum() <= 110


def test_a_queue_without_a_stall_answers_in_its_service_time() -> None:
    frame = experiments.queue(rate_per_s=50, stall_s=0.0)
    assert frame["latency_ms"].round(6).eq(10.0).all()


def test_a_queue_needs_one_kind_of_loop() -> None:
    with pytest.raises(SpecError, match="exactly one"):
        experiments.queue()
    with pytest.raises(SpecError, match="exactly one"):
        experiments.queue(clients=1, rate_per_s=1.0)


def test_crash_iterations_have_the_mean_of_a_geometric_distribution() -> None:
    mean = experiments.crash_iterations(0.1, trials=20_000).mean()
    assert abs(mean - 9.0) < 0.3  # four standard errors: sqrt(90 / 20000) = 0.067
    with pytest.raises(SpecError, match="chance"):
        experiments.crash_iterations(0.0)


def test_open_requests_are_counted_from_sent_to_ended() -> None:
    requests = pd.DataFrame({"t_s": [0.0, 0.5], "end_s": [1.0, 2.0]})
    opened = experiments.open_at(requests, step_s=0.25).set_index("t_s")["open"]
    assert opened[0.25] == 1
    assert opened[0.75] == 2
    assert opened[1.25] == 1


def test_the_history_opens_and_closes_each_fault_in_order() -> None:
    table = history.faults_by_release().set_index("release")
    late = table.index[table["asked-after-final"]]
    assert list(late[:2]) == ["23.10", "23.11"]
    assert late[2] == "24.08"
    assert list(table.index[table["address-reuse"]]) == ["23.11"]
    for change in history.changes():
        assert len(change.commit) == 40
        assert int(change.commit, 16) > 0


def test_source_and_measurement_agree_wherever_a_release_was_tried() -> None:
    assert expected.predicted_and_measured() == {"23.10", "24.08", "24.09", "24.10"}


def test_two_lives_share_offsets_and_no_address() -> None:
    first, second = material.frames(1), material.frames(2)
    known = first["address"].notna() & first["module_start"].notna()
    one = (first["address"] - first["module_start"])[known]
    other = (second["address"] - second["module_start"])[known]
    assert one.tolist() == other.tolist()
    assert not (first["address"] == second["address"])[known].any()
    with pytest.raises(SpecError, match="stack 3"):
        material.frames(3)


def test_no_request_of_a_single_client_gets_the_address_of_a_live_one() -> None:
    addresses = material.addresses()
    assert not addresses.loc[addresses["clients"] == 1, "reused"].any()
    assert addresses.loc[addresses["clients"] == 16, "reused"].mean() > 0.2


@every_part
def test_the_students_notebook_is_derived_from_the_solutions(path: Path) -> None:
    assert (COURSE / path.name).read_text("utf-8") == student_text(path), "run `make course`"


@every_part
def test_a_students_notebook_holds_no_solution(path: Path) -> None:
    derived = student_version(nbformat.read(path, as_version=4))
    source = "\n".join(cell.source for cell in derived.cells)
    assert "SOLUTION" not in source
    assert source.count("= ...  # your answer") == source.count("check(")


def test_a_solution_that_sets_nothing_is_refused() -> None:
    cell = nbformat.v4.new_code_cell("### BEGIN SOLUTION\nprint(1)\n### END SOLUTION")
    with pytest.raises(SpecError, match="sets no name"):
        student_version(nbformat.v4.new_notebook(cells=[cell]))


def test_a_mark_without_its_other_half_is_refused() -> None:
    cell = nbformat.v4.new_code_cell("### BEGIN SOLUTION\nx = 1")
    with pytest.raises(SpecError, match="other half"):
        student_version(nbformat.v4.new_notebook(cells=[cell]))


def shown(path: Path) -> str:
    read = nbformat.read(path, as_version=4)
    outputs = [out for cell in read.cells if cell.cell_type == "code" for out in cell.outputs]
    return "\n".join(str(out.get("data", {}).get("text/plain", "")) for out in outputs)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Path]]:
    with SharedKernel() as kernel:

        @cache
        def executed(path: Path) -> Path:
            return kernel.execute(path, {}, into=tmp_path_factory.mktemp(path.stem))

        yield executed


@pytest.mark.slow
@every_part
def test_every_solution_passes_its_checks(path: Path, run: Callable[[Path], Path]) -> None:
    text = shown(run(path))
    assert "✗" not in text
    assert text.count("✓") == path.read_text("utf-8").count('check(\\"')


@pytest.mark.slow
@every_part
def test_the_outputs_that_a_solution_keeps_are_those_of_a_run(
    path: Path, run: Callable[[Path], Path]
) -> None:
    ran = nbformat.read(run(path), as_version=4)
    assert differences(nbformat.read(path, as_version=4), ran) == [], "run `make outputs`"


@pytest.mark.slow
def test_a_students_notebook_runs_to_its_end_unanswered(run: Callable[[Path], Path]) -> None:
    path = COURSE / PARTS[0].name
    text = shown(run(path))
    assert "✓" not in text
    assert text.count("not answered yet") == path.read_text("utf-8").count('check(\\"')
