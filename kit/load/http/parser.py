"""The bytes of one HTTP answer in; its status, the pieces of its body and whether it is whole out.

httptools does the parsing; this object holds what its callbacks say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools

from kit.load.answers import Judgement
from kit.load.http.dialect import malformed

#: Reads that are kept as evidence until the head is whole.
_READS_KEPT = 64


class HttpAnswer:
    """What is known of the answer that a connection is receiving.

    on_head: called with the status when the head is whole.
    """

    def __init__(self, on_head: Callable[[int], None]) -> None:
        self._on_head = on_head
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # the parser looks for it when it is made
        self._parser: Any = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data
        self.reads: list[bytes] = []  # until the head is whole
        self.keeps = False  # the connection goes on after it
        self.clear()

    def clear(self) -> None:
        """Another answer follows."""
        self.headed = False  # its head is whole
        self.framed = False  # its head says where the body ends
        self.complete = False
        self.overrun = False  # and then came more
        self.location: str | None = None
        self.reads.clear()
        self.pieces.clear()

    def take(self, data: bytes) -> Judgement | None:
        """The next bytes; a judgement says that they are no HTTP/1.1."""
        if not self.headed and len(self.reads) < _READS_KEPT:
            self.reads.append(data)
        try:
            self.feed(data)
        except httptools.HttpParserUpgrade:
            return malformed("the server wants another protocol than HTTP/1.1", data)
        except httptools.HttpParserError as error:
            if not self.complete:
                return malformed(f"not HTTP/1.1: {error}", b"".join(self.reads) or data)
            self.overrun = True
        return None

    # --- what httptools calls

    def on_message_begin(self) -> None:
        if self.complete:
            self.overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self.framed = True
        elif name == b"location":
            self.location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.complete:
            self.headed = True
            self._on_head(status)

    def on_message_complete(self) -> None:
        if self.headed:
            self.complete = True
            self.keeps = self._parser.should_keep_alive()  # the parser forgets it afterwards
        else:
            self.framed = False  # an interim answer (100); the real one follows
