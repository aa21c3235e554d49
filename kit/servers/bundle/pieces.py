"""Cuts a bundle's files into pieces of a size, and puts them together again.

The pieces are cut from all files laid one behind another. A file that is whole is not written
again, nor is a piece. Uses the standard library alone (see kit.servers.bundle.manifest).
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Final

from kit.errors import BundleError
from kit.servers.bundle.content import (
    CHUNK_BYTES,
    folder_below,
    is_whole,
    refuse_unlisted,
    sha256_of,
    written_whole,
)
from kit.servers.bundle.manifest import BundledFile, BundlePiece, Manifest, path_parts, piece_name
from kit.servers.bundle.progress import ByteProgress, Say, check_space, size
from kit.study.files import open_regular

FILES: Final = "files"
PIECES: Final = "pieces"
#: So many names of a kind are given in an error; the rest is counted.
_MOST_NAMED: Final = 8


def cut(
    bundle: Path, files: Sequence[BundledFile], piece_bytes: int, say: Say
) -> tuple[BundlePiece, ...]:
    """Write the files of `bundle`/files as pieces of `piece_bytes` each; the last is smaller.

    Raises:
        StoreError, BundleError: a file is not as listed, or the disk does not take it.
    """
    folder = folder_below(bundle, [PIECES])
    total = sum(file.size_bytes for file in files)
    there = sum(path.stat().st_size for path in folder.glob("piece-*"))
    check_space(folder, max(0, total - there), "cutting the bundle into pieces")
    progress = ByteProgress(say=say, what="cutting into pieces", total_bytes=total)
    made: list[BundlePiece] = []
    for start in range(0, total, piece_bytes):
        length = min(piece_bytes, total - start)
        path = folder / piece_name(len(made))
        digest = hashlib.sha256()
        for chunk in _range(bundle / FILES, files, start, length):
            digest.update(chunk)
            progress.add(len(chunk))
        made.append(BundlePiece(size_bytes=length, sha256=digest.hexdigest()))
        if not _is_piece(path, made[-1], folder):
            with written_whole(path) as file:
                for chunk in _range(bundle / FILES, files, start, length):
                    file.write(chunk)
    for path in folder.glob("piece-*"):
        if path.name not in {piece_name(number) for number in range(len(made))}:
            path.unlink()  # of an earlier bundle in this folder
    return tuple(made)


def join(bundle: Path, manifest: Manifest, into: Path, say: Say) -> None:
    """Have every file of the bundle whole below `into`, from its pieces where it has some.

    Every hash is compared before this returns. `into` may be `bundle`/files itself.

    Raises:
        BundleError: files or pieces are missing or damaged, all of which it names; the disk has
            too little space; `into` has files that the manifest does not list.
        StoreError: the disk does not take it.
    """
    progress = ByteProgress(say=say, what="checking the files", total_bytes=manifest.size_bytes)
    lacking = [f for f in manifest.files if not is_whole(into, f, progress.add)]
    if not manifest.pieces:
        _raise_if(_named(into, lacking), len(manifest.files), "file")
    elif lacking:
        needed = sum(file.size_bytes for file in lacking)
        say(f"{len(manifest.files) - len(lacking)} files are whole, {size(needed)} to be written")
        _check_pieces(bundle / PIECES, manifest, lacking, say)
        check_space(into, needed, "putting the pieces together")
        folder_below(into.parent, [into.name])
        _write(bundle / PIECES, manifest, lacking, into, say)
    refuse_unlisted(into, manifest.files)


def _write(
    pieces: Path, manifest: Manifest, lacking: Sequence[BundledFile], into: Path, say: Say
) -> None:
    chunks = _Pieces(pieces, manifest)
    total = sum(file.size_bytes for file in lacking)
    progress = ByteProgress(say=say, what="writing the files", total_bytes=total)
    wanted = set(lacking)
    for start, file in _placed(manifest.files):
        if file not in wanted:
            continue
        *folders, name = path_parts(file.path)
        digest = hashlib.sha256()
        with written_whole(folder_below(into, folders) / name) as target:
            for chunk in chunks.read(start, file.size_bytes):
                digest.update(chunk)
                target.write(chunk)
                progress.add(len(chunk))
            if digest.hexdigest() != file.sha256:  # each piece was as listed: the list is wrong
                raise BundleError(
                    f"{file.path} with SHA-256 {digest.hexdigest()} in the pieces",
                    f"SHA-256 {file.sha256}, as the manifest has it",
                    "make the bundle again: its manifest does not fit its pieces",
                )


def _check_pieces(
    folder: Path, manifest: Manifest, lacking: Sequence[BundledFile], say: Say
) -> None:
    """Compare every piece that is needed for the files that lack.

    Raises:
        BundleError: names those that are missing or damaged.
    """
    wanted, chunks = set(lacking), _Pieces(folder, manifest)
    numbers = {
        number
        for start, file in _placed(manifest.files)
        if file in wanted
        for number, _, _ in chunks.spans(start, file.size_bytes)
    }
    spans = [(number, manifest.pieces[number]) for number in sorted(numbers)]
    total = sum(piece.size_bytes for _, piece in spans)
    progress = ByteProgress(say=say, what="checking the pieces", total_bytes=total)
    missing, damaged = [], []
    for number, piece in spans:
        path = folder / piece_name(number)
        if not os.path.lexists(path):
            missing.append(path.name)
        elif not _is_piece(path, piece, folder, progress):
            damaged.append(path.name)
    _raise_if((missing, damaged), len(manifest.pieces), "piece")


def _is_piece(
    path: Path, piece: BundlePiece, folder: Path, progress: ByteProgress | None = None
) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != piece.size_bytes:
        return False
    add = progress.add if progress else lambda _: None
    return sha256_of(path, within=folder, add=add) == piece.sha256


class _Pieces:
    """Reads ranges of what the pieces hold together."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._starts = [0, *accumulate(piece.size_bytes for piece in manifest.pieces)]

    def spans(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """The parts of a range: the piece's number, where in it, and how much."""
        number = bisect_right(self._starts, start) - 1
        while length:
            part = min(length, self._starts[number + 1] - start)
            yield number, start - self._starts[number], part
            start, length, number = start + part, length - part, number + 1

    def read(self, start: int, length: int) -> Iterator[bytes]:
        for number, at, part in self.spans(start, length):
            with open_regular(self._folder / piece_name(number), within=self._folder) as file:
                yield from _read(file, at, part)


def _range(folder: Path, files: Sequence[BundledFile], start: int, length: int) -> Iterator[bytes]:
    """Part of all files laid one behind another."""
    for at, file in _placed(files):
        low, high = max(start, at), min(start + length, at + file.size_bytes)
        if low < high:
            with open_regular(folder / file.path, within=folder) as source:
                yield from _read(source, low - at, high - low)


def _read(source: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    source.seek(start)
    while length:
        chunk: bytes = source.read(min(CHUNK_BYTES, length))
        if not chunk:
            raise BundleError(
                "a file of the bundle that became shorter while it was read",
                "a folder in which nothing else writes",
                "try again",
            )
        length -= len(chunk)
        yield chunk


def _placed(files: Sequence[BundledFile]) -> Iterator[tuple[int, BundledFile]]:
    """Each file with its place in what they are together."""
    at = 0
    for file in files:
        yield at, file
        at += file.size_bytes


def _named(into: Path, lacking: Sequence[BundledFile]) -> tuple[list[str], list[str]]:
    missing = [file.path for file in lacking if not (into / file.path).exists()]
    return missing, [file.path for file in lacking if file.path not in set(missing)]


def _raise_if(names: tuple[list[str], list[str]], of: int, kind: str) -> None:
    """Raise a BundleError that names what is missing and what is damaged, if anything is."""
    parts = []
    for what, found in zip(("missing", "damaged"), names, strict=True):
        if found:
            more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
            parts.append(f"{len(found)} {what}: {', '.join(found[:_MOST_NAMED])}{more}")
    if parts:
        raise BundleError(
            f"a bundle with {'; '.join(parts)}",
            f"all of its {of} {kind}s, with the sizes and hashes that the manifest has",
            f"fetch those {kind}s again, and run this again: what is whole stays",
        )
