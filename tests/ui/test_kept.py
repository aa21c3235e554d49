"""Outputs that notebooks keep: which, in what form, and when they count as the same."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from PIL import Image, ImageDraw

from kit.errors import SpecError
from kit.ui import kept
from kit.ui.course.student import student_version


def png(picture: Image.Image) -> str:
    written = BytesIO()
    picture.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def figure(*, mark: int = 40, mode: str = "RGBA") -> Image.Image:
    """A transparent card with a line of text and one mark, whose place is given."""
    made = Image.new(mode, (240, 120), (0, 0, 0, 0))
    pen = ImageDraw.Draw(made)
    pen.text((10, 4), "24.08 brings the crash back", fill=(31, 35, 40, 255))
    pen.ellipse((mark, 60, mark + 12, 72), fill=(191, 63, 16, 255))
    return made


def result(**data: str) -> NotebookNode:
    named = {name.replace("_", "/"): value for name, value in data.items()}
    return nbformat.v4.new_output("execute_result", named, execution_count=7)


def notebook(*, outputs: list[Any], tagged: bool = True) -> NotebookNode:
    cell = nbformat.v4.new_code_cell(
        "study", id="one", metadata={"tags": [kept.TAG] if tagged else []}, outputs=outputs
    )
    return nbformat.v4.new_notebook(cells=[cell])


def test_the_richest_form_is_kept_without_a_count() -> None:
    (output,) = kept.kept_outputs([result(text_html="<b>1</b>", text_plain="1")])
    assert output == {
        "output_type": "display_data",
        "data": {"text/html": "<b>1</b>"},
        "metadata": {},
    }


def test_the_style_that_pandas_puts_before_a_table_is_not_kept() -> None:
    table = "<div>\n<style scoped>\n    .a {}\n</style>\n<table></table>\n</div>"
    (output,) = kept.kept_outputs([result(text_html=table)])
    assert output.data["text/html"] == "<div>\n<table></table>\n</div>"


def test_what_was_printed_is_kept_and_what_went_to_stderr_is_refused() -> None:
    printed = nbformat.v4.new_output("stream", name="stdout", text="1\n")
    assert kept.kept_outputs([printed])[0].text == "1\n"
    for output in (
        nbformat.v4.new_output("stream", name="stderr", text="warning"),
        result(**{"application_vnd.jupyter.widget-view+json": "{}", "text_plain": "Panel()"}),
    ):
        with pytest.raises(SpecError, match=kept.TAG):
            kept.kept_outputs([output])


def test_a_picture_gets_an_opaque_card_and_a_palette() -> None:
    with Image.open(BytesIO(base64.b64decode(kept.small_picture(png(figure()))))) as small:
        assert small.mode == "P"
        assert small.info.get("transparency") is None
        assert small.convert("RGB").getpixel((0, 119)) == (255, 255, 255)


def test_a_picture_is_the_same_until_a_mark_moves_or_its_size_changes() -> None:
    drawn = kept.small_picture(png(figure()))
    assert kept.same_picture(drawn, png(figure().convert("RGB"))) is False
    assert kept.same_picture(drawn, kept.small_picture(png(figure())))
    assert not kept.same_picture(drawn, kept.small_picture(png(figure(mark=56))))
    assert not kept.same_picture(drawn, png(Image.new("RGB", (240, 121), "white")))


def test_a_run_that_shows_something_else_is_a_difference() -> None:
    ran = notebook(outputs=[result(text_plain="2")])
    agreed = notebook(outputs=kept.kept_outputs(ran.cells[0].outputs))
    assert kept.differences(agreed, ran) == []
    assert kept.differences(notebook(outputs=[]), ran) == ["one: is not what a run shows"]
    old = notebook(outputs=kept.kept_outputs([result(text_plain="1")]))
    assert kept.differences(old, ran) == ["one: is not what a run shows"]


def test_an_output_of_a_cell_that_keeps_none_is_a_difference() -> None:
    ran = notebook(outputs=[result(text_plain="2")], tagged=False)
    assert kept.differences(ran, ran) == ["one: is not what a run shows"]
    assert kept.differences(notebook(outputs=[], tagged=False), ran) == []


def test_a_tagged_cell_that_shows_nothing_is_a_difference() -> None:
    empty = notebook(outputs=[])
    assert kept.differences(empty, empty) == [f"one: is tagged {kept.TAG} and shows nothing"]


@pytest.mark.slow
def test_only_the_cells_that_are_tagged_keep_what_they_show(tmp_path: Path) -> None:
    path = tmp_path / "two.ipynb"
    cells = [
        nbformat.v4.new_code_cell("n = 2", id="set", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("n + 1", id="shown", metadata={"tags": [kept.TAG]}),
        nbformat.v4.new_code_cell("n + 2", id="other", execution_count=3),
    ]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(made, path)
    assert kept.keep(path) == ["shown: is not what a run shows"]
    written = nbformat.read(path, as_version=4)
    assert [cell.outputs for cell in written.cells] == [
        [],
        [{"output_type": "display_data", "data": {"text/plain": "3"}, "metadata": {}}],
        [],
    ]
    assert [cell.execution_count for cell in written.cells] == [None] * 3
    before = path.stat().st_mtime_ns
    assert kept.keep(path) == []
    assert path.stat().st_mtime_ns == before


def test_a_students_notebook_keeps_neither_output_nor_tag() -> None:
    solved = notebook(outputs=kept.kept_outputs([result(text_plain="1")]))
    (cell,) = student_version(solved).cells
    assert cell.outputs == []
    assert "tags" not in cell.metadata
