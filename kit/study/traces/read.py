"""Reads a traffic file, whatever its format: it is recognised by its content.

Formats: Azure's LLM inference trace, BurstGPT and the kit's own CSV (kit.study.traces.tables),
Mooncake's JSON lines (mooncake), OpenAI requests, ShareGPT and perf_analyzer's --input-data
(messages), and a trial that the kit recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from kit.errors import SpecError, StoreError
from kit.study.files import read_file
from kit.study.traces import messages, mooncake
from kit.study.traces.rows import Place, TraceRow, in_order
from kit.study.traces.tables import AZURE, BURSTGPT, OWN, read_table

RECORDED = "recorded"
#: What each format is called where it is shown.
FORMATS = {
    AZURE: "Azure LLM inference trace",
    BURSTGPT: "BurstGPT trace",
    mooncake.MOONCAKE: "Mooncake trace",
    messages.SHAREGPT: "ShareGPT conversations",
    messages.OPENAI: "OpenAI requests",
    messages.PERF_ANALYZER: "perf_analyzer input data",
    OWN: "trace of the kit (CSV)",
    RECORDED: "recorded trial",
}
_EXPECTED = (
    "CSV of Azure's LLM inference trace, of BurstGPT or with t_s[,prompt_tokens[,output_tokens]]; "
    "JSON lines of Mooncake or of OpenAI requests; JSON of ShareGPT or of perf_analyzer's "
    "--input-data; or the folder of a recorded trial"
)
#: ShareGPT's largest file has 0.7 GB.
MOST_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The requests of a traffic file: conversations in the order of time, the first at 0 s."""

    format: str  # a key of FORMATS
    sha256: str  # of the file
    rows: tuple[TraceRow, ...]

    @property
    def is_timed(self) -> bool:
        """Whether it says when conversations begin; it does so for all of them or for none."""
        return self.rows[0].due_s is not None


def read_trace(path: Path) -> Trace:
    """The requests of a traffic file.

    Raises:
        SpecError: it cannot be read, is of no known format, has a field that cannot be used
            (line and field are named), or no request.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "trace.csv"
        ...     _ = path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\\n"
        ...                         "2023-11-16 18:15:46.6805900,374,44\\n")
        ...     trace = read_trace(path)
        >>> trace.format, trace.rows[0].prompt_tokens, trace.rows[0].output_tokens
        ('azure', 374, 44)
    """
    try:
        files = _recorded_files(path)
        newest = max((file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _read(path, tuple(files), newest)


@lru_cache(maxsize=4)
def _read(path: Path, files: tuple[Path, ...], state: object) -> Trace:
    """As `read_trace`, once for each state of the file."""
    try:
        if files != (path,) or path.suffix == ".arrows":
            found, rows, data = (
                RECORDED,
                _recorded(files),
                [read_file(f, limit=MOST_BYTES) for f in files],
            )
        else:
            data = [read_file(path, limit=MOST_BYTES)]
            found, rows = _written(path, data[0])
    except (OSError, StoreError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if not rows:
        raise SpecError(f"the traffic file {path} without a request", "one or more", "fill it")
    firsts: dict[int, bool] = {}
    for row in rows:
        firsts.setdefault(row.conversation, row.due_s is not None)
    if any(firsts.values()) and not all(firsts.values()):
        raise SpecError(
            f"the traffic file {path}, of which only some requests have a time",
            "a time for the first request of every conversation, or none at all",
            "add the missing times, or take them all out",
        )
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    return Trace(format=found, sha256=digest, rows=tuple(in_order(rows)))


def _unreadable(path: Path, error: Exception) -> SpecError:
    return SpecError(
        f"the traffic file {path}, which cannot be read ({error})",
        _EXPECTED,
        "correct the path or the file",
    )


def _recorded_files(path: Path) -> list[Path]:
    """The file itself, or the records in the folder of a trial."""
    if not path.is_dir():
        return [path]
    return sorted(path.glob("requests-*.arrows")) or sorted(path.glob("requests-*.parquet"))


def _recorded(files: tuple[Path, ...]) -> list[TraceRow]:
    from kit.study.arrow_file import read_rows
    from kit.study.folder import REQUESTS  # whose specs name traffic files
    from kit.study.records import read_records

    folder = files[0].parent
    tables = (
        [read_records(folder, "requests", REQUESTS, within=folder)[0]]
        if files[0].suffix == ".parquet"  # of a trial that was packed
        else [read_rows(file, REQUESTS).table for file in files]
    )
    return [
        TraceRow(
            due_s=row["scheduled_ns"] / 1e9,
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens_asked"],
            conversation=row["request"],
        )
        for table in tables
        for row in table.to_pylist()
        if row["scheduled_ns"] is not None
    ]


def _written(path: Path, data: bytes) -> tuple[str, list[TraceRow]]:
    text = data.decode("utf-8-sig")
    if text.lstrip()[:1] in ("{", "["):
        found = _json_lines(path, text) or _json_document(path, text)
    else:
        found = read_table(path, text)
    if found is None:
        first = (text.splitlines() or [""])[0][:60]
        raise SpecError(
            f"the traffic file {path}, which begins with {first!r}",
            _EXPECTED,
            "convert it to one of these",
        )
    return found


def _json_lines(path: Path, text: str) -> tuple[str, list[TraceRow]] | None:
    """Of a file with one JSON object a line; None: it is none, or of no known format."""
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    try:
        first = msgspec.json.decode(next(lines)[1])
    except (msgspec.DecodeError, RecursionError, StopIteration):
        return None
    if not isinstance(first, dict):
        return None
    objects = _objects(path, text)
    if mooncake.is_mooncake(first):
        sessions: dict[str, int] = {}
        rows = [mooncake.read_mooncake(place, row, sessions) for place, row in objects]
        return mooncake.MOONCAKE, rows
    return _conversations(first, objects)


def _objects(path: Path, text: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = Place(path, f"line {number}")
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise place.wrong("its text", line, f"one JSON object a line ({error})") from error
        if not isinstance(row, dict):
            raise place.wrong("its text", line, "one JSON object a line")
        yield place, row


def _json_document(path: Path, text: str) -> tuple[str, list[TraceRow]] | None:
    """Of a file that is one JSON value."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"the traffic file {path}, which is no JSON: {error}",
            _EXPECTED,
            "correct it at that place",
        ) from error
    if isinstance(document, dict) and "data" in document:
        rows = messages.read_perf_analyzer(Place(path, "the document"), document)
        return messages.PERF_ANALYZER, rows
    entries = document if isinstance(document, list) else [document]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise Place(path, f"entry {number}").wrong("it", entry, "a JSON object")
    places = ((Place(path, f"entry {n}"), entry) for n, entry in enumerate(entries))
    return _conversations(entries[0] if entries else {}, places)


def _conversations(
    first: dict[str, Any], objects: Iterator[tuple[Place, dict[str, Any]]]
) -> tuple[str, list[TraceRow]] | None:
    """Of objects like the first; None: that is of no known format."""
    if messages.is_sharegpt(first):
        rows: list[TraceRow] = []
        for number, (place, row) in enumerate(objects):
            if not messages.is_sharegpt(row):
                raise place.missing("conversations", "conversations in every entry")
            rows += messages.read_sharegpt(place, row, number)
        return messages.SHAREGPT, rows
    if messages.is_openai(first):
        numbered = enumerate(objects)
        requests = [messages.read_openai(place, row, number) for number, (place, row) in numbered]
        return messages.OPENAI, requests
    return None
