"""Frames that a server sends, for tests of the gRPC client's HTTP/2."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Encoder

from kit.load.grpc import frames
from kit.load.grpc.headers import RequestHead

HEAD = RequestHead([(":method", "POST"), (":path", "/a/B"), ("te", "trailers")])
SETTINGS = frames.settings([])
GOOD_HEAD = ((":status", "200"), ("content-type", "application/grpc"))
GOOD_END = (("grpc-status", "0"),)

Fields = Iterable[tuple[str, str]]


class Server:
    """Encodes one connection's frames; its HPACK table is that connection's."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def block(self, fields: Fields) -> bytes:
        encoded: bytes = self._encoder.encode(list(fields))
        return encoded

    def head(self, stream: int, fields: Fields = GOOD_HEAD, *, end: bool = False) -> bytes:
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        return frames.frame(frames.HEADERS, flags, stream, self.block(fields))

    def trailers(self, stream: int, fields: Fields = GOOD_END) -> bytes:
        return self.head(stream, fields, end=True)


def message(data: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def data_frame(stream: int, data: bytes, *, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, data)


def sent_frames(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """What a client sent: (type, flags, stream, payload) of each frame."""
    sent = sent.removeprefix(frames.PREFACE)
    found = []
    while sent:
        high, low, kind, flags, stream = frames.HEAD.unpack_from(sent)
        size = high << 16 | low
        found.append((kind, flags, stream, sent[9 : 9 + size]))
        assert len(found[-1][3]) == size
        sent = sent[9 + size :]
    return found
