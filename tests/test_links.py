"""Links and cross references of the notebooks and the Markdown files lead to what is there."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
_LINK = re.compile(r"\[([^]]*)\]\(([^)\s]+)\)")
#: A path of the checkout that prose or a string names in passing.
_NAMED = re.compile(r"`((?:data|kit|notebooks|tests|benchmarks)/[\w./-]+)`")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name]


NOTEBOOKS = tracked("notebooks/*.ipynb")
DOCUMENTS = NOTEBOOKS + tracked("*.md")
every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@cache
def prose(path: Path) -> str:
    """The Markdown of a file, without its blocks of code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text("utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(path: Path) -> list[tuple[str, str]]:
    """Text and target of each link that stays in the checkout."""
    return [(text, to) for text, to in _LINK.findall(prose(path)) if ":" not in to]


def anchors(path: Path) -> set[str]:
    """What can follow a `#`: JupyterLab keeps a heading's capitals, GitHub does not."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    jupyter = {heading.strip().replace(" ", "-") for heading in headings}
    github = {re.sub(r"[^\w -]", "", h.strip().lower()).replace(" ", "-") for h in headings}
    return jupyter | github


@every_document
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(path: Path) -> None:
    lost = []
    for _, target in links(path):
        name, _, anchor = target.partition("#")
        file = (path.parent / unquote(name)).resolve() if name else path
        if not file.exists() or (anchor and unquote(anchor) not in anchors(file)):
            lost.append(target)
    assert lost == []


@every_document
def test_every_path_that_it_names_is_there(path: Path) -> None:
    assert [name for name in _NAMED.findall(prose(path)) if not (ROOT / name).exists()] == []


@every_document
def test_a_link_that_names_a_number_leads_to_it(path: Path) -> None:
    for text, target in links(path):
        named = re.match(r"(?:part )?(\d\d?)\b", text)
        if named and target.endswith(".ipynb"):
            number = Path(target).name.partition("_")[0]
            assert int(named.group(1)) == int(number), f"[{text}]({target})"


def test_every_notebook_is_reached_from_the_first_one() -> None:
    reached, waiting = set[Path](), [FOLDER / "00_start_here.ipynb"]
    while waiting:
        path = waiting.pop()
        if path not in reached and path.suffix in (".ipynb", ".md"):
            reached.add(path)
            waiting += [(path.parent / to.partition("#")[0]).resolve() for _, to in links(path)]
    asked = {path for path in NOTEBOOKS if path.parent.name != "solutions"}
    assert asked - reached == set()


@pytest.mark.parametrize("folder", ["course", "course/solutions"])
def test_each_part_of_the_course_leads_to_the_next(folder: str) -> None:
    parts = sorted((FOLDER / folder).glob("*.ipynb"))
    for part, following in pairwise(parts):
        assert following.name in [to for text, to in links(part)], part.name
