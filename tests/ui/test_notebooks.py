"""Every notebook keeps the house rules, and runs from recorded data; see CONTRIBUTING.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import pytest
from shared_kernel import SharedKernel

from kit.errors import SpecError, StoreError
from kit.study.folder import StudyFolder
from kit.ui.kept import differences, keeps, notebooks_with_outputs
from kit.ui.notebooks import execute, notebook_spec, parameters_of

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
COURSE = sorted(FOLDER.glob("course/**/*.ipynb"))
MOST_LINES, MEDIAN_LINES = 10, 4
#: Of the outputs that are kept: of one notebook, and of all.
MOST_BYTES, MOST_BYTES_IN_ALL = 300_000, 2_000_000

FIRST_LIGHT = next(path for path in NOTEBOOKS if path.stem == "01_reproduce_the_crash")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
with_the_course = pytest.mark.parametrize(
    "path", NOTEBOOKS + COURSE, ids=lambda path: str(path.relative_to(FOLDER).with_suffix(""))
)


def cells(path: Path, kind: str) -> list[Any]:
    read = nbformat.read(path, as_version=4)
    return [cell for cell in read.cells if cell.cell_type == kind]


def lines(cell: Any) -> int:
    """Lines that say something; blank ones, and the marks around a solution, do not."""
    said = re.sub(r"^### (BEGIN|END) SOLUTION$", "", cell.source, flags=re.MULTILINE)
    return sum(bool(line.strip()) for line in said.splitlines())


def texts(cell: Any) -> list[str]:
    """Everything that an executed cell shows as text, HTML or Markdown."""
    shown = [data for out in cell.outputs for data in out.get("data", {}).items()]
    printed = [out.text for out in cell.outputs if out.output_type == "stream"]
    return ["".join(text) for kind, text in shown if kind.startswith("text/")] + printed


@with_the_course
def test_the_cells_that_are_tagged_keep_their_output_and_no_other_does(path: Path) -> None:
    code = cells(path, "code")
    assert [c.id for c in code if bool(c.outputs) != keeps(c)] == [], "run `make outputs`"
    assert [c.id for c in code if c.execution_count is not None] == []
    assert any(map(keeps, code)) == (path in notebooks_with_outputs())


def test_the_outputs_that_are_kept_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in notebooks_with_outputs()}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}
    assert sum(sizes.values()) < MOST_BYTES_IN_ALL


@every_notebook
def test_a_notebook_is_numbered_and_its_title_is_a_question(path: Path) -> None:
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z0-9]+)*", path.stem)
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# [^\n]*\?(\n|$)", first.source)


@with_the_course
def test_code_cells_are_short_and_define_nothing(path: Path) -> None:
    code = cells(path, "code")
    assert {c.id: lines(c) for c in code if lines(c) > MOST_LINES} == {}
    assert median(map(lines, code)) <= MEDIAN_LINES
    banned = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda)
    for cell in code:
        tree = ast.parse(cell.source)  # magics do not parse, and have no place here
        assert not [node for node in ast.walk(tree) if isinstance(node, banned)], cell.source
        stars = [
            n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"
        ]
        assert not stars, cell.source


@every_notebook
def test_prose_has_one_sentence_a_line_and_no_typed_result(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for line in cell.source.splitlines():
            prose = re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", "", line)
            assert not re.search(r"[.!?] +[A-Z]", prose), line
            assert not re.search(r"\d+ (requests|crashes|servers|releases|trials|ms)\b", prose), (
                line
            )


@every_notebook
def test_the_parameters_stand_in_one_cell_and_default_to_recorded_data(path: Path) -> None:
    assert parameters_of(path)["mode"] == "recorded"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Path]]:
    """A copy that was run on recorded data, once; its report lies in `reports` beside it."""

    with SharedKernel() as kernel:

        @cache
        def run(path: Path) -> Path:
            into = tmp_path_factory.mktemp(path.stem)
            own = {"reports": str(into / "reports")} if "reports" in parameters_of(path) else {}
            return (execute if path == FIRST_LIGHT else kernel.execute)(path, own, into=into)

        yield run


@every_notebook
def test_a_notebook_runs_from_recorded_data_and_draws(
    path: Path, executed: Callable[[Path], Path]
) -> None:
    run = cells(executed(path), "code")
    drawing = [cell for cell in run if ".plot_" in cell.source]
    blank = [
        c.id for c in drawing if not any("image/png" in out.get("data", {}) for out in c.outputs)
    ]
    assert drawing
    assert blank == []
    outputs = [out for cell in run for out in cell.outputs]
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []


@every_notebook
def test_the_outputs_that_are_kept_are_those_of_a_run(
    path: Path, executed: Callable[[Path], Path]
) -> None:
    ran = nbformat.read(executed(path), as_version=4)
    assert differences(nbformat.read(path, as_version=4), ran) == [], "run `make outputs`"


def test_first_light_answers_in_its_second_cell_and_writes_the_report(
    executed: Callable[[Path], Path],
) -> None:
    copy = executed(FIRST_LIGHT)
    by_id = {cell.id: cell for cell in cells(copy, "code")}
    answer = "".join(texts(by_id["answer"]))
    assert "23.10 and 24.10 died" in answer
    assert "24.05 survived" in answer
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in "".join(texts(by_id["table"]))
    assert "libtriton_python.so" in "".join(texts(by_id["where"]))
    assert "the outcome is the same" in "".join(texts(by_id["learned-read"]))
    latest = json.loads((copy.parent / "reports" / "latest.json").read_text("utf-8"))
    assert {cell["release"] for cell in latest["cells"]} == {"23.10", "24.05", "24.10"}


def test_first_light_runs_live_where_only_one_release_and_no_control_is_chosen(
    tmp_path: Path,
) -> None:
    # One 23.10 in twenty or so outlives 200 requests; 1 in 3,000,000 outlives five times as many.
    chosen = {
        "releases": ["23.10"],
        "scenarios": ["cancel-race"],
        "requests": 1000,
        "repeats": 1,
    }
    where = {"study": str(tmp_path / "study"), "reports": str(tmp_path / "reports")}
    copy = execute(FIRST_LIGHT, {"mode": "live", **chosen, **where}, into=tmp_path)
    by_id = {cell.id: cell for cell in cells(copy, "code")}
    assert "1 of 1 trials" in "".join(texts(by_id["run"]))
    assert "crashed after" in "".join(texts(by_id["run"]))
    assert "There was no control." in "".join(texts(by_id["control"]))
    assert (tmp_path / "reports" / "latest.html").exists()


@pytest.mark.server
@pytest.mark.parametrize(
    ("name", "words"), [("02_sweep_your_traffic", "0 of 1"), ("09_report", "survived")]
)
def test_the_sweep_and_the_report_run_live(name: str, words: str, tmp_path: Path) -> None:
    path = next(path for path in NOTEBOOKS if path.stem == name)
    chosen = {"releases": ["24.05"], "concurrency": [1, 4], "requests": 20, "repeats": 1}
    where = {"study": str(tmp_path / "study")}
    if "reports" in parameters_of(path):
        chosen |= {"scenarios": ["control"]}
        where |= {"reports": str(tmp_path / "reports")}
    copy = execute(path, {"mode": "live", **chosen, **where}, into=tmp_path)
    assert words in "".join(text for cell in cells(copy, "code") for text in texts(cell))
    assert StudyFolder(tmp_path / "study").finished


def test_its_parameters_describe_a_study_that_can_be_run() -> None:
    spec = notebook_spec(parameters_of(FIRST_LIGHT))
    assert spec.releases == ("23.10", "24.05", "24.10")
    assert len(spec.scenarios) == 2


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="relaeses"):
        execute(FIRST_LIGHT, {"relaeses": ["23.10"]}, into=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_notebook_and_one_that_computes_its_parameters_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(StoreError, match=r"none\.ipynb"):
        parameters_of(tmp_path / "none.ipynb")
    cell = nbformat.v4.new_code_cell("n = 1 + len([])", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "sums.ipynb")
    with pytest.raises(SpecError, match="line 1"):
        parameters_of(tmp_path / "sums.ipynb")


KV = next(path for path in NOTEBOOKS if path.stem == "04_watch_the_kv_cache")


def test_the_kv_notebook_shows_agreement_beside_chance_and_advice_for_each_trial(
    executed: Callable[[Path], Path],
) -> None:
    by_id = {cell.id: "".join(texts(cell)) for cell in cells(executed(KV), "code")}

    assert "kit_model_log, kit_stat_logger" in by_id["table"]
    assert "metrics_agrees" in by_id["table"]
    assert "metrics_chance" in by_id["table"]
    assert "its steps confirm the log in" in by_id["agreed"]
    advised = re.findall(r"`(vllm-cpu_[\w-]+)`", by_id["advice"])
    assert len(set(advised)) == 6
    assert "requests will wait for it, or be preempted" in by_id["advice"]
    assert "This run was limited by the KV cache" in by_id["advice"]


def test_the_kv_notebook_tells_a_full_cache_from_one_that_held_requests_up(
    executed: Callable[[Path], Path],
) -> None:
    by_id = {cell.id: "".join(texts(cell)) for cell in cells(executed(KV), "code")}

    assert "5 of them were KV-limited" in by_id["limited"]
    assert "`vllm-cpu_mixed_c4` filled it to 100 % and held nobody up" in by_id["limited"]
    assert "whose requests are all alike" in by_id["expected"]
    assert "whose lengths vary" in by_id["pace"]
