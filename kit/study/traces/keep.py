"""Keeps the requests of traffic files in a study's folder, so that it needs no other file.

`traces/<first 16 digits of the file's SHA-256>.jsonl`: a line that says what it is, with the
checksum of the rest; then a line a request (kit.study.traces.rows.TraceRow).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import msgspec

from kit.errors import SpecError, StoreError
from kit.study.files import read_file, write_whole
from kit.study.traces.pinned import TraceFile, pinned
from kit.study.traces.read import MOST_BYTES, read_trace
from kit.study.traces.rows import TraceRow

FOLDER = "traces"


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    source: str  # the file's name
    format: str
    sha256: str  # of the file
    requests: int
    rows_sha256: str  # of what follows this line


def keep(study: Path, text: str | None) -> None:
    """Write the requests of the traffic file that a workload names into the study's folder.

    Raises:
        SpecError: the file is not there or has changed since the workload was made.
        StoreError: the folder cannot be written.
    """
    if text is None:
        return
    file = pinned(text)
    path = study / FOLDER / _name(file)
    if path.exists():
        return
    lines = msgspec.json.Encoder().encode_lines(_source(file))
    head = _Head(
        source=Path(file.path).name,
        format=file.format,
        sha256=file.sha256,
        requests=file.requests,
        rows_sha256=hashlib.sha256(lines).hexdigest(),
    )
    write_kept(path, msgspec.json.encode(head) + b"\n" + lines)


def write_kept(path: Path, data: bytes) -> None:
    """Write what a study keeps of its traffic, in a folder that is made if need be.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path.parent} cannot be made: {error}", "a writable folder", "choose another folder"
        ) from error
    write_whole(path, data)


def find_kept(folder: Path | None, name: str) -> tuple[Path, Path] | None:
    """(the study, the file): what the study that `folder` (of a trial, or the study's own) belongs
    to keeps by that name; None: nothing."""
    for study in () if folder is None else (folder.resolve(), folder.resolve().parent.parent):
        path = study / FOLDER / name
        if path.exists():
            return study, path
    return None


def rows_of(text: str, folder: Path | None = None) -> tuple[TraceRow, ...]:
    """The requests of a traffic file: as kept in the study that `folder` (of a trial, or the
    study's own) belongs to, else from the file itself.

    Raises:
        SpecError: neither is there, or the file has changed.
        StoreError: what was kept is damaged.
    """
    file = pinned(text)
    kept = find_kept(folder, _name(file))
    if kept is None:
        return _source(file)
    study, path = kept
    return _read_kept(path, study, file.sha256, path.stat().st_mtime_ns)


def _name(file: TraceFile) -> str:
    return f"{file.sha256[:16]}.jsonl"


def _source(file: TraceFile) -> tuple[TraceRow, ...]:
    trace = read_trace(Path(file.path))
    if trace.sha256 != file.sha256:
        raise SpecError(
            f"the traffic file {file.path}, which has changed (checksum {trace.sha256[:8]}…)",
            f"the one that the study was planned with ({file.sha256[:8]}…)",
            "restore it, or make a new study",
        )
    return trace.rows


@lru_cache(maxsize=4)
def _read_kept(path: Path, study: Path, sha256: str, state: int) -> tuple[TraceRow, ...]:
    head, _, lines = read_file(path, within=study, limit=MOST_BYTES).partition(b"\n")
    try:
        told = msgspec.json.decode(head, type=_Head)
        if told.sha256 != sha256 or hashlib.sha256(lines).hexdigest() != told.rows_sha256:
            raise ValueError("its checksum is another")
        rows: list[TraceRow] = msgspec.json.Decoder(TraceRow).decode_lines(lines)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged: {error}",
            "the requests of a traffic file as the kit wrote them",
            "restore it from a copy",
        ) from error
    return tuple(rows)
