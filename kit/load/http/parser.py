"""Parses one HTTP answer: its status, the pieces of its body, and whether it is whole.

httptools does the parsing; this object holds what its callbacks report, and bounds what a server
can make it keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools

from kit.load.answers import Judgement
from kit.load.http.dialect import malformed

#: Reads that are kept as evidence until the head is whole.
_READS_KEPT = 64
_EVIDENCE_BYTES = 4096
#: A head, a trailer, a line between two chunks, or any number of interim answers: bytes that bring
#: no piece of the body. httptools keeps a header field until it is over, however long it is.
LARGEST_HEAD_BYTES = 256 << 10
_NO_HTTP = (httptools.HttpParserError, httptools.HttpParserUpgrade)


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
        self._is_interim_body = False  # which RFC 9110 allows none
        self._without_body = 0  # bytes since the last piece of the body
        self.location: str | None = None
        self.reads.clear()
        self.pieces.clear()

    def take(self, data: bytes) -> Judgement | None:
        """The next bytes; a judgement says that they are no HTTP/1.1, or too many."""
        if not self.headed and len(self.reads) < _READS_KEPT:
            self.reads.append(data)
        before = len(self.pieces)
        problem = None
        try:
            self.feed(data)
        except _NO_HTTP as error:
            problem = self._broken(error, data)
        if self._is_interim_body or (self.pieces and not self.headed):
            self.pieces.clear()
            return malformed("an interim answer with a body", self.evidence or data)
        if problem is not None:
            return problem
        if len(self.pieces) > before:
            self._without_body = 0
        elif not self.complete:
            self._without_body += len(data)
            if self._without_body > LARGEST_HEAD_BYTES:
                what = "trailer or chunk line" if self.headed else "head"
                return malformed(f"a {what} of more than {LARGEST_HEAD_BYTES} bytes", data)
        return None

    def take_each(self, reads: list[bytes]) -> tuple[list[int], Judgement | None]:
        """Several reads of a body; how many pieces there were after each, up to one that is bad.

        `pieces` is empty before.
        """
        feed, pieces = self.feed, self.pieces
        ends: list[int] = []
        problem = None
        try:
            for data in reads:
                feed(data)
                ends.append(len(pieces))
        except _NO_HTTP as error:
            problem = self._broken(error, reads[len(ends)])
            ends.append(len(pieces))
        # One that brings no piece is rare: most are one chunk.
        for before, end, data in zip([0, *ends], ends, reads, strict=False):
            self._without_body = 0 if end > before else self._without_body + len(data)
        if self._without_body > LARGEST_HEAD_BYTES and not self.complete and problem is None:
            what = f"a trailer or chunk line of more than {LARGEST_HEAD_BYTES} bytes"
            problem = malformed(what, reads[-1])
        return ends, problem

    def _broken(self, error: Exception, data: bytes) -> Judgement | None:
        """What the parser's error on `data` makes of the answer; None: it was over before."""
        if isinstance(error, httptools.HttpParserUpgrade):
            return malformed("the server wants another protocol than HTTP/1.1", data)
        if self.complete:
            self.overrun = True
            return None
        return malformed(f"not HTTP/1.1: {error}", self.evidence or data)

    @property
    def evidence(self) -> bytes:
        """How the answer began."""
        return b"".join(self.reads[:4])[:_EVIDENCE_BYTES]

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
            self._is_interim_body = bool(self.pieces)
