"""The cells of latest.json in, the same as a table for a terminal or a notebook out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kit.study.words import aligned, clean_text

Cell = Mapping[str, Any]
Columns = dict[str, Callable[[Cell], str]]

MOST_ITERATIONS = 6


def text_table(cells: Iterable[Cell]) -> str:
    """Aligned columns, one line a cell."""
    rows = list(cells)
    columns = _columns(rows)
    return aligned(list(columns), (_texts(columns, cell) for cell in rows))


def html_table(cells: Iterable[Cell]) -> str:
    """An HTML table, escaped, in the colours of its page."""
    rows = list(cells)
    columns = _columns(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{_html_row(_texts(columns, cell))}</tr>" for cell in rows)
    style = "text-align: left; white-space: nowrap; border-spacing: 1em 0.2em"
    return (
        f'<table class="kit-results" style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _html_row(texts: list[str]) -> str:
    """Only the last column, which is long, may be broken."""
    last = '<td style="white-space: normal; overflow-wrap: anywhere; text-align: left">'
    return "".join(f"<td>{escape(t)}</td>" for t in texts[:-1]) + last + f"{escape(texts[-1])}</td>"


def _columns(cells: Sequence[Cell]) -> Columns:
    """COLUMNS, and what a sequential test decided where there was one."""
    if not any(cell.get("decision") for cell in cells):
        return COLUMNS
    columns = list(COLUMNS.items())
    after = list(COLUMNS).index("crashed") + 1
    return dict([*columns[:after], ("decided", _decided), *columns[after:]])


def _decided(cell: Cell) -> str:
    return str(cell.get("decision") or "-")


def _texts(columns: Columns, cell: Cell) -> list[str]:
    return [clean_text(text(cell), lines=False) for text in columns.values()]


def _number(name: str, form: str) -> Callable[[Cell], str]:
    """A field in that form; what is not known, or never came, is a dash and not 0."""
    return lambda cell: "-" if cell[name] is None else format(cell[name], form)


def latency(cell: Cell, name: str, quantile: float) -> str:
    """Milliseconds; "never" where the quantile was never answered, a dash for too few requests."""
    if cell[name] is not None:
        return f"{cell[name]:.0f}"
    failed = cell["failed_fraction"]
    return "never" if failed is not None and failed > 1 - quantile else "-"


def _iterations(cell: Cell) -> str:
    every = cell["crash_iterations"]
    shown = ", ".join(map(str, every[:MOST_ITERATIONS]))
    return shown + ", …" if len(every) > MOST_ITERATIONS else shown


COLUMNS: Columns = {
    "release": lambda cell: str(cell["release"]),
    "scenario": lambda cell: str(cell["scenario"]),
    "engine": lambda cell: str(cell["engine"]),
    "clients": _number("concurrency", "d"),
    "crashed": lambda cell: f"{cell['crashed']} of {cell['trials']}",
    "after requests": _iterations,
    "p50 ms": lambda cell: latency(cell, "latency_p50_ms", 0.5),
    "p95 ms": lambda cell: latency(cell, "latency_p95_ms", 0.95),
    "KV peak": _number("kv_peak_fraction", ".0%"),
    "ended as": lambda cell: str(cell["signature"] or cell["verdict"] or "no verdict"),
}
