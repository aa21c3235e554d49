"""The cells of latest.json in, the same as a table for a terminal or a notebook out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from kit.console import aligned

Cell = Mapping[str, Any]

MOST_ITERATIONS = 6


def text_table(cells: Iterable[Cell]) -> str:
    """Aligned columns, one line a cell."""
    return aligned(list(COLUMNS), map(_texts, cells))


def html_table(cells: Iterable[Cell]) -> str:
    """An HTML table, escaped, in the colours of its page."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{_html_row(_texts(cell))}</tr>" for cell in cells)
    style = "text-align: left; white-space: nowrap; border-spacing: 1em 0.2em"
    return (
        f'<table class="kit-results" style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _html_row(texts: list[str]) -> str:
    """Only the last column, which is long, may be broken."""
    last = '<td style="white-space: normal; overflow-wrap: anywhere; text-align: left">'
    return "".join(f"<td>{escape(t)}</td>" for t in texts[:-1]) + last + f"{escape(texts[-1])}</td>"


def _texts(cell: Cell) -> list[str]:
    return [text(cell) for text in COLUMNS.values()]


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


COLUMNS: dict[str, Callable[[Cell], str]] = {
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
