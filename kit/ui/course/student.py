"""Derives the notebooks that students get from those with the solutions: one source of truth.

In a solution notebook the answer of an exercise stands between the lines
`### BEGIN SOLUTION` and `### END SOLUTION` (nbgrader's marks). The student's copy has
`name = ...` there for each name that the block sets, so it runs from top to bottom, and every
check says that it is not answered yet. Cells tagged `instructor` are left out, and so are the
outputs that the solution notebook keeps: a student sees them by running the cells.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat

from kit.errors import SpecError
from kit.study.files import write_whole
from kit.study.paths import NOTEBOOKS
from kit.ui.kept import TAG as KEEP

COURSE = NOTEBOOKS / "course"
SOLUTIONS = COURSE / "solutions"
_BLOCK = re.compile(r"^### BEGIN SOLUTION\n(.*?)^### END SOLUTION$", re.MULTILINE | re.DOTALL)
#: A link out of the folder: the student's copy lies one folder higher.
_UPWARD = re.compile(r"\]\(\.\./")
INSTRUCTOR = "instructor"


def student_version(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without its solutions and without what only an instructor needs.

    Raises:
        SpecError: a solution sets nothing, or a mark stands alone.
    """
    copy: nbformat.NotebookNode = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    copy.cells = [c for c in copy.cells if INSTRUCTOR not in c.metadata.get("tags", [])]
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = _UPWARD.sub("](", cell.source)
        if cell.cell_type == "code":
            cell.source = _BLOCK.sub(lambda found: _blank(found.group(1)), cell.source)
            cell.outputs, cell.execution_count = [], None
            _untag(cell)
            if "### BEGIN SOLUTION" in cell.source or "### END SOLUTION" in cell.source:
                raise SpecError(
                    f"a solution mark without its other half in cell {cell.id}",
                    "both marks, each on a line of its own",
                    "add the missing one",
                )
    return copy


def _untag(cell: nbformat.NotebookNode) -> None:
    tags = [tag for tag in cell.metadata.get("tags", []) if tag != KEEP]
    if tags:
        cell.metadata["tags"] = tags
    else:
        cell.metadata.pop("tags", None)


def _blank(block: str) -> str:
    """`name = ...  # your answer` for what the block's last statement sets."""
    last = ast.parse(block).body[-1]
    if not isinstance(last, ast.Assign) or not isinstance(last.targets[0], ast.Name):
        raise SpecError(
            "a solution whose last line sets no name", "answer = …", "let it end by setting one"
        )
    return f"{last.targets[0].id} = ...  # your answer"


def write_students(solutions: Path = SOLUTIONS, into: Path = COURSE) -> list[Path]:
    """Write the student's version of every solution notebook; the paths written."""
    written = []
    for path in sorted(solutions.glob("*.ipynb")):
        text = student_text(path)
        write_whole(into / path.name, text.encode())
        written.append(into / path.name)
    return written


def student_text(path: Path) -> str:
    """The student's version of one notebook, as the text of its file."""
    derived = student_version(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]
    text: str = nbformat.writes(derived)  # type: ignore[no-untyped-call]
    return text.rstrip("\n") + "\n"
