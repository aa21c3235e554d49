"""The gRPC protocol of a client on one HTTP/2 connection; it does no I/O itself.

`open` begins a call, `write` sends a message of it, `feed` takes what came and gives the messages
and ends that this completes. What is to be sent collects in `out`. Whatever a server does ends in
a `GrpcEnded` with a judgement: nothing is raised, and a message has at most MESSAGE_BYTES.

Source: gRPC's doc/PROTOCOL-HTTP2.md.

>>> from kit.load.grpc import frames
>>> from kit.load.grpc.headers import RequestHead
>>> exchange = GrpcExchange(RequestHead([(":method", "POST")]))
>>> exchange.feed(frames.settings([])), exchange.is_ready
([], True)
>>> rpc = exchange.open()
>>> exchange.write(rpc, b"question", last=True)
True
>>> (ended,) = exchange.lost("closed by the server")
>>> ended.judgement.outcome.value, ended.judgement.cause
('reset', 'closed by the server')
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kit.load.answers import Judgement, clipped
from kit.load.grpc.frames import Code, code_name
from kit.load.grpc.headers import Fields, RequestHead, timeout_field
from kit.load.grpc.http2 import Http2
from kit.load.grpc.http2_events import Broken, Data, GoneAway, Head, Ready, Reset, WholeAnswer
from kit.load.grpc.status import code_of, judge_reset, judge_status, message_of
from kit.load.http.dialect import malformed
from kit.study.result import Outcome

#: A message of more than this is not read.
MESSAGE_BYTES: Final = 16 << 20
_PREFIX_BYTES = 5  # of a message: whether it is compressed, and its length


class Rpc:
    """One call; `owner` is whom it concerns, None when that is nobody any more."""

    __slots__ = ("buffer", "headed", "owner", "stream")

    def __init__(self, stream: int, owner: Any) -> None:
        self.stream = stream
        self.owner = owner
        self.headed = False  # the answer's head has come
        self.buffer = bytearray()  # of a message that is not whole


class Message(msgspec.Struct, gc=False):
    """One message of a call's answer."""

    rpc: Rpc
    data: bytes


class GrpcEnded(msgspec.Struct, gc=False):
    """A call is over. judgement: None if gRPC says OK; status: the server's, None if it has none"""

    rpc: Rpc
    status: int | None
    judgement: Judgement | None


class Answered(msgspec.Struct, gc=False):
    """A call is over, and well by gRPC: a `Message` and its `GrpcEnded` in one."""

    rpc: Rpc
    data: bytes


class Written(msgspec.Struct, gc=False):
    """What waited for the server's window is in `out` now."""

    rpc: Rpc


Event = Message | GrpcEnded | Answered | Written


