"""A study folder in, its result table out: one row a cell, for a terminal or as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from kit.frames import trials_frame
from kit.stats.summary import CELL

HEADER = ("release", "scenario", "engine", "clients", "crashed", "after requests", "ended as")
MOST_ITERATIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCell:
    """What became of the trials of one release under one scenario at one concurrency."""

    release: str
    scenario: str
    engine: str
    concurrency: int | None
    trials: int  # that count; interrupted ones and failures of our own do not
    left_out: int
    crashed: int
    iterations: tuple[int, ...]  # crash iterations, sorted
    ending: str  # the commonest signature of the trials that crashed, else the commonest verdict


def result_cells(study: Path) -> list[ResultCell]:
    """One row a cell that has a trial: by scenario, concurrency and engine, then by release."""
    groups = trials_frame(study).groupby(list(CELL), sort=False, dropna=False)
    cells = [_cell(key, group) for key, group in groups]
    return sorted(cells, key=lambda c: (c.scenario, c.concurrency or 0, c.engine, c.release))


def _cell(key: tuple[Any, ...], trials: pd.DataFrame) -> ResultCell:
    release, scenario, engine, concurrency = key
    counted = trials[trials["counted"]]
    died = counted[counted["crashed"]]
    endings = died["signature_text"].fillna(died["verdict"])
    if died.empty:
        endings = (trials if counted.empty else counted)["verdict"]
    return ResultCell(
        release=str(release),
        scenario=str(scenario),
        engine=str(engine),
        concurrency=None if pd.isna(concurrency) else int(concurrency),
        trials=len(counted),
        left_out=len(trials) - len(counted),
        crashed=len(died),
        iterations=tuple(sorted(int(i) for i in died["crash_iteration"])),
        ending=str(endings.mode().iloc[0]),
    )


def text_table(cells: Iterable[ResultCell]) -> str:
    """Aligned columns under a header."""
    rows = [HEADER, *map(_texts, cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def html_table(cells: Iterable[ResultCell]) -> str:
    """The same as an HTML table, escaped, in the colours of its page."""
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _texts(cell)) + "</tr>"
        for cell in cells
    )
    style = "text-align: left; border-spacing: 1em 0.2em"
    return (
        f'<table class="kit-results" style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _texts(cell: ResultCell) -> tuple[str, ...]:
    shown = ", ".join(map(str, cell.iterations[:MOST_ITERATIONS]))
    more = ", …" if len(cell.iterations) > MOST_ITERATIONS else ""
    left_out = f" ({cell.left_out} left out)" if cell.left_out else ""
    return (
        cell.release,
        cell.scenario,
        cell.engine,
        "" if cell.concurrency is None else str(cell.concurrency),
        f"{cell.crashed} of {cell.trials}{left_out}",
        shown + more,
        cell.ending,
    )
