"""Packed records of a trial: Parquet parts, and `packed.json`, which lists them.

`requests-<n>.parquet`, `client-<n>.parquet` and `samples-<n>.parquet` hold the rows of the Arrow
files of a trial (kit.study.folder), at most PART_ROWS each, so that one part at a time is enough
to read a trial of any size. They are zstd-compressed, with statistics and page checksums; times
are delta-encoded. Requests are sorted by number within a part; other rows keep their order.

`packed.json` (Packed) has the rows, size and CRC-32 of each part. It is written last: without it
the parts are no data, and with it the Arrow files are not read.

Columns are those of the Arrow files, but that `token_ns` is kept as `token_gap_ns`: the first token
event minus first_ns (else sent_ns, else scheduled_ns, else 0), then the gaps between token events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kit.errors import SpecError, StoreError
from kit.study.arrow_file import with_added_columns
from kit.study.encoding import from_json
from kit.study.files import read_file

#: The list of a trial's parts.
LISTING = "packed.json"
#: Rows of a part, and bytes of them in memory, at the most.
PART_ROWS = 2**19
PART_BYTES = 96 * 2**20
#: Rows that DuckDB reads at a time, and that its statistics are of.
GROUP_ROWS = 2**17
#: What is read of a part, packed and unpacked, at the most: its writer stays far below.
MOST_PART_BYTES = 2**28
MOST_UNPACKED_BYTES = 2**31

TOKENS, GAPS = "token_ns", "token_gap_ns"
#: What a token gap is taken from, the first that is there.
BASE = ("first_ns", "sent_ns", "scheduled_ns")
#: Columns that rise, or nearly: delta-encoded. All others are dictionary-encoded where that helps.
_RISING = frozenset(
    {"request", "conversation", "t_ns", "scheduled_ns", "sent_ns", "first_ns", "end_ns"}
    | {"rss_bytes", "sent", "ended", "ok"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPart:
    """One Parquet file of packed records."""

    file: str  # its name; it lies beside packed.json
    rows: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The parts of each table of a trial: "requests", "client", "samples"."""

    tables: dict[str, tuple[PackedPart, ...]] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)  # the Arrow files: bytes, by name
    schema: int = 1

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for parts in self.tables.values() for part in parts)

    def rows(self, table: str) -> int:
        return sum(part.rows for part in self.tables.get(table, ()))


def read_listing(folder: Path, *, within: Path | None = None) -> Packed:
    """What a trial's packed.json lists.

    Raises:
        StoreError: it cannot be read, or lists what cannot be.
    """
    path = folder / LISTING
    try:
        found = from_json(read_file(path, within=within), Packed)
    except SpecError as error:
        raise _damaged(path, error.given) from error
    for part in (part for parts in found.tables.values() for part in parts):
        name = part.file
        if Path(name).name != name or not name.endswith(".parquet") or "\0" in name:
            raise _damaged(path, f"a part named {name!r}")
        if not (0 <= part.rows <= PART_ROWS and 0 < part.size_bytes <= MOST_PART_BYTES):
            raise _damaged(path, f"{part.rows} rows in {part.size_bytes} bytes")
    return found


