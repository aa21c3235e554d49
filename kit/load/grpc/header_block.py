"""A header block that comes in several frames: HEADERS and the CONTINUATIONs behind it.

Source: RFC 9113, section 4.3; that a server may flood with such frames is CVE-2024-27316.
"""

from __future__ import annotations

from typing import Final

from kit.load.grpc.frames import Code
from kit.load.grpc.headers import HEADER_LIST_BYTES
from kit.load.grpc.http2_events import ViolationError

#: A header block in more frames than this, or in more bytes, is a flood.
MOST_CONTINUATIONS: Final = 32


class HeaderBlock:
    """The block that goes on in the next frame, if one does.

    >>> block = HeaderBlock()
    >>> block.begin(1, b"a", ended=True)
    >>> block.stream, block.add(b"b"), block.taken(), block.stream
    (1, None, (1, b'ab', True), 0)
    """

    def __init__(self) -> None:
        self.stream = 0  # whose it is; 0: there is none
        self._parts: list[bytes] = []
        self._ended = False

    def begin(self, stream: int, part: bytes, *, ended: bool) -> None:
        """The block of a stream begins; ended: the stream ends with it."""
        self.stream, self._parts, self._ended = stream, [part], ended

    def add(self, part: bytes) -> None:
        """It goes on.

        Raises:
            ViolationError: there is none, or it is a flood.
        """
        if not self.stream:
            raise ViolationError("CONTINUATION without HEADERS")
        self._parts.append(part)
        if len(self._parts) > MOST_CONTINUATIONS + 1:
            raise ViolationError(
                f"a flood: a header block in more than {MOST_CONTINUATIONS + 1} frames",
                Code.ENHANCE_YOUR_CALM,
            )
        if sum(map(len, self._parts)) > HEADER_LIST_BYTES:
            raise ViolationError(
                f"a flood: a header block of more than {HEADER_LIST_BYTES} bytes",
                Code.ENHANCE_YOUR_CALM,
            )

    def taken(self) -> tuple[int, bytes, bool]:
        """(whose it is, all of it, whether the stream ends with it); there is none any more."""
        whole = self.stream, b"".join(self._parts), self._ended
        self.stream, self._parts = 0, []
        return whole
