"""HTTP/2 frames as bytes: what each one begins with, those that a client sends, error names.

Source: RFC 9113, sections 4.1 (format), 6 (frame types), 7 (error codes).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
#: Of a frame: its length's upper and lower bits, its type, its flags, its stream.
HEAD: Final = Struct(">BHBBL")
_WORD: Final = Struct(">L")
_SETTING: Final = Struct(">HL")
#: The largest frame that is taken, and the least that a peer must take.
FRAME_BYTES: Final = 16384
LARGEST_WINDOW: Final = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
#: Flags; ACK is that of SETTINGS and PING.
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
#: Flags of HEADERS at a stream's end; of those without more frames, padding or a priority.
ENDED_BLOCK: Final = END_HEADERS | END_STREAM
WHOLE_BLOCK: Final = (END_HEADERS, ENDED_BLOCK)
#: Frames that have one length.
SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


class Setting(IntEnum):
    """What a SETTINGS frame sets."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def code_name(code: int) -> str:
    """The name of an error code.

    >>> code_name(8), code_name(99)
    ('CANCEL', 'error code 99')
    """
    try:
        return Code(code).name
    except ValueError:
        return f"error code {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame.

    >>> frame(PING, ACK, 0, bytes(8)).hex()
    '0000080601000000000000000000000000'
    """
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame of a length divisible by 6 sets."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, size: int) -> bytes:
    """The peer may send so many bytes more."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(size))


def rst_stream(stream: int, code: int) -> bytes:
    """End a stream at once."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(code: int) -> bytes:
    """End the connection; a client has no streams of the server's that it would go on with."""
    return frame(GOAWAY, 0, 0, _WORD.pack(0) + _WORD.pack(code))


def word(payload: bytes, at: int = 0) -> int:
    """The 32-bit number at a place of a payload that has one there."""
    number: int = _WORD.unpack_from(payload, at)[0]
    return number
