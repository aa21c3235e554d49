"""Arrow IPC stream files that are appended to, with a checksum of every batch beside them.

`x.arrows` is a plain Arrow IPC stream. `x.arrows.sums` has a line for each piece of it (the schema,
then each batch): offset and size in bytes, rows, CRC-32 of the piece, CRC-32 of the line before
that last word. A piece without a line (older files, or a writer killed in between) is read if its
structure is sound.

Nothing that a file holds can end the reader's process: sizes are checked before Arrow sees them,
Arrow verifies the metadata of a message, and every batch is validated in full before it is used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from zlib import crc32

import pyarrow as pa

from kit.errors import StoreError
from kit.study.files import open_regular, read_file, unwritable

#: Continuation mark and a message of length 0: how an Arrow IPC stream ends.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_MARK = b"\xff\xff\xff\xff"
#: A file of so many requests would not fit into a notebook's memory.
MOST_BYTES = 4 * 2**30
#: Columns that older files do not have, the first that came first, and what they held for all of
#: their rows.
ADDED: tuple[dict[str, str | None], ...] = (
    {"clock": "client"},
    {"tokens_by": None, "tokens_in": None, "tokens_out": None},
)
#: Places at which a next batch is looked for after a damaged one.
_MOST_TRIES = 2000


#: Added to an Arrow file's name: where its checksums are.
SUMS = ".sums"


def sums_of(path: Path) -> Path:
    """Where the checksums of an Arrow file are."""
    return path.with_name(f"{path.name}{SUMS}")


class ArrowAppender:
    """Appends tables of one schema to an Arrow IPC stream file; each batch is one write.

    A killed writer tears at most its last batch; `read_rows` drops the torn tail. A batch that
    the disk does not take is a StoreError, and the file ends with the batch before it, so that
    later ones can be read. Use it as a context manager.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._sums = sums_of(path).open("wb", buffering=0)
        self._size = 0  # up to the last whole piece
        self._sums_size = 0
        # Messages are serialized whole: pyarrow's own stream writer would make a system call of
        # every buffer, some forty a batch.
        self._append(schema.serialize(), rows=0)

    def append(self, columns: dict[str, list[object]]) -> None:
        """Append rows given as columns; every column of the schema, equally long."""
        batch = pa.record_batch(
            [pa.array(columns[f.name], f.type) for f in self._schema], schema=self._schema
        )
        self.append_batch(batch)

    def append_batch(self, batch: pa.RecordBatch) -> None:
        """Append a batch of the file's schema that the caller has built."""
        if batch.num_rows:
            self._append(batch.serialize(), rows=batch.num_rows)

    def _append(self, piece: pa.Buffer, *, rows: int) -> None:
        offset = self._size
        self._write(piece)
        line = _line(_Sum(offset=offset, size=piece.size, rows=rows, crc=crc32(piece)))
        try:
            self._sums_size += self._sums.write(line)
        except OSError:  # the rows are safe all the same
            with contextlib.suppress(OSError):
                self._sums.truncate(self._sums_size)
                self._sums.seek(self._sums_size)

    def _write(self, piece: bytes | pa.Buffer) -> None:
        """Append all of it or, if the disk is full, nothing."""
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise unwritable(self._path, error) from error
        self._size = self._file.tell()

    def close(self) -> None:
        """Write the end-of-stream mark and close the file."""
        if not self._file.closed:
            try:
                self._write(_END_OF_STREAM)
            finally:
                self._file.close()
                self._sums.close()

    def __enter__(self) -> ArrowAppender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Rows of a file that cannot be read."""

    path: Path
    rows: int | None  # None: how many is not known
    reason: str

    def __str__(self) -> str:
        count = "an unknown number of" if self.rows is None else f"{self.rows:,}"
        return f"{count} row{'' if self.rows == 1 else 's'} of {self.path} lost: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What could be read of a file, and what could not."""

    table: pa.Table
    losses: tuple[Loss, ...] = ()


