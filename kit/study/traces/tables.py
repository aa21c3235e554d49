"""Reads traffic files that are tables: Azure's LLM inference trace, BurstGPT, the kit's own CSV.

Azure/AzurePublicDataset: TIMESTAMP (date and time), ContextTokens, GeneratedTokens.
HPMLL/BurstGPT: Timestamp (seconds), Request tokens, Response tokens and others.
The kit's own: t_s and, where known, prompt_tokens and output_tokens; without a header in this
order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from kit.study.traces.rows import Place, TraceRow

AZURE, BURSTGPT, OWN = "azure", "burstgpt", "csv"
_OWN_COLUMNS = ("t_s", "prompt_tokens", "output_tokens")

Line = tuple[Place, Mapping[str, str]]


def table_format(header: list[str]) -> str | None:
    """The format of a table with such a first line; None: none that is known."""
    names = {name.strip() for name in header}
    if {"TIMESTAMP", "ContextTokens"} <= names:
        return AZURE
    if {"Timestamp", "Request tokens"} <= names:
        return BURSTGPT
    if "t_s" in names or (header and len(header) <= len(_OWN_COLUMNS) and _is_number(header[0])):
        return OWN
    return None


def read_table(path: Path, text: str) -> tuple[str, list[TraceRow]] | None:
    """Format and rows of a CSV file; None: it is none of these.

    Raises:
        SpecError: a field that cannot be used; names line and field.
    """
    lines = csv.reader(io.StringIO(text, newline=""))
    given = ((lines.line_num, line) for line in lines if line and not line[0].startswith("#"))
    number, header = next(given, (0, []))
    found = table_format(header)
    if found is None:
        return None
    names = [name.strip() for name in header]
    rest: Iterator[tuple[int, list[str]]] = given
    if found == OWN and _is_number(names[0]):
        names, rest = list(_OWN_COLUMNS), _with_first((number, header), given)
    read = _READERS[found]
    rows: list[TraceRow] = []
    for at, line in rest:
        place = Place(path, f"line {at}")
        if len(line) > len(names):
            raise place.wrong("its fields", line, f"{len(names)} fields: {', '.join(names)}")
        rows.append(read(place, dict(zip(names, line, strict=False)), len(rows)))
    return found, rows


def _with_first(
    first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _azure(place: Place, line: Mapping[str, str], number: int) -> TraceRow:
    text = _given(place, line, "TIMESTAMP")
    try:
        due = datetime.fromisoformat(text)
    except ValueError:
        raise place.wrong("TIMESTAMP", text, "a time such as 2023-11-16 18:15:46.68") from None
    # Times without a zone are all of one zone; which, does not matter.
    since = datetime(2020, 1, 1, tzinfo=due.tzinfo)
    return TraceRow(
        due_s=(due - since).total_seconds(),
        prompt_tokens=place.count("ContextTokens", _given(place, line, "ContextTokens")),
        output_tokens=place.count("GeneratedTokens", _given(place, line, "GeneratedTokens")),
        conversation=number,
    )


def _burstgpt(place: Place, line: Mapping[str, str], number: int) -> TraceRow:
    return TraceRow(
        due_s=place.number("Timestamp", _given(place, line, "Timestamp")),
        prompt_tokens=place.count("Request tokens", _given(place, line, "Request tokens")),
        output_tokens=place.count("Response tokens", _given(place, line, "Response tokens")),
        conversation=number,
    )


def _own(place: Place, line: Mapping[str, str], number: int) -> TraceRow:
    def count(field: str) -> int | None:
        text = line.get(field, "").strip()
        return place.count(field, text) if text else None

    return TraceRow(
        due_s=place.number("t_s", _given(place, line, "t_s")),
        prompt_tokens=count("prompt_tokens"),
        output_tokens=count("output_tokens"),
        conversation=number,
    )


_READERS: dict[str, Callable[[Place, Mapping[str, str], int], TraceRow]] = {
    AZURE: _azure,
    BURSTGPT: _burstgpt,
    OWN: _own,
}


def _given(place: Place, line: Mapping[str, str], field: str) -> str:
    text = line.get(field, "").strip()
    if not text:
        raise place.missing(field, f"a value of {field} in every line")
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
