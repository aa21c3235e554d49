"""The gRPC exchange: whatever an answer is like, its call has one end that names why."""

from __future__ import annotations

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


def test_later_answers_on_a_connection_are_read_like_the_first() -> None:
    exchange, server = GrpcExchange(HEAD), Server()
    exchange.feed(SETTINGS)
    for number in range(5):
        rpc = exchange.open()
        exchange.write(rpc, b"q", last=True)
        stream = 2 * number + 1
        status = (("grpc-status", "5" if number == 3 else "0"),)
        wire = server.head(stream) + data_frame(stream, message(b"a"))
        events = exchange.feed(wire + server.trailers(stream, status))
        assert events[0] == Message(rpc, b"a")
        assert end_of(events).status == (5 if number == 3 else 0)


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
