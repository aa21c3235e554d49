"""Reads the records of one trial: the Arrow files as they were written, or their packed copy.

Where `packed.json` lists a packed copy (kit.study.packed), it is read, and Arrow files that are
still there are not. Damage costs the rows it is in: the rest is read, and what is missing is said.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import SpecError, StoreError
from kit.study.arrow_file import SUMS, Loss, listed_rows, read_rows
from kit.study.encoding import from_json
from kit.study.files import read_file
from kit.study.packed import LISTING, Packed, read_listing, read_part
from kit.study.result import Outcome

T = TypeVar("T")

#: What every row has, in whichever table the column is. One without it, in a stranger's file, is
#: no row.
NEVER_NULL = ("request", "outcome", "t_ns", "source", "name", "value")


def arrow_files(folder: Path, table: str) -> list[Path]:
    """The Arrow files of a table ("requests"), also those of which only the checksums are left."""
    pattern = f"{table}-*.arrows"
    sums = {path.with_suffix("") for path in folder.glob(f"{pattern}{SUMS}")}
    return sorted({*folder.glob(pattern), *sums})


def is_packed(folder: Path) -> bool:
    return os.path.lexists(folder / LISTING)


def read_records(
    folder: Path, table: str, schema: pa.Schema, *, within: Path
) -> tuple[pa.Table, list[str]]:
    """All rows of a table of one trial, and what is missing of them, a phrase a file."""
    damage: list[str] = []
    parts = list(stream_records(folder, table, schema, damage, within=within))
    return pa.concat_tables([schema.empty_table(), *parts]), damage


def stream_records(
    folder: Path,
    table: str,
    schema: pa.Schema,
    damage: list[str],
    *,
    within: Path,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """The rows of a table, a part of a packed trial at a time, or an Arrow file at a time.

    damage: what is missing is added to it. columns: only these.
    """
    listing = _listing(folder, damage, within)
    if listing is not None:
        for part in listing.tables.get(table, ()):
            try:
                found = read_part(folder, part, schema, within=within, columns=columns)
            except StoreError as error:
                damage.append(f"{part.rows:,} rows lost: {error.given}")
            else:
                yield complete_rows(found, folder / part.file, damage)
        return
    for path in arrow_files(folder, table):
        try:
            rows = read_rows(path, schema, within=within)
        except StoreError as error:
            damage.append(error.given)
        else:
            damage += map(str, rows.losses)
            found = complete_rows(rows.table, path, damage)
            yield found if columns is None else found.select(list(columns))


def complete_rows(table: pa.Table, path: Path, damage: list[str]) -> pa.Table:
    """The rows that have what every row has. damage: what is lost is added to it."""
    for name in NEVER_NULL:
        if name in table.column_names:
            sound = _sound(name, table[name])
            if lacking := table.num_rows - (pc.sum(sound).as_py() or 0):
                loss = Loss(path=path, rows=lacking, reason=f"they have no sound {name}")
                damage.append(str(loss))
                table = table.filter(sound)
    return table


def _sound(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of each row, whether it has a value that can be: a number, an outcome that is known."""
    if name == "value":
        return pc.fill_null(pc.is_finite(column), fill_value=False)
    if name == "outcome":
        return pc.is_in(column, pa.array([outcome.value for outcome in Outcome]))
    return column.is_valid()


def count_records(folder: Path, table: str, *, within: Path) -> int:
    """Rows of a table as its checksums have it, without reading them; without checksums, 0."""
    listing = _listing(folder, [], within)
    if listing is not None:
        return listing.rows(table)
    return sum(listed_rows(path, within=within) or 0 for path in arrow_files(folder, table))


def _listing(folder: Path, damage: list[str], within: Path) -> Packed | None:
    """What is packed; None: nothing, or it cannot be told."""
    if not is_packed(folder):
        return None
    try:
        return read_listing(folder, within=within)
    except StoreError as error:
        damage.append(f"the packed copy is lost: {error.given}")
        return None


def records_state(folder: Path, table: str) -> Hashable:
    """Different after any of the table's files has changed."""
    files = [folder / LISTING, *arrow_files(folder, table), *folder.glob(f"{table}-*.parquet")]
    return tuple((file, file_state(file)) for file in files)


def file_state(path: Path) -> Hashable:
    """Different after a file was replaced or appended to; None: there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_noun(path: Path, noun: type[T], within: Path) -> T:
    """The noun in a JSON file.

    Raises:
        StoreError: it cannot be read, or is not one; it names the file.
    """
    try:
        return from_json(read_file(path, within=within), noun)
    except SpecError as error:
        raise StoreError(
            f"{path} is damaged: {error.given}",
            error.expected,
            "restore it from a copy; a trial can be run again",
        ) from error
