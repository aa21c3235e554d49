"""What a connection of HTTP/2 tells: one value for each thing that a server did."""

from __future__ import annotations

import msgspec

from kit.load.grpc.frames import Code
from kit.load.grpc.headers import Fields


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The server has sent its first SETTINGS: it speaks HTTP/2."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """Header fields of a stream: its answer's head, or its trailers."""

    stream: int
    fields: Fields
    ended: bool


class Data(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a stream."""

    stream: int
    data: bytes
    ended: bool


class WholeAnswer(msgspec.Struct, frozen=True, gc=False):
    """The data of a whole answer, whose head and trailers are those of the last good one."""

    stream: int
    data: bytes


class Reset(msgspec.Struct, frozen=True, gc=False):
    """The server has ended a stream at once."""

    stream: int
    code: int


class GoneAway(msgspec.Struct, frozen=True, gc=False):
    """The server takes no new streams, and none above `last`."""

    last: int
    code: int
    text: bytes


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What waited for the server's window is now in `out`."""

    stream: int


class Broken(msgspec.Struct, frozen=True, gc=False):
    """The server broke the protocol: the connection is over."""

    cause: str
    code: int
    evidence: bytes


Event = Ready | Head | Data | WholeAnswer | Reset | GoneAway | Sent | Broken


class ViolationError(Exception):
    """What is received breaks the protocol."""

    def __init__(self, cause: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(cause)
        self.code = code
