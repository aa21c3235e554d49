"""Client side of one HTTP/2 connection without I/O: takes received bytes, returns events.

What is to be sent collects in `out`. Nothing here knows a socket, a clock or gRPC. A server that
breaks the protocol, or floods, ends the connection with one `Broken` event that names why; nothing
that it sends makes an exception or takes more memory than the windows and the limits below. Both
sides' windows, SETTINGS and GOAWAY are honoured; what a server pushes is refused.

Source: RFC 9113.

>>> from kit.load.grpc.headers import RequestHead
>>> http2 = Http2(RequestHead([(":method", "POST")]))
>>> http2.feed(frames.settings([]))
[Ready()]
>>> stream = http2.open(b"")
>>> http2.send(stream, b"hello", end=True)
True
>>> http2.feed(frames.frame(frames.RST_STREAM, 0, stream, bytes([0, 0, 0, 8])))
[Reset(stream=1, code=8)]
>>> http2.feed(b"\\xff\\xff\\xff\\0\\0\\0\\0\\0\\1")[0].cause
'a frame of 16777215 bytes; expected at most 16384'
"""

from __future__ import annotations

from typing import Final

from kit.load.grpc import frames
from kit.load.grpc.frames import Code
from kit.load.grpc.header_block import HeaderBlock
from kit.load.grpc.headers import HeaderError, RequestHead, ResponseFields
from kit.load.grpc.http2_events import (
    Broken,
    Data,
    Event,
    GoneAway,
    Head,
    Ready,
    Reset,
    ViolationError,
    WholeAnswer,
)
from kit.load.grpc.known_answer import KnownAnswer
from kit.load.grpc.sending import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, Sender, Stream

#: So many frames in a row that carry nothing (PING, SETTINGS, empty DATA ...) are a flood.
MOST_IDLE_FRAMES: Final = 10_000
_EVIDENCE_BYTES = 1000
#: A server is told of more room when so much of a stream's window, or of the connection's, is used.
_STREAM_TAKEN_BYTES = STREAM_WINDOW_BYTES // 2
_TAKEN_BYTES = CONNECTION_WINDOW_BYTES // 2