class GrpcExchange:
    """The calls of one connection; each message has its call.

    head: the header fields of every request.
    """

    def __init__(self, head: RequestHead) -> None:
        self._http2 = Http2(head)
        self.out = self._http2.out
        self.failure: Judgement | None = None  # why the connection is over
        self._known_answer = self._http2.known_answer
        self._rpcs: dict[int, Rpc] = {}

    # --- what is sent

    @property
    def is_ready(self) -> bool:
        """The server speaks HTTP/2."""
        return self._http2.is_ready

    @property
    def can_open(self) -> bool:
        """The server takes one more call now."""
        return self._http2.can_open

    @property
    def is_going(self) -> bool:
        """No further call can be opened on this connection."""
        return self.failure is not None or self._http2.is_going

    @property
    def open_calls(self) -> int:
        """How many calls are open."""
        return len(self._rpcs)

    def has(self, rpc: Rpc) -> bool:
        """The call is open."""
        return self._rpcs.get(rpc.stream) is rpc

    def owners(self) -> list[Any]:
        """Whom the open calls concern."""
        return [rpc.owner for rpc in self._rpcs.values() if rpc.owner is not None]

    def open(self, owner: Any = None, timeout_ms: int | None = None) -> Rpc:
        """Begin a call, with a deadline that the server is told if there is one."""
        stream = self._http2.open(b"" if timeout_ms is None else timeout_field(timeout_ms))
        rpc = self._rpcs[stream] = Rpc(stream, owner)
        return rpc

    def ask(
        self, message: bytes, owner: Any = None, timeout_ms: int | None = None
    ) -> tuple[Rpc, bool]:
        """Begin a call with the one message that it sends: the call, and as `write`."""
        fields = b"" if timeout_ms is None else timeout_field(timeout_ms)
        stream, whole = self._http2.ask(fields, _prefixed(message))
        rpc = self._rpcs[stream] = Rpc(stream, owner)
        return rpc, whole

    def write(self, rpc: Rpc, message: bytes, *, last: bool = False) -> bool:
        """Send a message; False: some of it waits for the server (`Written` follows)."""
        return self._http2.send(rpc.stream, _prefixed(message), end=last)

    def close_sending(self, rpc: Rpc) -> None:
        """No more messages follow."""
        self._http2.send(rpc.stream, b"", end=True)

    def cancel(self, rpc: Rpc) -> None:
        """End a call at once, as a client does that no longer wants its answer."""
        rpc.owner = None
        if self._rpcs.pop(rpc.stream, None) is not None:
            self._http2.reset(rpc.stream, Code.CANCEL)

    def hold(self, rpc: Rpc) -> None:
        """Let the server send only as far as `consumed` says that it was read."""
        self._http2.hold(rpc.stream)

    def consumed(self, rpc: Rpc, message: bytes) -> None:
        """A message of a held call was read."""
        self._http2.consumed(rpc.stream, len(message) + _PREFIX_BYTES)

    # --- what is received

    def feed(self, received: bytes) -> list[Event]:
        """Take the next bytes."""
        events: list[Event] = []
        for event in self._http2.feed(received):
            if isinstance(event, Data):
                rpc = self._rpcs.get(event.stream)
                if rpc is None:
                    continue
                data = event.data
                # Mostly a frame is a message.
                if rpc.headed and not rpc.buffer and not event.ended and _is_message(data):
                    events.append(Message(rpc, data[_PREFIX_BYTES:]))
                else:
                    self._take_data(rpc, data, event.ended, events)
            elif isinstance(event, WholeAnswer):
                self._take_answer(event, events)
            elif isinstance(event, Head):
                rpc = self._rpcs.get(event.stream)
                if rpc is not None:
                    self._take_head(rpc, event.fields, event.ended, events)
            elif isinstance(event, Reset):
                rpc = self._rpcs.get(event.stream)
                if rpc is not None:
                    self._end(rpc, *judge_reset(event.code), events)
            elif isinstance(event, GoneAway):
                self._go_away(event, events)
            elif isinstance(event, Broken):
                judgement = malformed(f"the HTTP/2 of the server: {event.cause}", event.evidence)
                self._end_all(judgement, events)
            elif not isinstance(event, Ready):
                rpc = self._rpcs.get(event.stream)
                if rpc is not None:
                    events.append(Written(rpc))
        return events

    def lost(self, how: str) -> list[Event]:
        """The connection is over."""
        events: list[Event] = []
        self._end_all(Judgement(Outcome.RESET, clipped(how)), events)
        return events

    def _take_answer(self, answer: WholeAnswer, events: list[Event]) -> None:
        rpc, data = self._rpcs.get(answer.stream), answer.data
        if rpc is None:
            return
        if not rpc.headed and _is_message(data):
            del self._rpcs[answer.stream]
            events.append(Answered(rpc, data[_PREFIX_BYTES:]))
            return
        if not rpc.headed:
            rpc.headed = True
            self._take_data(rpc, data, False, events)
        else:
            what = "header fields in the middle of an answer"
            self._spoil(rpc, malformed(what, repr(self._known_answer.head).encode()), events)
        if self._rpcs.get(answer.stream) is rpc:
            self._take_trailers(rpc, self._known_answer.end, events)

    def _take_data(self, rpc: Rpc, data: bytes, ended: bool, events: list[Event]) -> None:
        if not rpc.headed:
            self._spoil(rpc, malformed("data before the head of the answer", data), events)
            return
        buffer = rpc.buffer
        buffer += data
        while len(buffer) >= _PREFIX_BYTES:
            size = int.from_bytes(buffer[1:5], "big")
            if buffer[0] != 0 or size > MESSAGE_BYTES:
                what = (
                    f"a message with the flags {buffer[0]}; none was allowed to be compressed"
                    if buffer[0] != 0
                    else f"a message of {size} bytes; expected at most {MESSAGE_BYTES}"
                )
                self._spoil(rpc, malformed(what, bytes(buffer[:1000])), events)
                return
            if len(buffer) < _PREFIX_BYTES + size:
                break
            events.append(Message(rpc, bytes(buffer[_PREFIX_BYTES : _PREFIX_BYTES + size])))
            del buffer[: _PREFIX_BYTES + size]
        if ended:
            self._spoil(rpc, malformed("an answer that ends without trailers", data), events)

    def _take_head(self, rpc: Rpc, fields: Fields, ended: bool, events: list[Event]) -> None:
        if not ended and not rpc.headed:
            if fields is not self._known_answer.head:
                values = dict(fields)
                status = values.get(b":status", b"")
                if len(status) == 3 and status[:1] == b"1":
                    return  # an interim answer
                problem = _problem_of_head(values)
                if problem is not None:
                    self._spoil(rpc, problem, events)
                    return
                self._known_answer.head = fields
            rpc.headed = True
        elif not ended:
            what = "header fields in the middle of an answer"
            self._spoil(rpc, malformed(what, repr(fields).encode()), events)
        elif fields is self._known_answer.end and rpc.headed and not rpc.buffer:
            self._end(rpc, 0, None, events)
        else:
            self._take_trailers(rpc, fields, events)

    def _take_trailers(self, rpc: Rpc, fields: Fields, events: list[Event]) -> None:
        values = dict(fields)
        problem = None if rpc.headed else _problem_of_head(values)
        status = code_of(values.get(b"grpc-status", b""))
        if status is None:
            what = "trailers without a grpc-status"
            self._end(rpc, None, problem or malformed(what, repr(fields).encode()), events)
            return
        judgement = judge_status(status, message_of(values.get(b"grpc-message", b"")))
        if judgement is None and rpc.buffer:
            judgement = malformed("a message that is cut short", bytes(rpc.buffer[:1000]))
        elif judgement is None and rpc.headed:
            self._known_answer.expect_end(fields)
        self._end(rpc, status, judgement, events)

    def _go_away(self, event: GoneAway, events: list[Event]) -> None:
        text = event.text.decode("utf-8", "backslashreplace")
        cause = f"not taken: the server is going away ({code_name(event.code)}) {text}".rstrip()
        for rpc in [rpc for stream, rpc in self._rpcs.items() if stream > event.last]:
            self._end(rpc, None, Judgement(Outcome.RESET, clipped(cause)), events)

    # --- ends

    def _spoil(self, rpc: Rpc, judgement: Judgement, events: list[Event]) -> None:
        """The answer is none; the rest of it is not read."""
        self._http2.reset(rpc.stream, Code.PROTOCOL_ERROR)
        self._end(rpc, None, judgement, events)

    def _end(
        self, rpc: Rpc, status: int | None, judgement: Judgement | None, events: list[Event]
    ) -> None:
        del self._rpcs[rpc.stream]
        if self._http2.has(rpc.stream):  # this side of it is still open
            self._http2.reset(rpc.stream, Code.CANCEL)
        events.append(GrpcEnded(rpc, status, judgement))

    def _end_all(self, judgement: Judgement, events: list[Event]) -> None:
        if self.failure is None:
            self.failure = judgement
        for rpc in list(self._rpcs.values()):
            self._end(rpc, None, judgement, events)


def _prefixed(message: bytes) -> bytes:
    """A message that is not compressed, as it is sent."""
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


def _is_message(data: bytes) -> bool:
    """It is one message that is not compressed, and nothing else."""
    rest = len(data) - _PREFIX_BYTES
    return rest >= 0 and data.startswith(b"\0" + rest.to_bytes(4, "big"))


def _problem_of_head(values: dict[bytes, bytes]) -> Judgement | None:
    """What is wrong with the head of an answer; None: nothing."""
    status, kind = values.get(b":status", b""), values.get(b"content-type", b"")
    if status != b"200":
        text = status.decode("ascii", "backslashreplace")
        if not status.isdigit():
            return malformed("an answer without a status", repr(values).encode())
        return Judgement(Outcome.HTTP_ERROR, clipped(f"HTTP {text} instead of gRPC"))
    if not kind.startswith(b"application/grpc"):
        return malformed("an answer that is not gRPC by its content-type", repr(values).encode())
    return None
