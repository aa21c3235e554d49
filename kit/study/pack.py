"""Packs the records of finished trials into Parquet (kit.study.packed), trial by trial.

A trial is packed in steps, each of which is on the disk before the next one begins: the parts are
written; every part is read back and compared with the Arrow files, row by row; `packed.json` is
written; the Arrow files are removed, if that was asked for. Killed in between, a trial is as it
was, or packed; packing again goes on from there. It takes the memory of a few parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import StoreError
from kit.study.arrow_file import stream_rows, sums_of
from kit.study.encoding import to_json
from kit.study.files import sync_folder, unwritable, write_whole
from kit.study.folder import SCHEMAS, StudyFolder, TrialFolder
from kit.study.packed import (
    LISTING,
    PART_BYTES,
    PART_ROWS,
    Packed,
    PackedPart,
    part_bytes,
    read_listing,
    read_part,
    to_part,
)
from kit.study.recorded import is_recorded
from kit.study.records import arrow_files, is_packed


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTrial:
    """What became of one trial."""

    trial_id: str
    requests: int = 0
    arrow_bytes: int = 0  # of the Arrow files that were there
    packed_bytes: int = 0
    removed: bool = False  # the Arrow files
    left: str = ""  # why it was left as it is; "": it is packed


def pack_study(
    study: StudyFolder,
    *,
    remove: bool = False,
    progress: Callable[[PackedTrial], None] = lambda trial: None,
) -> list[PackedTrial]:
    """Pack every trial that has its result, and say of each what became of it.

    remove: remove a trial's Arrow files once its packed copy was read back and compared with them.
    progress: called after each trial.

    A trial without a result, or with a damaged file, is left as it is.

    Raises:
        StoreError: a recorded study; trials are run into the folder now; the disk is full.
    """
    if is_recorded(study):
        raise StoreError(
            f"{study.path} is a recorded study", "a study folder", "it is Parquet already"
        )
    done = []
    try:
        with study.locked():
            for trial in study.trials():
                done.append(pack_trial(trial, remove=remove))
                progress(done[-1])
    except OSError as error:
        raise unwritable(study.path, error) from error
    return done


def pack_trial(trial: TrialFolder, *, remove: bool = False) -> PackedTrial:
    """Pack one trial; as pack_study, for one.

    Raises:
        StoreError: the disk does not take it.
    """
    name, folder = trial.path.name, trial.path
    if trial.result is None:
        return PackedTrial(trial_id=name, left="it has no result")
    if folder.is_symlink() or folder.parent.is_symlink():
        return PackedTrial(trial_id=name, left="its folder is a link")
    arrow_bytes = sum(_sizes(folder).values())
    try:
        listing = _sound(folder)
        if listing is None:
            listing = _write(folder)
        elif remove and not _may_remove(folder, listing):
            raise _NotPackableError(_DIFFERS)
    except _NotPackableError as error:
        return PackedTrial(trial_id=name, arrow_bytes=arrow_bytes, left=str(error))
    removed = remove and _remove(folder)
    return PackedTrial(
        trial_id=name,
        requests=listing.rows("requests"),
        arrow_bytes=arrow_bytes,
        packed_bytes=listing.size_bytes,
        removed=removed,
    )


class _NotPackableError(Exception):
    """Why a trial stays as it is."""


_DIFFERS = "the packed copy differs from the Arrow files, which were kept"


def _sound(folder: Path) -> Packed | None:
    """What is packed already; None: nothing, or not all that is listed is there.

    Raises:
        _NotPackableError: it is damaged, and there are no Arrow files to pack it from again.
    """
    if not is_packed(folder):
        return None
    try:
        listing = read_listing(folder, within=folder)
        for parts in listing.tables.values():
            for part in parts:
                part_bytes(folder, part, within=folder)
    except StoreError as error:
        if not arrow_files(folder, "requests"):
            raise _NotPackableError(error.given) from error
        (folder / LISTING).unlink()  # from here on the Arrow files are read again
        sync_folder(folder)
        return None
    return listing


def _write(folder: Path) -> Packed:
    """Write the parts, read each back and compare it with what was read, then list them."""
    tables: dict[str, tuple[PackedPart, ...]] = {}
    for table in SCHEMAS:
        parts: list[PackedPart] = []
        for rows in _source(folder, table):
            try:
                part, data = to_part(rows, f"{table}-{len(parts)}.parquet")
            except (pa.ArrowException, ValueError, OverflowError) as error:
                raise _NotPackableError(f"its {table} cannot be packed: {error}") from error
            write_whole(folder / part.file, data)
            if not _holds(folder, part, rows):
                raise _NotPackableError(_DIFFERS)
            parts.append(part)
        tables[table] = tuple(parts)
    listing = Packed(tables=tables, sources=_sizes(folder))
    write_whole(folder / LISTING, to_json(listing))
    return listing


def _source(folder: Path, table: str) -> Iterator[pa.Table]:
    """The rows of the Arrow files in parts, those of requests sorted by number.

    Raises:
        _NotPackableError: a file is damaged.
    """
    held: list[pa.Table] = []
    count = size = 0

    def part() -> pa.Table:
        whole = pa.concat_tables(held).combine_chunks()
        held.clear()
        if table != "requests":
            return whole
        return whole.take(pc.sort_indices(whole, [("request", "ascending")]))

    try:
        for path in arrow_files(folder, table):
            for batch in stream_rows(path, SCHEMAS[table], within=folder):
                rest = batch
                while rest.num_rows:
                    held.append(rest.slice(0, PART_ROWS - count))
                    count, size = count + held[-1].num_rows, size + held[-1].nbytes
                    rest = rest.slice(held[-1].num_rows)
                    if count >= PART_ROWS or size >= PART_BYTES:
                        yield part()
                        count = size = 0
    except StoreError as error:
        raise _NotPackableError(error.given) from error
    if held:
        yield part()


def _is_copy(folder: Path, listing: Packed) -> bool:
    """Whether the parts, read back, hold what the Arrow files hold."""
    return all(
        part is not None and rows is not None and _holds(folder, part, rows)
        for table in SCHEMAS
        for part, rows in zip_longest(listing.tables.get(table, ()), _source(folder, table))
    )


def _holds(folder: Path, part: PackedPart, rows: pa.Table) -> bool:
    """Whether the part, read back from the disk, has these rows."""
    try:
        return _is_same(read_part(folder, part, rows.schema, within=folder), rows)
    except StoreError:
        return False


def _may_remove(folder: Path, listing: Packed) -> bool:
    """Whether the Arrow files that are still there are those that were packed and compared.

    Of a removal that was cut short some are gone: of the rest the sizes must be those listed.
    """
    there = _sizes(folder)
    if there.keys() == listing.sources.keys():
        return _is_copy(folder, listing)
    return there.items() <= listing.sources.items()


def _is_same(a: pa.Table, b: pa.Table) -> bool:
    """Equal values; a NaN is equal to a NaN."""
    if a.equals(b):
        return True
    for field in a.schema:
        one, other = a[field.name], b[field.name]
        if pa.types.is_floating(field.type):
            if not pc.is_nan(one).equals(pc.is_nan(other)):
                return False
            one, other = (pc.if_else(pc.is_nan(c), 0.0, c) for c in (one, other))
        if not one.equals(other):
            return False
    return bool(a.num_rows == b.num_rows)


def _arrow_paths(folder: Path) -> list[Path]:
    """The Arrow files of all tables, and their checksums."""
    files = [path for table in SCHEMAS for path in arrow_files(folder, table)]
    return [p for path in files for p in (path, sums_of(path)) if os.path.lexists(p)]


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_size for path in _arrow_paths(folder)}


def _remove(folder: Path) -> bool:
    paths = _arrow_paths(folder)
    for path in paths:
        path.unlink()
    sync_folder(folder)
    return bool(paths)