def read_rows(path: Path, schema: pa.Schema, *, within: Path | None = None) -> Rows:
    """All sound batches of an Arrow IPC stream file; a file that never was, or a torn tail, is no
    loss.

    within: the folder that the file must not lead out of, through a link.

    Raises:
        StoreError: the file holds rows of another schema, is no regular file of a sane size, or
            is gone though its checksums are there.
    """
    if not os.path.lexists(path):
        if os.path.lexists(sums_of(path)):
            raise StoreError(
                f"{path} is missing, though its checksums are there",
                "the file that the kit wrote",
                "copy the whole folder",
            )
        return Rows(table=schema.empty_table())
    # The checksums first: a writer that goes on meanwhile adds pieces that have no line yet, and
    # never a line whose piece looks lost.
    sums = _read_sums(path, within)
    data = read_file(path, within=within, limit=MOST_BYTES)
    losses: list[Loss] = []
    written = _written(data, schema)
    batches = list(_batches(data, written, path, sums, losses))
    table = pa.Table.from_batches(batches, schema=written)
    return Rows(table=with_added_columns(table, schema), losses=tuple(losses))


def stream_rows(path: Path, schema: pa.Schema, *, within: Path | None = None) -> Iterator[pa.Table]:
    """The batches of a sound file one after the other, without holding the file in memory.

    A file without checksums is read whole.

    Raises:
        StoreError: as `read_rows`, and for any damage, which is named.
    """
    sums = _read_sums(path, within)
    if not sums:
        whole = read_rows(path, schema, within=within)
        _refuse(whole.losses)
        yield whole.table
        return
    written, losses = schema, list[Loss]()
    with open_regular(path, within=within) as file:
        for known in sorted(sums.values(), key=lambda known: known.offset):
            if known.offset != file.tell():
                _refuse([Loss(path=path, rows=None, reason="a checksum is missing")])
            piece = file.read(known.size)
            if known.offset == 0:
                written = _written(piece, schema)
            for batch in _batches(piece, written, path, {0: replace(known, offset=0)}, losses):
                yield with_added_columns(pa.Table.from_batches([batch], written), schema)
            _refuse(losses)
        rest = file.read()  # what a killed writer had no time to list, and the end mark
    for batch in _batches(rest, written, path, {}, losses):
        yield with_added_columns(pa.Table.from_batches([batch], written), schema)
    _refuse(losses)


def _refuse(losses: Sequence[Loss]) -> None:
    if losses:
        raise StoreError(
            "; ".join(map(str, losses)), "a sound file", "restore it from a copy of the folder"
        )


def listed_rows(path: Path, *, within: Path | None = None) -> int | None:
    """Rows of the file by its checksums, without reading it; None: it has none."""
    sums = _read_sums(path, within)
    return sum(known.rows for known in sums.values()) if sums else None


