"""Splits a log of any size into cleaned lines, in bounded memory.

What collectors put around a line is taken off in `kit.crash.log.records`, and what it only
quotes is left out in `kit.crash.log.quotes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kit.crash.log.quotes import Quotations, quotes_a_request
from kit.crash.log.records import documents, messages

#: A "line" of binary garbage may be the whole file; longer ones are cut into pieces.
LONGEST_LINE = 16_384
CHUNK = 1 << 20


def chunks_of_text(text: str) -> Iterator[str]:
    """Pieces of about a mebibyte that end at line ends where the text has any."""
    start = 0
    while start < len(text):
        end = min(start + CHUNK, len(text))
        if end < len(text):
            newline = text.rfind("\n", start, end)
            end = newline + 1 if newline >= 0 else end
        yield text[start:end]
        start = end


def split_lines(chunk: str) -> Iterator[str]:
    """The lines of a chunk without their ends. A carriage return ends a line too: progress bars
    write a crash's first line behind one. A JSON array is one line a record.
    """
    text = chunk.removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if (line[:1] in ("[", "{", "\ufeff") or len(line) > LONGEST_LINE) and (
            rows := documents(line)
        ) is not None:
            yield from (row[:LONGEST_LINE] for row in rows)
            continue
        if len(line) > LONGEST_LINE and quotes_a_request(line[:LONGEST_LINE]):
            yield ""  # its later pieces would not show that they are quoted
            continue
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            yield line[start : start + LONGEST_LINE]


class LogText:
    """Turns the raw lines of a log into what its processes wrote, with the numbers of the lines.

    One record may hold several lines of a log; they have its number.
    """

    def __init__(self) -> None:
        self.lines = 0
        self._quotations = Quotations()

    @property
    def within_quotation(self) -> bool:
        """A request is being quoted, and its closing mark has not come."""
        return self._quotations.is_open

    def read(self, chunk: str) -> Iterator[tuple[int, str]]:
        """The lines of the log's next chunk."""
        for line in split_lines(chunk):
            self.lines += 1
            parts = messages(line)
            for part in parts:
                yield from self._quotations.feed(self.lines, part)
            if len(parts) > 1:
                self._quotations.end_of_record()

    def skip(self, lines: int) -> None:
        """Count lines that are known to say nothing."""
        self.lines += lines

    def close(self) -> Iterator[tuple[int, str]]:
        """The log is at its end."""
        yield from self._quotations.close()


def lines_of_text(text: str) -> Iterator[tuple[int, str]]:
    """What the processes of a log at hand wrote, with the numbers of its lines."""
    log = LogText()
    for chunk in chunks_of_text(text):
        yield from log.read(chunk)
    yield from log.close()
