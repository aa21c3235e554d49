"""Shows the cells of latest.json as a table, on a terminal or in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kit.cleaning import clean_text, safe_html
from kit.study.grid import FIELDS
from kit.study.words import aligned

Cell = Mapping[str, Any]
Columns = dict[str, Callable[[Cell], str]]

MOST_ITERATIONS = 6


def text_table(cells: Iterable[Cell], *, width: int | None = None) -> str:
    """Aligned columns, one line a cell.

    width: characters that a line may have. A wider table loses what is the same in every row, then
    details; what is left out is named below it. None: any width.
    """
    rows = list(cells)
    columns = _columns(rows)
    text, below = _aligned(columns, rows), []
    for narrower in _NARROWER if width else ():
        if width is None or max(map(len, text.splitlines())) <= width:
            break
        columns, said = narrower(columns, rows)
        below += [said] if said else []
        text = _aligned(columns, rows)
    return "\n".join([text, *(["", *below] if below else [])])


def _aligned(columns: Columns, rows: Sequence[Cell]) -> str:
    return aligned(list(columns), (_texts(columns, cell) for cell in rows))


def _without_constants(columns: Columns, rows: Sequence[Cell]) -> tuple[Columns, str]:
    said = []
    for name in ("scenario", "engine", "clients"):
        texts = {columns[name](cell) for cell in rows}
        if len(texts) == 1:
            said.append(f"{name} {texts.pop()}")
            columns = {other: text for other, text in columns.items() if other != name}
    return columns, f"all with {', '.join(said)}" if said else ""


def _brief(columns: Columns, rows: Sequence[Cell]) -> tuple[Columns, str]:
    """Verdicts instead of stacks, and few crash iterations."""
    brief = {
        "after requests": lambda cell: _iterations(cell, 3),
        "ended as": lambda cell: str(cell["verdict"] or "no verdict"),
    }
    return {name: brief.get(name, text) for name, text in columns.items()}, ""


def _few(columns: Columns, rows: Sequence[Cell]) -> tuple[Columns, str]:
    left_out = [name for name in ("p50 ms", "KV peak", "ended as") if name in columns]
    kept = {name: text for name, text in columns.items() if name not in left_out}
    return kept, f"{', '.join(left_out)}: in the report"


_NARROWER = (_without_constants, _brief, _few)


def html_table(cells: Iterable[Cell]) -> str:
    """An HTML table, escaped, in the colours of its page."""
    rows = list(cells)
    columns = _columns(rows)
    head = "".join(f"<th>{safe_html(name)}</th>" for name in columns)
    body = "".join(f"<tr>{_html_row(_texts(columns, cell))}</tr>" for cell in rows)
    style = "text-align: left; white-space: nowrap; border-spacing: 1em 0.2em"
    return (
        f'<table class="kit-results" style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _html_row(texts: list[str]) -> str:
    """Only the last column, which is long, may be broken."""
    last = '<td style="white-space: normal; overflow-wrap: anywhere; text-align: left">'
    return (
        "".join(f"<td>{safe_html(t)}</td>" for t in texts[:-1])
        + last
        + f"{safe_html(texts[-1])}</td>"
    )


def _columns(cells: Sequence[Cell]) -> Columns:
    """COLUMNS, what else of the traffic varied, and what a sequential test decided, if one did."""
    columns = list(COLUMNS.items())
    if any(cell.get("decision") for cell in cells):
        columns.insert(list(COLUMNS).index("crashed") + 1, ("decided", _decided))
    names = dict.fromkeys(name for cell in cells for name in cell.get("traffic", {}))
    varied = [name for name in names if len({str(cell["traffic"].get(name)) for cell in cells}) > 1]
    place = list(COLUMNS).index("crashed")
    columns[place:place] = [(FIELDS[name].label, _traffic(name)) for name in varied]
    return dict(columns)


def _traffic(name: str) -> Callable[[Cell], str]:
    """A traffic field; a dash where the cell has none of it."""

    def text(cell: Cell) -> str:
        value = cell["traffic"].get(name)
        return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    return text


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


def _iterations(cell: Cell, most: int = MOST_ITERATIONS) -> str:
    every = cell["crash_iterations"]
    shown = ", ".join(map(str, every[:most]))
    return shown + ", …" if len(every) > most else shown


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
