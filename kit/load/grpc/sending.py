"""The sending half of a client's HTTP/2 connection: streams, the server's windows and settings.

What a window has no room for waits, in the order in which it was given. `out` is what is to be
written to the connection.

Source: RFC 9113, sections 5.2 (flow control), 6.5 (SETTINGS), 6.9 (WINDOW_UPDATE).
"""

from __future__ import annotations

from typing import Final

from kit.load.grpc import frames
from kit.load.grpc.frames import Code, Setting
from kit.load.grpc.headers import HEADER_LIST_BYTES, RequestBlocks, RequestHead
from kit.load.grpc.http2_events import Event, Sent, ViolationError

#: What a server may send before it is told that there is more room.
STREAM_WINDOW_BYTES: Final = 1 << 20
CONNECTION_WINDOW_BYTES: Final = 4 << 20
_DEFAULT_WINDOW_BYTES: Final = 65535
_MOST_STREAMS: Final = 2**31 - 1


class Stream:
    """A stream that is open on at least one side."""

    __slots__ = (
        *("ended", "ends", "held", "holds", "is_plain"),
        *("pending", "sent_end", "taken", "window"),
    )

    def __init__(self, window: int) -> None:
        self.window = window  # what may be sent
        self.taken = 0  # of what was received, not yet told to the server
        self.holds = False  # `Http2.consumed` tells what was read
        self.held = 0  # received and not read yet
        self.is_plain = True  # nothing but data is awaited: it does not hold and has not ended
        self.pending = b""  # what waits for a window
        self.ends = False  # END_STREAM follows what is pending
        self.sent_end = False
        self.ended = False  # by the server


class Sender:
    """What is sent on one connection.

    head: the header fields of every request.
    """

    def __init__(self, head: RequestHead) -> None:
        self.out = bytearray(frames.PREFACE)
        self.out += frames.settings(
            (
                (Setting.ENABLE_PUSH, 0),
                (Setting.MAX_CONCURRENT_STREAMS, 0),
                (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
                (Setting.MAX_HEADER_LIST_SIZE, HEADER_LIST_BYTES),
            )
        )
        self.out += frames.window_update(0, CONNECTION_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        self.streams: dict[int, Stream] = {}
        self.last = -1  # the stream that was opened last
        self._blocks = RequestBlocks(head)
        self.most_streams = _MOST_STREAMS  # that the server takes at a time
        self._window = _DEFAULT_WINDOW_BYTES
        self._stream_window = _DEFAULT_WINDOW_BYTES
        self._frame_bytes = frames.FRAME_BYTES
        self._waiting: dict[int, None] = {}  # streams with something pending, in turn

    @property
    def is_used_up(self) -> bool:
        """There are no stream numbers left."""
        return self.last >= _MOST_STREAMS - 2

    def open(self, more_fields: bytes) -> int:
        """Begin a stream with the request's head; its number."""
        return self._begin(self._blocks.take() + more_fields)

    def _begin(self, block: bytes) -> int:
        self.last += 2
        stream = self.last
        self.streams[stream] = Stream(self._stream_window)
        kind, size = frames.HEADERS, self._frame_bytes
        if len(block) <= size:
            self.out += frames.frame(kind, frames.END_HEADERS, stream, block)
            return stream
        for at in range(0, len(block), size):
            flags = frames.END_HEADERS if at + size >= len(block) else 0
            self.out += frames.frame(kind, flags, stream, block[at : at + size])
            kind = frames.CONTINUATION
        return stream

    def ask(self, more_fields: bytes, data: bytes) -> tuple[int, bool]:
        """Begin a stream with its head and all its data: its number, and as `send`."""
        block = self._blocks.take() + more_fields
        size, length, largest = len(data), len(block), self._frame_bytes
        window, room = self._stream_window, self._window
        if size > room or size > window or size > largest or length > largest:
            stream = self._begin(block)
            return stream, self.send(stream, data, end=True)
        stream = self.last = self.last + 2
        self._window = room - size
        state = self.streams[stream] = Stream(window - size)
        state.sent_end = True
        pack, flags = frames.HEAD.pack, frames.END_HEADERS
        head = pack(length >> 16, length & 0xFFFF, frames.HEADERS, flags, stream)
        end = pack(size >> 16, size & 0xFFFF, frames.DATA, frames.END_STREAM, stream)
        self.out += b"".join((head, block, end, data))
        return stream, True

    def send(self, stream: int, data: bytes, *, end: bool) -> bool:
        """Send `data`; False: some of it waits for the server's window (`Sent` follows)."""
        state = self.streams.get(stream)
        if state is None or state.sent_end or state.ends:
            return True  # a stream that is over takes nothing
        size = len(data)
        has_room = size <= state.window and size <= self._window and size <= self._frame_bytes
        if has_room and not state.pending:
            state.window -= size
            self._window -= size
            self.out += frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, data)
            if end:
                self._end(stream, state)
            return True
        state.pending += data
        state.ends = end
        self._waiting[stream] = None
        return self._send_pending(stream, state)

    def drop(self, stream: int) -> bool:
        """The stream is over; whether it was open."""
        self._waiting.pop(stream, None)
        return self.streams.pop(stream, None) is not None

    def pump(self, events: list[Event]) -> None:
        """Send what the windows have room for now."""
        events += [
            Sent(stream)
            for stream in list(self._waiting)
            if self._send_pending(stream, self.streams[stream])
        ]

    def set(self, name: int, value: int) -> None:
        """One of the server's settings.

        Raises:
            ViolationError: the value is not allowed.
        """
        if name == Setting.INITIAL_WINDOW_SIZE:
            change = value - self._stream_window
            self._stream_window = value
            for state in self.streams.values():
                state.window += change
            if max((value, *(s.window for s in self.streams.values()))) > frames.LARGEST_WINDOW:
                raise ViolationError(f"a window of {value} bytes", Code.FLOW_CONTROL_ERROR)
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES <= value < 1 << 24:
                raise ViolationError(f"a largest frame of {value} bytes")
            self._frame_bytes = value
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.most_streams = value
        elif name == Setting.HEADER_TABLE_SIZE:
            self._blocks.limit_table(value)
        elif name == Setting.ENABLE_PUSH and value:
            raise ViolationError(f"ENABLE_PUSH = {value} by a server")

    def widen(self, stream: int, size: int) -> None:
        """The server has room for so many bytes more; stream 0 is the connection.

        Raises:
            ViolationError: a window would become larger than it may.
        """
        if stream == 0:
            self._window += size
            window = self._window
        else:
            state = self.streams[stream]
            state.window += size
            window = state.window
        if window > frames.LARGEST_WINDOW:
            raise ViolationError("a window of more than 2^31 - 1 bytes", Code.FLOW_CONTROL_ERROR)

    def _send_pending(self, stream: int, state: Stream) -> bool:
        while state.pending:
            size = min(len(state.pending), self._frame_bytes, state.window, self._window)
            if size <= 0:
                return False
            data, state.pending = state.pending[:size], state.pending[size:]
            state.window -= size
            self._window -= size
            flags = frames.END_STREAM if state.ends and not state.pending else 0
            self.out += frames.frame(frames.DATA, flags, stream, data)
        self._waiting.pop(stream, None)
        if state.ends:
            self._end(stream, state)
        return True

    def _end(self, stream: int, state: Stream) -> None:
        state.sent_end = True
        if state.ended:
            self.drop(stream)
