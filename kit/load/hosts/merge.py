"""Puts the records of a trial's load hosts together: the same rows, times by the caller's clock.

What a host sent lies in the trial's folder as it came, in files of the same names as a local
worker's, but one folder below and by the host's own clock. Each is read, its times are converted
and it is written beside the trial's other records; then the folder is removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kit.load.hosts.clocks import ClockLine
from kit.study.arrow_file import ArrowAppender, read_rows
from kit.study.folder import SCHEMAS

#: In a trial's folder: what hosts have sent, until it is merged.
ARRIVED: Final = "hosts"
#: Columns that are times of CLOCK_MONOTONIC.
_TIMES: Final = ("t_ns", "scheduled_ns", "sent_ns", "first_ns", "end_ns")
_LISTS: Final = ("token_ns",)


def merge_records(folder: Path, worker: int, line: ClockLine | None, label: str) -> pa.Table:
    """Write a worker's records into the trial's folder; its requests. None: no clock is known.

    The schema's metadata says which host they are of, and what is known of its clock; without
    that, times are the host's own and would be taken for ours, so nothing is kept of them.

    Raises:
        StoreError: what came is no such file, or the disk is full.
    """
    kept = SCHEMAS["requests"].empty_table()
    for name in ("requests", "client"):
        file = f"{name}-{worker}.arrows"
        arrived = folder / ARRIVED / file
        rows = read_rows(arrived, SCHEMAS[name]).table
        if line is None or not arrived.exists():
            continue
        rows = by_caller(rows, line)
        about = {
            "load_host": label,
            "clock_offset_ns": str(line.before.offset_ns),
            "clock_drift_ppm": f"{line.drift_ppm:.3f}",
            "clock_error_ns": str(line.error_ns),
        }
        with ArrowAppender(folder / file, SCHEMAS[name].with_metadata(about)) as appender:
            for batch in rows.to_batches():
                appender.append_batch(batch)
        if name == "requests":
            kept = rows
    return kept


def by_caller(rows: pa.Table, line: ClockLine) -> pa.Table:
    """The rows with all times by the caller's clock; what is null stays so."""
    for at, field in enumerate(rows.schema):
        if field.name in _TIMES:
            column = rows.column(at).combine_chunks()
            rows = rows.set_column(at, field, _converted(column, line))
        elif field.name in _LISTS:
            column = rows.column(at).combine_chunks()
            lists = column if isinstance(column, pa.Array) else column.chunk(0)
            moved = pa.ListArray.from_arrays(
                _offsets(lists), _converted(lists.flatten(), line), mask=lists.is_null()
            )
            rows = rows.set_column(at, field, moved.cast(field.type))
    return rows


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Where each list begins among the values of those that are there."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _converted(times: pa.Array | pa.ChunkedArray, line: ClockLine) -> pa.Array:
    values = times if isinstance(times, pa.Array) else pa.concat_arrays(times.chunks)
    missing = np.asarray(values.is_null())
    numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return pa.array(line.all_to_caller(numbers), pa.int64(), mask=missing)


def numbers_apart(numbers: Iterable[int], most: int = 5) -> str:
    """Numbers as text, those in a row as one: "17, 20-23"; beyond `most` pieces "and more".

    >>> numbers_apart([17, 20, 21, 22, 23])
    '17, 20-23'
    """
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in pieces[:most]]
    return ", ".join(texts) + (" and more" if len(pieces) > most else "")


def twice(numbers: np.ndarray) -> list[int]:
    """Requests that are on record more than once, which must not be."""
    values, counts = np.unique(numbers, return_counts=True)
    return [int(number) for number in values[counts > 1]]


def unsent(sent: np.ndarray, end: int, owner: np.ndarray, worker: int) -> np.ndarray:
    """Of the requests below `end`, those of this worker that are not among those sent.

    sent: numbers on record, of any worker. owner: the worker of each request below `end`.
    """
    is_missing = np.ones(end, bool)
    is_missing[sent[sent < end]] = False
    return np.flatnonzero(is_missing & (owner == worker))
