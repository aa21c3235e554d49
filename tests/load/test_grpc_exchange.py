"""The gRPC exchange: whatever an answer is like, its call has one end that names why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from http2_frames import (
    GOOD_END,
    GOOD_HEAD,
    HEAD,
    SETTINGS,
    Server,
    data_frame,
    message,
    sent_frames,
)

from kit.load.grpc import frames
from kit.load.grpc.exchange import (
    MESSAGE_BYTES,
    Answered,
    Event,
    GrpcEnded,
    GrpcExchange,
    Message,
    Rpc,
    Written,
)
from kit.load.grpc.frames import Code
from kit.study.result import Outcome


def opened(settings: bytes = SETTINGS, **options: Any) -> tuple[GrpcExchange, Rpc]:
    """An exchange with one unary call open."""
    exchange = GrpcExchange(HEAD)
    assert exchange.feed(settings) == []
    rpc = exchange.open(**options)
    exchange.write(rpc, b"question", last=True)
    return exchange, rpc


def end_of(events: list[Event]) -> GrpcEnded:
    """The last event: the call's only end."""
    ends = [event for event in events if isinstance(event, GrpcEnded)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    return ends[0]


def test_a_unary_call_is_its_head_its_message_and_no_more() -> None:
    exchange = GrpcExchange(HEAD)
    exchange.feed(SETTINGS)
    exchange.out.clear()
    rpc = exchange.open(timeout_ms=250)
    exchange.write(rpc, b"question", last=True)
    (kind, flags, _, block), (_, last, _, data) = sent_frames(bytes(exchange.out))
    assert (kind, flags, last) == (frames.HEADERS, frames.END_HEADERS, frames.END_STREAM)
    assert block.endswith(b"grpc-timeout\x04250m")
    assert data == message(b"question")


def test_messages_are_the_same_wherever_frames_and_reads_are_cut() -> None:
    texts = [b"", b"one", b"x" * 300, b"", b"two"]
    body = b"".join(map(message, texts))
    for size in (1, 3, 4, 5, 6, 100, 1000):
        exchange, rpc = opened()
        server = Server()
        frame_bytes = [data_frame(1, body[i : i + size]) for i in range(0, len(body), size)]
        wire = server.head(1) + b"".join(frame_bytes) + server.trailers(1)
        events = [e for i in range(0, len(wire), size) for e in exchange.feed(wire[i : i + size])]
        assert events == [*(Message(rpc, text) for text in texts), GrpcEnded(rpc, 0, None)]
        assert exchange.open_calls == 0


def flat(events: list[Event]) -> list[tuple[object, ...]]:
    """What the events say, an answer in one as its message and its end."""
    found: list[tuple[object, ...]] = []
    for event in events:
        if isinstance(event, Answered):
            found += [(event.rpc.stream, event.data), (event.rpc.stream, 0, None)]
        elif isinstance(event, Message):
            found.append((event.rpc.stream, event.data))
        elif isinstance(event, GrpcEnded):
            outcome = event.judgement and (event.judgement.outcome, event.judgement.cause)
            found.append((event.rpc.stream, event.status, outcome))
    return found


def good(server: Server, stream: int, text: bytes = b"a") -> bytes:
    return server.head(stream) + data_frame(stream, message(text)) + server.trailers(stream)


def learned() -> tuple[GrpcExchange, Server, Rpc]:
    """A connection on which three answers were good, and a call that was asked."""
    exchange, server = GrpcExchange(HEAD), Server()
    exchange.feed(SETTINGS)
    for stream in (1, 3, 5):
        exchange.ask(b"q")
        exchange.feed(good(server, stream))
    return exchange, server, exchange.ask(b"q")[0]


def test_an_answer_like_the_last_good_ones_is_one_event() -> None:
    exchange, server, rpc = learned()
    (event,) = exchange.feed(good(server, 7, b"the text"))
    assert isinstance(event, Answered)
    assert (event.rpc, event.data) == (rpc, b"the text")
    assert exchange.open_calls == 0
    again, _ = exchange.ask(b"q")
    assert flat(exchange.feed(good(server, again.stream))) == [(9, b"a"), (9, 0, None)]


def test_the_answer_to_a_request_that_is_not_all_sent_resets_its_stream() -> None:
    exchange, server, _ = learned()
    exchange.feed(good(server, 7))
    rpc = exchange.open()  # nothing is sent on it
    exchange.out.clear()
    assert flat(exchange.feed(good(server, rpc.stream))) == [(9, b"a"), (9, 0, None)]
    reset = frames.RST_STREAM, 0, 9, Code.CANCEL.to_bytes(4, "big")
    assert sent_frames(bytes(exchange.out)) == [reset]


def test_the_answer_to_a_slow_reader_is_read_piece_by_piece() -> None:
    exchange, server, rpc = learned()
    exchange.hold(rpc)
    events = exchange.feed(good(server, 7))
    assert not any(isinstance(event, Answered) for event in events)
    assert flat(events) == [(7, b"a"), (7, 0, None)]


def test_an_end_that_has_become_another_is_read_anew() -> None:
    exchange, server, _ = learned()
    before = server.trailers(7)[9:]
    bad = (("grpc-status", "5"),)
    answer = data_frame(7, message(b"a"))
    exchange.feed(server.head(7, (*GOOD_HEAD, ("x", "1"))) + answer + server.trailers(7, bad))
    nine, _ = exchange.ask(b"q")
    exchange.feed(server.head(9) + data_frame(9, message(b"a")) + server.trailers(9, bad))
    eleven, _ = exchange.ask(b"q")
    flags = frames.END_HEADERS | frames.END_STREAM
    end = frames.frame(frames.HEADERS, flags, 11, before)  # the table has other fields there now
    events = exchange.feed(server.head(11) + data_frame(11, message(b"a")) + end)
    assert (nine.stream, eleven.stream) == (9, 11)
    assert end_of(events).judgement is not None


UNLIKE: dict[str, Callable[[Server], bytes]] = {
    "good": lambda s: good(s, 7),
    "another status": lambda s: (
        s.head(7) + data_frame(7, message(b"a")) + s.trailers(7, (("grpc-status", "5"),))
    ),
    "another head": lambda s: (
        s.head(7, ((":status", "200"), ("content-type", "application/grpc+proto")))
        + data_frame(7, message(b"a"))
        + s.trailers(7)
    ),
    "a head without a content-type": lambda s: (
        s.head(7, ((":status", "200"),)) + data_frame(7, message(b"a")) + s.trailers(7)
    ),
    "two messages": lambda s: (
        s.head(7) + data_frame(7, message(b"a")) + data_frame(7, message(b"b")) + s.trailers(7)
    ),
    "two messages in a frame": lambda s: (
        s.head(7) + data_frame(7, message(b"a") + message(b"b")) + s.trailers(7)
    ),
    "half a message": lambda s: s.head(7) + data_frame(7, message(b"abc")[:6]) + s.trailers(7),
    "a compressed one": lambda s: s.head(7) + data_frame(7, b"\1\0\0\0\1a") + s.trailers(7),
    "no data": lambda s: s.head(7) + data_frame(7, b"") + s.trailers(7),
    "no message": lambda s: s.head(7) + s.trailers(7),
    "two heads": lambda s: s.head(7) + good(s, 7),
    "data of another stream": lambda s: s.head(7) + data_frame(9, message(b"a")) + s.trailers(7),
    "the end of another stream": lambda s: s.head(7) + data_frame(7, message(b"a")) + s.trailers(9),
    "a stream that was never opened": lambda s: good(s, 11),
    "too large a frame": lambda s: s.head(7) + data_frame(7, bytes(16385)) + s.trailers(7),
    "an end without its flag": lambda s: (
        s.head(7) + data_frame(7, message(b"a")) + s.head(7, (("grpc-status", "0"),))
    ),
    "a table that has changed": lambda s: (
        s.head(7, (*GOOD_HEAD, ("x", "1"))) + data_frame(7, message(b"a")) + s.trailers(7)
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_connection_that_has_learned_reads_what_is_unlike_as_in_pieces(
    name: str, size: int
) -> None:
    found = []
    for step in (1 << 20, size):
        exchange, server, _ = learned()
        exchange.ask(b"q")
        wire = UNLIKE[name](server) + good(server, 9)
        events = [
            e for at in range(0, len(wire), step) for e in exchange.feed(wire[at : at + step])
        ]
        found.append(flat([*events, *exchange.lost("over")]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("fields", "outcome", "cause"),
    [
        ([("grpc-status", "3"), ("grpc-message", "no%20such%0Ait%C3%A9m")], "http_error", "itém"),
        ([("grpc-status", "4")], "timeout", "DEADLINE_EXCEEDED"),
        ([("grpc-status", "14"), ("grpc-message", "gone")], "reset", "UNAVAILABLE: gone"),
        ([("grpc-status", "99")], "http_error", "status 99"),
        ([("grpc-status", "-1")], "malformed", "without a grpc-status"),
        ([("grpc-status", "9" * 5000)], "malformed", "without a grpc-status"),
        ([("other", "x")], "malformed", "without a grpc-status"),
        ([], "malformed", "without a grpc-status"),
    ],
)
def test_trailers_say_how_a_call_ended(
    fields: list[tuple[str, str]], outcome: str, cause: str
) -> None:
    for trailers_only in (False, True):
        exchange, _ = opened()
        server = Server()
        if trailers_only:
            events = exchange.feed(server.trailers(1, [*GOOD_HEAD, *fields]))
        else:
            events = exchange.feed(server.head(1) + server.trailers(1, fields))
        judgement = end_of(events).judgement
        assert judgement is not None
        assert judgement.outcome.value == outcome
        assert cause in (judgement.cause or "")


def answers() -> dict[str, tuple[bytes, str, str]]:
    """What comes for stream 1, the outcome, and a word of its cause."""
    ok = (":status", "200")
    return {
        "another status": (Server().head(1, [(":status", "503")]), "http_error", "HTTP 503"),
        "html": (Server().head(1, [ok, ("content-type", "text/html")]), "malformed", "gRPC by"),
        "no content type": (Server().head(1, [ok]), "malformed", "content-type"),
        "no status": (Server().head(1, GOOD_HEAD[1:]), "malformed", "without a status"),
        "status of letters": (Server().head(1, [(":status", "ok")]), "malformed", "without a"),
        "data first": (data_frame(1, message(b"x")), "malformed", "before the head"),
        "two heads": (Server().head(1) + Server().head(1), "malformed", "in the middle"),
        "no trailers": (Server().head(1) + data_frame(1, b"", end=True), "malformed", "trailers"),
        "compressed": (Server().head(1) + data_frame(1, b"\1" + bytes(4)), "malformed", "compres"),
        "too large": (
            Server().head(1) + data_frame(1, b"\0\xff\xff\xff\xff"),
            "malformed",
            f"expected at most {MESSAGE_BYTES}",
        ),
        "refused": (frames.rst_stream(1, Code.REFUSED_STREAM), "reset", "REFUSED_STREAM"),
        "cancelled": (frames.rst_stream(1, Code.CANCEL), "reset", "CANCELLED"),
        "an error of no name": (frames.rst_stream(1, 12345), "reset", "error code 12345"),
        "a broken frame": (frames.window_update(0, 0), "malformed", "WINDOW_UPDATE of 0"),
        "going away": (
            frames.frame(frames.GOAWAY, 0, 0, bytes(4) + b"\0\0\0\x0btoo_many_pings"),
            "reset",
            "ENHANCE_YOUR_CALM) too_many_pings",
        ),
    }


@pytest.mark.parametrize("name", answers())
def test_an_answer_that_is_none_ends_its_call_and_names_why(name: str) -> None:
    data, outcome, cause = answers()[name]
    exchange, _ = opened()
    judgement = end_of(exchange.feed(data)).judgement
    assert judgement is not None
    assert judgement.outcome.value == outcome
    assert cause in (judgement.cause or "")
    assert exchange.open_calls == 0
    assert exchange.feed(data_frame(1, b"more")) == []


def test_a_message_that_is_cut_short_is_not_well() -> None:
    exchange, _ = opened()
    server = Server()
    events = exchange.feed(server.head(1) + data_frame(1, message(b"abc")[:-1]))
    assert events == []
    judgement = end_of(exchange.feed(server.trailers(1, GOOD_END))).judgement
    assert judgement is not None
    assert judgement.outcome is Outcome.MALFORMED


def test_a_cancelled_call_is_reset_and_hears_nothing_more() -> None:
    exchange, rpc = opened(owner="me")
    exchange.out.clear()
    exchange.cancel(rpc)
    exchange.cancel(rpc)
    assert sent_frames(bytes(exchange.out)) == [(frames.RST_STREAM, 0, 1, bytes([0, 0, 0, 8]))]
    server = Server()
    late = server.head(1) + data_frame(1, message(b"late")) + server.trailers(1)
    assert exchange.feed(late) == []
    assert rpc.owner is None


def test_a_server_that_ends_a_call_that_goes_on_is_answered_with_a_reset() -> None:
    exchange = GrpcExchange(HEAD)
    exchange.feed(SETTINGS)
    rpc = exchange.open()
    exchange.write(rpc, b"question")
    exchange.out.clear()
    server = Server()
    assert end_of(exchange.feed(server.head(1) + server.trailers(1))).judgement is None
    assert [f[0] for f in sent_frames(bytes(exchange.out))] == [frames.RST_STREAM]
    exchange.write(rpc, b"into nothing")
    assert len(sent_frames(bytes(exchange.out))) == 1


def test_a_request_that_waited_is_said_to_be_written() -> None:
    exchange = GrpcExchange(HEAD)
    exchange.feed(frames.settings([(4, 3)]))
    rpc = exchange.open()
    assert not exchange.write(rpc, b"question", last=True)
    assert exchange.feed(frames.window_update(1, 100)) == [Written(rpc)]


def test_a_lost_connection_ends_every_call() -> None:
    exchange, first = opened()
    second = exchange.open()
    ends = exchange.lost("closed by the server")
    assert [event.rpc for event in ends] == [first, second]
    assert exchange.is_going
    assert exchange.lost("again") == []
