"""Bytes and Arrow rows in, files that a kill can only cut short out; and what is whole in them.

A file is replaced whole or appended to, batch by batch, so that whoever reads it while it is
written, or after its writer was killed, sees all but the last piece.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pyarrow as pa

from kit.errors import StoreError

#: Continuation mark and a message of length 0: how an Arrow IPC stream ends.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a reader sees the old or the new file, never half."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error}",
        "a writable folder",
        "choose another folder or free space",
    )


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
        self._size = 0  # up to the last whole piece
        # Messages are serialized whole: pyarrow's own stream writer would make a system call of
        # every buffer, some forty a batch.
        self._write(schema.serialize())

    def append(self, columns: dict[str, list[object]]) -> None:
        """Append rows given as columns; every column of the schema, equally long."""
        batch = pa.record_batch(
            [pa.array(columns[f.name], f.type) for f in self._schema], schema=self._schema
        )
        self.append_batch(batch)

    def append_batch(self, batch: pa.RecordBatch) -> None:
        """Append a batch of the file's schema that the caller has built."""
        if batch.num_rows:
            self._write(batch.serialize())

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
            raise _unwritable(self._path, error) from error
        self._size = self._file.tell()

    def close(self) -> None:
        """Write the end-of-stream mark and close the file."""
        if not self._file.closed:
            try:
                self._write(_END_OF_STREAM)
            finally:
                self._file.close()

    def __enter__(self) -> ArrowAppender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


#: A record batch or a table.
Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)
#: Columns that older files do not have, and what their rows are.
_ADDED = {"clock": "client"}


def read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    """All whole batches of an Arrow IPC stream file; a missing file or a torn tail is no error.

    Raises:
        StoreError: the file holds rows of another schema.
    """
    batches: list[pa.RecordBatch] = []
    if path.exists():
        batches.extend(with_added_columns(batch, schema) for batch in _whole_batches(path))
    for batch in batches:
        if not batch.schema.equals(schema):
            raise StoreError(
                f"{path} holds columns {', '.join(batch.schema.names)}",
                f"columns {', '.join(schema.names)}",
                "read it with the version of the kit that wrote it",
            )
    return pa.Table.from_batches(batches, schema=schema)


def with_added_columns(rows: Rows, schema: pa.Schema) -> Rows:
    """The rows with the columns that the schema has had only since they were written."""
    names = rows.schema.names
    missing = [name for name in schema.names if name not in names]
    if not missing or not set(missing) <= _ADDED.keys() or not set(names) <= set(schema.names):
        return rows
    for name in missing:
        kind = schema.field(name).type
        rows = rows.append_column(name, pa.repeat(pa.scalar(_ADDED[name], kind), rows.num_rows))
    return rows.select(schema.names)


def _whole_batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            yield from reader
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError, EOFError):
        return  # torn, or not yet begun: what came before stands
