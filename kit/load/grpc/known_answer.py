"""Recognises an answer that came whole and is like the last good one around its data.

A unary answer is a head, one frame of data and trailers, mostly in one piece, and mostly the head
and the trailers are those of the answer before. Such an answer need not be taken frame by frame.
"""

from __future__ import annotations

from typing import Final

from kit.load.grpc import frames
from kit.load.grpc.headers import Fields, ResponseFields

_NO_FIELDS: Final[Fields] = ((b"", b""),)
_PLAIN_DATA: Final = bytes([frames.DATA, 0])  # type and flags
_LENGTH_BYTES: Final = 3
_STREAM_BYTES: Final = 4


class KnownAnswer:
    """What stands around the data of one connection's answers; fields: of its header blocks."""

    def __init__(self, fields: ResponseFields) -> None:
        self.head = self.end = _NO_FIELDS  # the last that were found to be right
        self._fields = fields
        self._known = fields.known
        self._end_block = self._end_head = b""

    def expect_end(self, fields: Fields) -> None:
        """These trailers were found to be right."""
        self.end, block = fields, self._fields.block_of(fields)
        self._end_block = block
        self._end_head = frames.frame(frames.HEADERS, frames.ENDED_BLOCK, 0, block)[
            : frames.HEAD_BYTES - _STREAM_BYTES
        ]

    def size(self, data: bytes, at: int, block: bytes) -> int:
        """The length of the data of a whole answer, which begins with `block` and goes on at `at`.

        0: what stands there is none, or is unlike the last good one.
        """
        known, end_block = self._known, self._end_block
        if known(block) is not self.head or known(end_block) is not self.end:
            return 0
        begin = at - len(block)
        stream = data[begin - _STREAM_BYTES : begin]
        size = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        end = b"".join((self._end_head, stream, end_block))
        is_one = (
            data.startswith(end, at + frames.HEAD_BYTES + size)
            and data.startswith(_PLAIN_DATA + stream, at + _LENGTH_BYTES)
            and size <= frames.FRAME_BYTES
        )
        return size if is_one else 0

    @property
    def end_bytes(self) -> int:
        """The length of the frame that ends it."""
        return frames.HEAD_BYTES + len(self._end_block)
