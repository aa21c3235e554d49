"""Keeps a notebook's outputs in its file, where a reader of the repository first meets it.

Only cells tagged `keep_output` keep one: nbstripout's own tag, so it strips the rest and leaves
these. What is kept is the same on every machine and in every run: no counts, no times, no widget,
and of several forms of one result only the richest that a web page shows. A picture gets an opaque
card, which a dark page needs, and a palette of 128 colours, which makes it a third as large.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbformat import NotebookNode
from PIL import Image, ImageChops, ImageStat

from kit.errors import SpecError
from kit.study.files import write_whole
from kit.study.paths import NOTEBOOKS
from kit.ui.notebooks import execute, parameters_of

TAG = "keep_output"
PNG = "image/png"
#: Forms of a result, richest first. Of a picture the text only says how large it is.
FORMS = (PNG, "text/html", "text/markdown", "text/plain")
COLOURS = 128
#: What pandas puts before a table: pages that show notebooks have their own, and most drop it.
_STYLE = re.compile(r"<style scoped>.*?</style>\n", re.DOTALL)
#: Pictures are compared by the means of squares of eight pixels. A letter that another release of
#: matplotlib draws a little differently changes one by less than this (of 255), a mark that moved
#: by more.
SQUARE, MOST_CHANGE = 8, 40


def notebooks_with_outputs() -> list[Path]:
    """The notebooks that keep outputs: all but the students' copies of the course."""
    return sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("course/solutions/*.ipynb")])


def keeps(cell: NotebookNode) -> bool:
    """Whether this cell is tagged to keep its output."""
    return TAG in cell.metadata.get("tags", [])


def kept_outputs(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """The outputs of an executed cell as they are kept.

    Raises:
        SpecError: the cell wrote to stderr, failed, or shows a widget; none of it can be kept.
    """
    return [_kept(output) for output in outputs]


def _kept(output: NotebookNode) -> NotebookNode:
    if output.output_type == "stream" and output.name == "stdout":
        return _node(output_type="stream", name="stdout", text=output.text)
    data = output.get("data", {})
    form = next((form for form in FORMS if form in data), None)
    if form is None or "application/vnd.jupyter.widget-view+json" in data:
        raise SpecError(
            f"an output of the kind {output.get('name') or output.output_type} to keep",
            f"printed text, or one of {', '.join(FORMS)}",
            f"take the tag {TAG} from its cell",
        )
    shown = small_picture(data[form]) if form == PNG else _STYLE.sub("", data[form])
    # One kind for both, since `execute_result` would need the count of its cell.
    return _node(output_type="display_data", data={form: shown}, metadata={})


def _node(**fields: Any) -> NotebookNode:
    node: NotebookNode = nbformat.from_dict(fields)  # type: ignore[no-untyped-call]
    return node


def small_picture(encoded: str) -> str:
    """A PNG (base64) on a white card, with a palette and without metadata, as base64."""
    with Image.open(BytesIO(base64.b64decode(encoded))) as picture:
        ink = picture.convert("RGBA")
    card = Image.new("RGBA", ink.size, "white")
    card.alpha_composite(ink)
    small = card.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = BytesIO()
    small.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def differences(notebook: NotebookNode, executed: NotebookNode) -> list[str]:
    """Where the outputs in a notebook's file are not those of a run of it; empty if they agree.

    executed: the notebook after a run from recorded data. Text has to be equal, a picture to look
    the same: see `same_picture`.

    Raises:
        SpecError: a tagged cell has an output that cannot be kept.
    """
    ran = _by_id(executed)
    found = []
    for name, cell in _by_id(notebook).items():
        wanted = _wanted(cell, ran[name])
        if keeps(cell) and not wanted:
            found.append(f"{name}: is tagged {TAG} and shows nothing")
        elif not _alike(cell.outputs, wanted):
            found.append(f"{name}: is not what a run shows")
    return found


def _wanted(cell: NotebookNode, ran: NotebookNode) -> list[NotebookNode]:
    return kept_outputs(ran.outputs) if keeps(cell) else []


def _by_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def _alike(there: Sequence[NotebookNode], wanted: Sequence[NotebookNode]) -> bool:
    pairs = zip(there, wanted, strict=False)
    return len(there) == len(wanted) and all(_same(one, other) for one, other in pairs)


def _same(one: NotebookNode, other: NotebookNode) -> bool:
    pictures = [output.get("data", {}).get(PNG) for output in (one, other)]
    if all(pictures):
        return same_picture(*pictures)
    return bool(one == other)


def same_picture(one: str, other: str) -> bool:
    """Whether two pictures (PNG, base64) look the same, whatever machine drew them."""
    first, second = (
        Image.open(BytesIO(base64.b64decode(text))).convert("RGB") for text in (one, other)
    )
    if first.size != second.size:
        return False
    change = ImageChops.difference(first.reduce(SQUARE), second.reduce(SQUARE))
    return max(most for _, most in ImageStat.Stat(change).extrema) <= MOST_CHANGE


def keep(path: Path) -> list[str]:
    """Run a notebook from recorded data and keep the outputs of its tagged cells in its file.

    An output that agrees with the run already is left as it is, byte by byte. What was different.

    Raises:
        SpecError: a tagged cell has an output that cannot be kept.
        papermill.PapermillExecutionError: a cell failed.
    """
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as folder:
        own = {"reports": folder} if "reports" in parameters_of(path) else {}
        copy = execute(path, own, into=Path(folder))
        executed: NotebookNode = nbformat.read(copy, as_version=4)  # type: ignore[no-untyped-call]
    found = differences(notebook, executed)
    if found:
        ran = _by_id(executed)
        for name, cell in _by_id(notebook).items():
            wanted = _wanted(cell, ran[name])
            if not _alike(cell.outputs, wanted):
                cell.outputs = wanted
            cell.execution_count = None
        text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
        write_whole(path, (text.rstrip("\n") + "\n").encode())
    return found
