"""A file that another process appends to → its whole new lines, at bounded cost.

Lines come in pieces, end in `\\r` where a progress bar draws, are binary or endless. The file
may not be there yet, may be truncated or replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

#: Bytes kept of a line whose end has not come; the rest of such a line is dropped.
MAX_LINE_BYTES: Final = 64 * 1024
#: Bytes read at a time.
CHUNK_BYTES: Final = 1024 * 1024


class Tail:
    """Reads on from where the last read ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._inode = 0
        self._rest = b""
        self._dropping = False  # inside a line that was too long

    def read(self) -> list[str]:
        """The lines that became whole since the last call, at most CHUNK_BYTES of them.

        A file that cannot be read now gives no lines, and is tried again at the next call.
        """
        try:
            return self._split(self._chunk())
        except OSError:
            self.close()
            return []

    def behind(self) -> bool:
        """True while the file holds more than was read."""
        try:
            return self._file is not None and self._file.tell() < self._path.stat().st_size
        except OSError:
            return False

    def flush(self) -> list[str]:
        """The last line if it never got its newline; for when nobody writes any more."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", errors="replace")] if rest and not self._dropping else []

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _chunk(self) -> bytes:
        status = self._path.stat()
        replaced = self._file is not None and (
            status.st_ino != self._inode or status.st_size < self._file.tell()
        )
        if replaced:
            self.close()
            self._rest, self._dropping = b"", False
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
            self._inode = status.st_ino
        return self._file.read(CHUNK_BYTES)

    def _split(self, chunk: bytes) -> list[str]:
        pieces = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        self._rest = pieces.pop()
        if pieces and self._dropping:
            pieces.pop(0)
            self._dropping = False
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._dropping = b"", True
        return [piece.decode("utf-8", errors="replace") for piece in pieces if piece]
