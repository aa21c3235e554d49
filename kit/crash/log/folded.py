"""Puts lines together again that a terminal folded at its width before somebody copied them.

In such a text no line is longer than the terminal was wide, and those that are as long go on in
the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kit.crash.log.prefix import message_starts
from kit.crash.log.shapes import read_frame

#: Between these a terminal is wide.
_NARROWEST, _WIDEST = 60, 400
#: What rows of tables end with, which are as long as they are by themselves. So are rules, which
#: are made of few characters.
_ROWS = tuple("|+│┃")
_FEW = 6
#: A time and a level, for example; one piece may be the end of a word.
_PIECES = 2
#: Characters that are kept: whoever copies from a terminal copies no more.
LONGEST = 1 << 20


class Remembered:
    """Hands chunks on, and keeps the text as long as it is short."""

    def __init__(self, chunks: Iterable[str]) -> None:
        self._chunks = chunks
        self._kept: list[str] | None = []
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            self._length += len(chunk)
            if self._kept is not None:
                self._kept.append(chunk)
            if self._length > LONGEST:
                self._kept = None
            yield chunk

    @property
    def text(self) -> str:
        """The whole text; empty if it was too long."""
        return "".join(self._kept or ())


def unfolded(text: str) -> str | None:
    """The text with its lines whole, each where it began; empty lines stand in the place of the
    rest, so that numbers of lines stay right. None if no terminal folded it.

    >>> unfolded("0123456789" * 6 + "Signal (\\n11) received.\\n")[60:].split("\\n")
    ['Signal (11) received.', '', '']
    """
    lines = text.replace("\r\n", "\n").split("\n")
    width = max(map(len, lines))
    if not _NARROWEST <= width <= _WIDEST:
        return None
    full = [
        len(line) == width and len({*line}) > _FEW and not line.endswith(_ROWS) for line in lines
    ]
    behind = [line for before, line in zip(full, lines[1:], strict=False) if before and line]
    if not behind or 2 * sum(map(_is_record, behind)) >= len(behind):
        return None
    whole: list[list[str]] = []
    begun = 0
    for at, line in enumerate(lines):
        if at and full[at - 1] and line:
            whole[begun].append(line)
            whole.append([])
        else:
            begun = at
            whole.append([line])
    return "\n".join(map("".join, whole))


def _is_record(line: str) -> bool:
    """Whether a line has what loggers put before a message, or is a frame: the rest of another
    line seldom does.
    """
    return len(message_starts(line)) > _PIECES or read_frame(line) is not None
