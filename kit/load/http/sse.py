"""Parses an event stream as it comes into the data of its events.

Follows the event-stream grammar of the HTML standard (section 9.2.6): lines end with LF, CR or
CRLF, a line that begins with a colon is a comment, `data` lines of one event are joined by LF,
an event is over at an empty line, and what follows the last one is dropped. Other fields
(event, id, retry) are read over: no LLM server says anything in them.
"""

from __future__ import annotations

_BEGINNING_BYTES = 2048
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Feed it body bytes in any pieces; it gives the events that they complete.

    largest_bytes: a line or an event longer than that is not kept; `too_long` says so, and
        `beginning` is how it began.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_largest",
        "_line",
        "_size",
        "_skip_lf",
        "beginning",
        "too_long",
    )

    def __init__(self, largest_bytes: int = 1 << 20) -> None:
        self.reset(largest_bytes)

    def reset(self, largest_bytes: int) -> None:
        """Forget everything; the next bytes begin a stream."""
        self._largest = largest_bytes
        self._at_start = True
        self._line: list[bytes] = []  # the pieces of an unfinished line
        self._skip_lf = False  # the last byte was CR: an LF next belongs to it
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._size = 0  # of the unfinished event and line
        self.too_long = False
        self.beginning = b""

    @property
    def unfinished(self) -> bool:
        """An event has begun and is not over."""
        return bool(self._data or self._line)

    @property
    def rest(self) -> bytes:
        """What came of an event that is not over."""
        return b"\n".join((*self._data, b"".join(self._line)))

    def skipped(self) -> None:
        """Whole events were read by somebody else; the stream goes on after them."""
        self._at_start = self._skip_lf = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that ends in `chunk`."""
        whole = chunk[:6] == b"data: " and chunk[-2:] == b"\n\n" and b"\r" not in chunk
        if whole and not (self._line or self._data or self._skip_lf or self.too_long):
            # What servers send: whole events, each one line of data.
            events = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(events):
                self._at_start = False
                return events
        return self._feed(chunk)

    def _feed(self, chunk: bytes) -> list[bytes]:
        if self.too_long:
            return []
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\n" not in chunk and b"\r" not in chunk and not self._at_start:
            self._keep(chunk)
            return []
        text = b"".join((*self._line, chunk))
        self._size -= sum(map(len, self._line))
        self._line = []
        if self._at_start:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._keep(text)
                return []
            self._at_start = False
            text = text.removeprefix(_BOM)
        if text.endswith(b"\r"):
            self._skip_lf = True
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = self._take(lines)
        self._keep(rest)
        return events

    def _keep(self, piece: bytes) -> None:
        """Put aside a piece of a line that is not over."""
        if piece:
            self._line.append(piece)
            self._grow(len(piece))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._largest:
            self.too_long = True
            self.beginning = self.rest[:_BEGINNING_BYTES]
            self._line.clear()
            self._data.clear()

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data.clear()
                self._size = 0
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
                self._grow(len(value) + 1)
        return events