def with_added_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns that the schema got after it was written (ADDED)."""
    held = {name: value for columns in ADDED for name, value in columns.items()}
    missing = [name for name in schema.names if name not in table.schema.names]
    if not missing or not set(missing) <= held.keys():
        return table
    for name in missing:
        value = pa.scalar(held[name], schema.field(name).type)
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table.select(schema.names)


def _older(schema: pa.Schema) -> list[pa.Schema]:
    """The schema as it was before each of ADDED, the newest first."""
    found = []
    for since in reversed(range(len(ADDED))):
        later = {name for columns in ADDED[since:] for name in columns}
        found.append(pa.schema([field for field in schema if field.name not in later]))
    return found


def _written(data: bytes, schema: pa.Schema) -> pa.Schema:
    """The schema that a file begins with, if it is an older one of `schema`; else `schema`."""
    message, _ = _message(pa.py_buffer(data), 0)
    try:
        if message is not None and message.type == "schema":
            begins = pa.ipc.read_schema(message)
            return next((old for old in _older(schema) if begins.equals(old)), schema)
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        pass  # damaged: whoever reads the batches says so
    return schema


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    offset: int
    size: int
    rows: int
    crc: int


def _line(of: _Sum) -> bytes:
    text = b"%d %d %d %08x" % (of.offset, of.size, of.rows, of.crc)
    return b"%s %08x\n" % (text, crc32(text))


def _read_sums(path: Path, within: Path | None) -> dict[int, _Sum]:
    """The lines that are whole, by offset."""
    try:
        lines = read_file(sums_of(path), within=within, limit=2**28).split(b"\n")
    except StoreError:
        return {}
    found = {}
    for line in lines:
        text, _, own = line.rpartition(b" ")
        try:
            if crc32(text) == int(own, 16):
                offset, size, rows = map(int, text.split()[:3])
                if offset >= 0 and size > 0 and rows >= 0:
                    crc = int(text.split()[3], 16)
                    found[offset] = _Sum(offset=offset, size=size, rows=rows, crc=crc)
        except (ValueError, IndexError):
            continue
    return found


def _batches(
    data: bytes, schema: pa.Schema, path: Path, sums: dict[int, _Sum], losses: list[Loss]
) -> Iterator[pa.RecordBatch]:
    """The sound batches; what is not sound is added to `losses`."""
    whole, at = pa.py_buffer(data), 0

    def lost(rows: int | None, reason: str) -> None:
        losses.append(Loss(path=path, rows=rows, reason=reason))

    while at < len(data):
        if data[at : at + 8] == _END_OF_STREAM and at not in sums:
            break
        known = sums.pop(at, None)
        if known is not None:
            piece = data[at : at + known.size]
            if len(piece) < known.size:
                lost(known.rows, "the file is cut short")
                break
            if crc32(piece) != known.crc:
                if known.rows:  # else it was the schema, which we know
                    lost(known.rows, "the checksum of a batch differs")
                at += known.size
                continue
        message, size = _message(whole, at)
        batch = _decoded(message, schema, path) if message is not None else None
        if isinstance(batch, pa.RecordBatch):
            yield batch
        elif batch is None:
            later = _next_batch(data, at + 8, schema, path, sums)
            if known is not None:
                lost(known.rows, "a batch is damaged")
            elif later is not None or data.endswith(_END_OF_STREAM) or message is not None:
                lost(None, "a batch is damaged")
            # Else the writer was killed within its last batch.
            if later is None:
                break
            at = later
            continue
        at += size
    missing = sum(left.rows for left in sums.values() if left.offset >= at)
    if missing:
        lost(missing, "the file is cut short")


def _message(data: pa.Buffer, at: int) -> tuple[pa.Message | None, int]:
    """The Arrow message at that place and its length in bytes; None: there is no whole one."""
    if data.size - at < 8 or data[at : at + 4].to_pybytes() != _MARK:
        return None, 0
    head = int.from_bytes(data[at + 4 : at + 8].to_pybytes(), "little", signed=True)
    if not 0 < head <= data.size - at - 8:
        return None, 0
    try:
        message = pa.ipc.read_message(data[at:])
        body = message.body.size if message.body is not None else 0
    except (pa.ArrowException, OSError, ValueError, MemoryError, EOFError):
        return None, 0
    return message, 8 + head + body


def _decoded(message: pa.Message, schema: pa.Schema, path: Path) -> pa.RecordBatch | bool | None:
    """The batch; True: the schema, which is as it should be; None: damaged.

    Raises:
        StoreError: a sound schema, but another one.
    """
    try:
        if message.type == "schema":
            found = pa.ipc.read_schema(message)
            if not found.equals(schema):
                raise StoreError(
                    f"{path} holds columns {', '.join(found.names)}",
                    f"columns {', '.join(schema.names)}",
                    "read it with the version of the kit that wrote it",
                )
            return True
        if message.type != "record batch":
            return None
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError):
        return None
    return batch


def _next_batch(
    data: bytes, begin: int, schema: pa.Schema, path: Path, sums: dict[int, _Sum]
) -> int | None:
    """Where the next batch begins: as the checksums say, else where a sound one can be read."""
    listed = [offset for offset in sums if offset >= begin]
    if listed:
        return min(listed)
    at = begin - 1
    for _ in range(_MOST_TRIES):
        at = data.find(_MARK, at + 1)
        if at < 0:
            return None
        message, _ = _message(pa.py_buffer(data), at) if at % 8 == 0 else (None, 0)
        if (
            message is not None
            and message.type == "record batch"
            and _decoded(message, schema, path) is not None
        ):
            return at
    return None