class Http2:
    """One connection; `out` holds what is to be sent, until whoever sends it clears it.

    head: the header fields of every request.
    """

    def __init__(self, head: RequestHead) -> None:
        self.is_ready = False  # the server has sent its first SETTINGS
        self.is_broken = False
        self._sender = Sender(head)
        self.out = self._sender.out
        self._streams = self._sender.streams
        self._fields = ResponseFields()
        self._gone = False
        self._taken = 0
        self._rest = b""
        self._block = HeaderBlock()
        self._idle_frames = 0
        self.known_answer = KnownAnswer(self._fields)

    # --- what is sent

    @property
    def can_open(self) -> bool:
        """The server takes one more stream now."""
        sender = self._sender
        return (
            len(self._streams) < sender.most_streams
            and self.is_ready
            and not (self._gone or self.is_broken or sender.is_used_up)
        )

    @property
    def is_going(self) -> bool:
        """No stream can be opened any more."""
        return self._gone or self.is_broken or self._sender.is_used_up

    def open(self, more_fields: bytes) -> int:
        """Begin a stream with the request's head; its number.

        more_fields: encoded fields of this request that no table keeps.
        """
        return self._sender.open(more_fields)

    def ask(self, more_fields: bytes, data: bytes) -> tuple[int, bool]:
        """`open` a stream and `send` all that it is to have: its number, and what that gave."""
        self._idle_frames = 0
        return self._sender.ask(more_fields, data)

    def send(self, stream: int, data: bytes, *, end: bool = False) -> bool:
        """Send `data`; False: some of it waits for the server's window (`Sent` follows)."""
        self._idle_frames = 0
        return self._sender.send(stream, data, end=end)

    def has(self, stream: int) -> bool:
        """The stream is open on one side at least."""
        return stream in self._streams

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once; what still comes for it is dropped."""
        if self._sender.drop(stream):
            self.out += frames.rst_stream(stream, code)

    def hold(self, stream: int) -> None:
        """Give a stream's window back only for what `consumed` names."""
        state = self._streams.get(stream)
        if state is not None:
            state.holds, state.is_plain = True, False

    def consumed(self, stream: int, size: int) -> None:
        """So many bytes of a held stream were read."""
        state = self._streams.get(stream)
        if state is not None and state.holds:
            state.held -= size
            state.taken += size
            self._give_back(stream, state)

    # --- what is received

    def feed(self, data: bytes) -> list[Event]:
        """The events that the next bytes make; after `Broken` there are none."""
        events: list[Event] = []
        if self.is_broken:
            return events
        if self._rest:
            data = self._rest + data
        at, size, unpack = 0, len(data), frames.HEAD.unpack_from
        streams, block = self._streams, self._block
        try:
            while size - at >= frames.HEAD_BYTES:
                high, low, kind, flags, stream = unpack(data, at)
                length = high << 16 | low
                if not self.is_ready and (kind != frames.SETTINGS or flags & frames.ACK):
                    raise ViolationError("not HTTP/2: it does not begin with SETTINGS")
                if length > frames.FRAME_BYTES:
                    raise ViolationError(
                        f"a frame of {length} bytes; expected at most {frames.FRAME_BYTES}",
                        Code.FRAME_SIZE_ERROR,
                    )
                end = at + frames.HEAD_BYTES + length
                if end > size:
                    break
                payload = data[at + frames.HEAD_BYTES : end]
                # Mostly: some data in the middle of a stream.
                state = streams.get(stream) if kind == frames.DATA and not flags else None
                if state is not None and length and state.is_plain and not block.stream:
                    self._taken += length
                    state.taken += length
                    if self._taken > _TAKEN_BYTES or state.taken > _STREAM_TAKEN_BYTES:
                        self._give_back(stream, state)
                    self._idle_frames = 0
                    events.append(Data(stream, payload, False))
                elif kind == frames.HEADERS and flags in frames.WHOLE_BLOCK and not block.stream:
                    ended = flags == frames.ENDED_BLOCK
                    rest = 0 if ended else self._take_answer(data, end, stream, payload, events)
                    if rest:
                        end = rest
                    else:
                        self._take_block(stream & 0x7FFFFFFF, payload, ended, events)
                else:
                    self._take(kind, flags, stream & 0x7FFFFFFF, payload, events)
                at = end
        except ViolationError as violation:
            self.is_broken = True
            self._rest = b""
            self.out += frames.goaway(violation.code)
            evidence = data[at : at + _EVIDENCE_BYTES]
            events.append(Broken(str(violation), violation.code, evidence))
            return events
        self._rest = data[at:]
        return events

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._block.stream and (kind != frames.CONTINUATION or stream != self._block.stream):
            raise ViolationError("a frame within a header block")
        if kind == frames.DATA:
            self._take_data(flags, stream, payload, events)
        elif kind == frames.HEADERS:
            self._take_headers(flags, stream, payload, events)
        elif kind == frames.CONTINUATION:
            self._block.add(payload)
            if flags & frames.END_HEADERS:
                self._take_block(*self._block.taken(), events)
        else:
            self._idle("frames that carry nothing")
            self._take_control(kind, flags, stream, payload, events)

    def _idle(self, what: str) -> None:
        self._idle_frames += 1
        if self._idle_frames > MOST_IDLE_FRAMES:
            raise ViolationError(
                f"a flood: more than {MOST_IDLE_FRAMES} {what} in a row", Code.ENHANCE_YOUR_CALM
            )

    def _stream(self, stream: int, what: str) -> Stream | None:
        """A stream's state; None: it is over.

        What comes after a stream's end is dropped, whether or not that end was read yet: how a
        server's bytes are cut must not decide what becomes of its other streams.
        """
        state = self._streams.get(stream)
        if state is None and (stream > self._sender.last or not stream % 2):
            raise ViolationError(f"{what} on stream {stream}, which was never opened")
        return state

    def _take_answer(
        self, data: bytes, at: int, stream: int, block: bytes, events: list[Event]
    ) -> int:
        """Take a whole answer like the last good one; it begins with `block` and goes on at `at`.

        Where it ends; 0: it is none, and nothing was taken.
        """
        size = self.known_answer.size(data, at, block)
        state = self._streams.get(stream)
        if not size or state is None or not (state.is_plain and state.sent_end):
            return 0
        self._taken += size
        self._give_back()
        self._idle_frames = 0
        self._sender.drop(stream)
        end = at + frames.HEAD_BYTES + size
        events.append(WholeAnswer(stream, data[at + frames.HEAD_BYTES : end]))
        return end + self.known_answer.end_bytes

    # --- data

    def _take_data(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        state = self._stream(stream, "DATA")
        size = len(payload)
        self._taken += size
        self._give_back()
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if state is None or state.ended:
            self._idle("frames of DATA that nobody awaits")
            return
        if not payload:
            self._idle("frames that carry nothing")
        else:
            self._idle_frames = 0
        if state.holds:
            state.held += len(payload)
            if state.held + state.taken > STREAM_WINDOW_BYTES:
                raise ViolationError("more data than a stream's window", Code.FLOW_CONTROL_ERROR)
            size -= len(payload)
        ended = bool(flags & frames.END_STREAM)
        if ended:
            self._ended(stream, state)
        state.taken += size
        self._give_back(stream, state)
        events.append(Data(stream, payload, ended))

    def _give_back(self, stream: int = 0, state: Stream | None = None) -> None:
        """Tell the server of more room when half of it is taken.

        It has more room than a frame at any time, but on a stream that is held: so much that it
        cannot send more than its window.
        """
        if self._taken > _TAKEN_BYTES:
            self.out += frames.window_update(0, self._taken)
            self._taken = 0
        if state is not None and state.taken > _STREAM_TAKEN_BYTES and not state.ended:
            self.out += frames.window_update(stream, state.taken)
            state.taken = 0

    def _ended(self, stream: int, state: Stream) -> None:
        """The server has sent its last frame of a stream."""
        state.ended, state.is_plain = True, False
        if state.sent_end:
            self._sender.drop(stream)

    # --- header fields

    def _take_headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.PRIORITISED:
            if len(payload) < 5:
                raise ViolationError("HEADERS too short for its priority", Code.FRAME_SIZE_ERROR)
            payload = payload[5:]
        ended = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._take_block(stream, payload, ended, events)
        else:
            self._block.begin(stream, payload, ended=ended)

    def _take_block(self, stream: int, block: bytes, ended: bool, events: list[Event]) -> None:
        state = self._streams.get(stream) or self._stream(stream, "HEADERS")
        try:
            fields = self._fields.decode(block)
        except HeaderError as error:
            raise ViolationError(
                f"a header block that cannot be decoded: {error}", Code.COMPRESSION_ERROR
            ) from error
        if state is None or state.ended or not ended:
            self._idle("HEADERS without data")
        if state is None or state.ended:
            return  # of a stream that is over: decoded for the table's sake
        if ended:
            self._idle_frames = 0
            self._ended(stream, state)
        events.append(Head(stream, fields, ended))

    # --- the rest

    def _take_control(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if len(payload) != frames.SIZES.get(kind, len(payload)):
            raise ViolationError(
                f"a frame of type {kind} of {len(payload)} bytes; expected {frames.SIZES[kind]}",
                Code.FRAME_SIZE_ERROR,
            )
        if kind in (frames.SETTINGS, frames.PING, frames.GOAWAY) and stream:
            raise ViolationError(f"a frame of type {kind} on stream {stream}; expected stream 0")
        match kind:
            case frames.SETTINGS:
                self._take_settings(flags, payload, events)
            case frames.PING:
                if not flags & frames.ACK:
                    self.out += frames.frame(frames.PING, frames.ACK, 0, payload)
            case frames.WINDOW_UPDATE:
                self._take_window_update(stream, frames.word(payload) & 0x7FFFFFFF, events)
            case frames.RST_STREAM:
                if self._stream(stream, "RST_STREAM") is not None:
                    self._sender.drop(stream)
                    events.append(Reset(stream, frames.word(payload)))
            case frames.GOAWAY:
                self._take_goaway(payload, events)
            case frames.PUSH_PROMISE:
                raise ViolationError("PUSH_PROMISE, though push was switched off")
            case _:
                pass  # PRIORITY, and types that later documents define

    def _take_settings(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & frames.ACK:
            if payload:
                raise ViolationError("an acknowledgement with settings", Code.FRAME_SIZE_ERROR)
            return
        if len(payload) % 6:
            raise ViolationError(
                f"SETTINGS of {len(payload)} bytes; expected 6 for each", Code.FRAME_SIZE_ERROR
            )
        for name, value in frames.settings_of(payload):
            self._sender.set(name, value)
        self.out += frames.frame(frames.SETTINGS, frames.ACK, 0, b"")
        if not self.is_ready:
            self.is_ready = True
            events.append(Ready())
        self._sender.pump(events)

    def _take_window_update(self, stream: int, size: int, events: list[Event]) -> None:
        if stream and self._stream(stream, "WINDOW_UPDATE") is None:
            return
        if not size:
            raise ViolationError("a WINDOW_UPDATE of 0 bytes")
        self._sender.widen(stream, size)
        self._sender.pump(events)

    def _take_goaway(self, payload: bytes, events: list[Event]) -> None:
        if len(payload) < 8:
            raise ViolationError("a GOAWAY that is too short", Code.FRAME_SIZE_ERROR)
        self._gone = True
        last = frames.word(payload) & 0x7FFFFFFF
        for later in [number for number in self._streams if number > last]:
            self._sender.drop(later)
        text = payload[8 : 8 + _EVIDENCE_BYTES]
        events.append(GoneAway(last, frames.word(payload, 4), text))


def _unpadded(payload: bytes) -> bytes:
    padding = payload[0] if payload else 0
    if not payload or padding >= len(payload):
        raise ViolationError("more padding than there is frame")
    return payload[1 : len(payload) - padding]