def read_part(
    folder: Path,
    part: PackedPart,
    schema: pa.Schema,
    *,
    within: Path | None = None,
    columns: Iterable[str] | None = None,
) -> pa.Table:
    """The rows of one part as their Arrow file had them; columns: only these of `schema`.

    Raises:
        StoreError: the part is not the one that was listed, or holds other columns.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    has_tokens = TOKENS in wanted.names
    data = part_bytes(folder, part, within=within)
    needed = packed_schema(wanted)
    if has_tokens:  # their times are kept relative to these
        extra = [schema.field(name) for name in BASE if name not in needed.names]
        needed = pa.schema([*needed, *extra])
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        about = file.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if about.num_rows != part.rows or unpacked > MOST_UNPACKED_BYTES:
            raise ValueError(f"{about.num_rows} rows of {unpacked} bytes")
        there = set(file.schema_arrow.names)
        table = file.read(columns=[name for name in needed.names if name in there])
        table = with_added_columns(table, needed).select(needed.names).cast(needed)
        table.validate(full=True)
        if has_tokens:
            table = _with_tokens(table)
        return table.select(wanted.names).cast(wanted)
    except (pa.ArrowException, ValueError, KeyError, OSError, MemoryError, OverflowError) as error:
        raise _damaged(folder / part.file, str(error)) from error


def part_bytes(folder: Path, part: PackedPart, *, within: Path | None = None) -> bytes:
    """A part's file, which has the size and checksum that are listed.

    Raises:
        StoreError: it has others, or cannot be read.
    """
    path = folder / part.file
    data = read_file(path, within=within, limit=MOST_PART_BYTES)
    if len(data) != part.size_bytes or crc32(data) != part.crc32:
        raise _damaged(path, f"its checksum is not that of {LISTING}")
    return data


def packed_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a table's parts."""
    return pa.schema(
        [pa.field(GAPS, f.type) if f.name == TOKENS else f for f in schema], metadata=None
    )


def to_part(table: pa.Table, file: str) -> tuple[PackedPart, bytes]:
    """Rows of an Arrow file as a part of this name, and what is to be written into it."""
    packed = with_gaps(table) if TOKENS in table.column_names else table
    delta = {name: "DELTA_BINARY_PACKED" for name in packed.column_names if name in _RISING}
    if GAPS in packed.column_names:
        delta[f"{GAPS}.list.element"] = "DELTA_BINARY_PACKED"
    buffer = BytesIO()
    pq.write_table(
        packed,
        buffer,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        use_dictionary=[name for name in packed.column_names if name not in {*_RISING, GAPS}],
        column_encoding=delta,
        write_page_checksum=True,
        store_schema=False,
        version="2.6",
    )
    data = buffer.getvalue()
    return PackedPart(file=file, rows=table.num_rows, size_bytes=len(data), crc32=crc32(data)), data


def with_gaps(table: pa.Table) -> pa.Table:
    """`token_gap_ns` in the place of `token_ns`.

    Raises:
        ValueError: a token event without a time.
    """
    tokens = table[TOKENS].combine_chunks()
    times = tokens.flatten()
    if times.null_count:
        raise ValueError("a token event without a time")
    values, lengths = times.to_numpy(), _lengths(tokens)
    gaps = np.diff(values, prepend=0)
    starts = (np.cumsum(lengths) - lengths)[lengths > 0]
    gaps[starts] = values[starts] - _base(table)[lengths > 0]
    return _replaced(table, TOKENS, GAPS, tokens, gaps, lengths)


def _with_tokens(table: pa.Table) -> pa.Table:
    """`token_ns` in the place of `token_gap_ns`."""
    kept = table[GAPS].combine_chunks()
    flat = kept.flatten()
    if flat.null_count:
        raise ValueError("a token gap without a length")
    gaps, lengths = flat.to_numpy(), _lengths(kept)
    filled = lengths > 0
    starts = (np.cumsum(lengths) - lengths)[filled]
    with np.errstate(over="ignore"):
        summed = np.cumsum(gaps)
        zero = _base(table)[filled] + gaps[starts] - summed[starts]
        times = summed + np.repeat(zero, lengths[filled])
    return _replaced(table, GAPS, TOKENS, kept, times, lengths)


def _lengths(lists: pa.ListArray) -> np.ndarray:
    """Token events of each request; of one without a list, none."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))


def _base(table: pa.Table) -> np.ndarray:
    found = pc.coalesce(*(table[name] for name in BASE), pa.scalar(0, pa.int64()))
    return np.asarray(found.to_numpy())


def _replaced(
    table: pa.Table,
    old: str,
    new: str,
    lists: pa.ListArray,
    values: np.ndarray,
    lengths: np.ndarray,
) -> pa.Table:
    """The table with lists of other values, equally long, under another name."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    made = pa.ListArray.from_arrays(offsets, pa.array(values, pa.int64()), mask=lists.is_null())
    return table.set_column(table.column_names.index(old), new, made)


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {reason}",
        "a file that `kit pack` wrote",
        "restore it from a copy of the folder",
    )
