"""A gRPC client: what it does on the wire, and that each call has one end whatever comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from effort import many
from http2_frames import SETTINGS, Server, data_frame, message, sent_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from load_helpers import workload
from scripted_server import right_text
from tritonclient.grpc import service_pb2 as pb

from kit.load.answers import Judgement
from kit.load.grpc import frames
from kit.load.grpc.channel import GrpcChannel
from kit.load.grpc.codec import Infer
from kit.load.grpc.connection import SharedConnection
from kit.load.grpc.frames import Code, Setting
from kit.load.grpc.target import GrpcTarget, grpc_target
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.traffic import Traffic
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, Endpoint, Fault, FaultKind, fixed


class FakeLink:
    """A link that keeps what is sent; `receiver` is the connection."""

    has_kernel_clock = True

    def __init__(self, receiver: Any, by_tls: str | None) -> None:
        self.receiver = receiver
        self.by_tls = by_tls
        self.writes: list[bytes] = []
        self.unsent = False
        self.is_open = True

    def send(self, data: bytes) -> None:
        if not self.is_open:
            raise BrokenPipeError("broken pipe")
        self.writes.append(data)

    def narrow(self, receive_bytes: int) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.is_open = False


class FakeLinks:
    """Connections to nobody; error: what connecting raises."""

    def __init__(self) -> None:
        self.made: list[FakeLink] = []
        self.error: OSError | None = None
        self.by_tls: str | None = None

    async def open(self, receiver: Any, host: str, port: int, tls: Any) -> FakeLink:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.made.append(FakeLink(receiver, self.by_tls))
        return self.made[-1]


class World:
    """A client's channels on one line, and the server at its other end, played by the test."""

    def __init__(self, *, streams: bool = True, tls: bool = False, clients: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        self.now_ns = 1_000_000_000
        self.ended_calls: list[tuple[Call, Judgement]] = []
        self.links = FakeLinks()
        self.server = Server()
        codec = Infer("m", streams=streams, extra={})
        target: GrpcTarget = grpc_target(Endpoint(grpc_port=1, tls=tls), {}, codec.method)
        line = SharedConnection(self, self.links, target)  # type: ignore[arg-type]
        self.line = line
        self.channels = [
            GrpcChannel(self, line, codec, AnswerCheck.EXACT)  # type: ignore[arg-type]
            for _ in range(clients)
        ]
        self.channel = self.channels[0]
        self._numbers = iter(range(1000))

    def clock(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def ended(self, channel: Any, call: Call, judgement: Judgement) -> None:
        assert channel.call is None
        self.ended_calls.append((call, judgement))

    def run(self) -> None:
        """Let the event loop do what is due."""
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))

    def call(self, fault: Fault | None = None) -> Call:
        load = workload(faults=() if fault is None else (fault,))
        return Traffic(load).call(next(self._numbers))

    def send(self, fault: Fault | None = None, channel: GrpcChannel | None = None) -> Call:
        call = self.call(fault)
        (channel or self.channel).send(call)
        self.run()
        return call

    @property
    def link(self) -> FakeLink:
        return self.links.made[-1]

    def answer(self, *data: bytes) -> None:
        """Bytes of the server on the newest connection."""
        self.now_ns += 1000
        self.link.receiver.received(b"".join(data), self.now_ns)
        self.run()

    def sent(self, link: FakeLink | None = None) -> list[tuple[int, int, int, bytes]]:
        """The frames of requests and resets that were sent on a connection."""
        kinds = (frames.HEADERS, frames.DATA, frames.RST_STREAM)
        every = sent_frames(b"".join((link or self.link).writes))
        return [frame for frame in every if frame[0] in kinds]

    def outcome(self) -> tuple[str, str]:
        """Of the call that ended last."""
        judgement = self.ended_calls[-1][1]
        return judgement.outcome.value, judgement.cause or ""


@pytest.fixture
def world() -> Any:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for one in made:
        for channel in one.channels:
            channel.abandon()
        one.line.break_off()
        one.run()
        one.loop.close()


Make = Callable[..., World]


def response(text: str | None, *, final: bool, stream: bool = True) -> bytes:
    """A framed response of Triton's."""
    infer = pb.ModelInferResponse(model_name="m")
    infer.parameters["triton_final_response"].bool_param = final
    if text is not None:
        infer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        infer.raw_output_contents.append(len(text).to_bytes(4, "little") + text.encode())
    whole = pb.ModelStreamInferResponse(infer_response=infer) if stream else infer
    return message(whole.SerializeToString())


def right(call: Call) -> list[bytes]:
    """The framed responses of a right answer."""
    pieces = right_text(call.text.decode(), call.output_tokens)
    return [response(piece, final=number == len(pieces) - 1) for number, piece in enumerate(pieces)]


def data(stream: int, parts: list[bytes]) -> bytes:
    return b"".join(data_frame(stream, part) for part in parts)


def test_a_streams_head_goes_before_its_message_and_the_next_request_on_the_same_stream(
    world: Make,
) -> None:
    w = world()
    first = w.send()
    w.answer(SETTINGS)
    assert [sent_frames(write)[-1][0] for write in w.link.writes[-2:]] == [1, 0]
    w.answer(w.server.head(1), data(1, right(first)))
    second = w.send()
    w.answer(data(1, right(second)))
    assert [judgement.outcome.value for _, judgement in w.ended_calls] == ["ok", "ok"]
    assert [(kind, stream) for kind, _, stream, _ in w.sent()] == [(1, 1), (0, 1), (0, 1)]
    assert first.tokens == len(first.token_ns or ()) == 5
    assert first.begun_ns < first.sent_ns < first.first_ns <= first.end_ns
    assert first.has_kernel_clock


def test_a_unary_request_is_one_write(world: Make) -> None:
    w = world(streams=False)
    w.send()
    w.answer(SETTINGS)
    assert [frame[0] for frame in sent_frames(w.link.writes[-1])][-2:] == [1, 0]
    call = w.ended_calls or w.channel.call
    text = "".join(right_text(call.text.decode(), 5))  # type: ignore[union-attr]
    body = data_frame(1, response(text, final=True, stream=False))
    w.answer(w.server.head(1), body, w.server.trailers(1))
    assert w.outcome() == ("ok", "")


def test_a_cancelled_call_has_a_stream_of_its_own_that_is_reset(world: Make) -> None:
    w = world()
    plain = w.send()
    w.answer(
        SETTINGS,
    )
    w.answer(w.server.head(1), data(1, right(plain)))
    call = w.send(Fault(kind=FaultKind.CANCEL, after=fixed(2)))
    w.answer(w.server.head(3), data(3, right(call)[:2]))
    assert w.outcome() == ("disconnected", "left after 2 tokens")
    assert w.sent()[-1] == (frames.RST_STREAM, 0, 3, bytes([0, 0, 0, Code.CANCEL]))
    again = w.send()
    assert w.sent()[-1][:3] == (frames.DATA, 0, 1), "the kept stream goes on"
    w.answer(data(3, right(call)[2:]), data(1, right(again)))
    assert w.outcome() == ("ok", "")


def test_a_client_that_goes_away_resets_and_closes_and_the_next_call_connects_anew(
    world: Make,
) -> None:
    w = world()
    call = w.send(Fault(kind=FaultKind.DISCONNECT, after=fixed(1)))
    w.answer(SETTINGS)
    w.answer(w.server.head(1), data(1, right(call)[:1]))
    assert w.outcome() == ("disconnected", "left after 1 tokens")
    (left,) = w.links.made
    assert not left.is_open
    assert w.sent(left)[-1][0] == frames.RST_STREAM
    w.send()
    assert len(w.links.made) == 2


def test_a_deadline_is_told_in_whole_milliseconds_and_kept_by_the_client(world: Make) -> None:
    w = world(streams=False)
    w.now_ns = 5_000_400_000
    w.channel.send(w.call(Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(0.0017))))
    w.run()
    w.answer(SETTINGS)
    head = next(frame for frame in w.sent() if frame[0] == frames.HEADERS)
    assert head[3].endswith(b"grpc-timeout\x023m"), "2.1 ms of the clock's millisecond, rounded up"
    w.now_ns += 10_000_000
    w.loop.run_until_complete(asyncio.sleep(0.05))
    assert w.outcome()[0] == "timeout"
    assert "DEADLINE_EXCEEDED" in w.outcome()[1]
    assert w.sent()[-1][0] == frames.RST_STREAM


def test_a_server_that_cancels_after_the_deadline_kept_it(world: Make) -> None:
    w = world(streams=False)
    w.send(Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(60.0)))
    w.answer(SETTINGS)
    w.now_ns += 61_000_000_000
    w.answer(frames.rst_stream(1, Code.CANCEL))
    assert w.outcome()[0] == "timeout"


def test_a_half_open_call_sends_its_head_alone(world: Make) -> None:
    w = world()
    w.send(Fault(kind=FaultKind.HALF_OPEN))
    w.answer(SETTINGS)
    assert [frame[0] for frame in w.sent()] == [frames.HEADERS]
    w.channel.expire()
    assert w.outcome() == ("disconnected", "opened a stream, sent nothing")


def test_what_cannot_be_reached_refuses(world: Make) -> None:
    w = world()
    w.links.error = ConnectionRefusedError(111, "Connection refused")
    call = w.send()
    assert w.outcome()[0] == "refused"
    assert "refused" in w.outcome()[1].lower()
    assert call.sent_ns == NEVER


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b"220 smtp\r\n\r\n"],
)
def test_a_server_that_does_not_speak_http2_refuses(world: Make, said: bytes) -> None:
    w = world()
    w.send()
    w.link.receiver.received(said, 1)
    if len(said) < 9:
        w.link.receiver.lost(None)
    assert w.outcome()[0] == "refused"
    assert not w.link.is_open or len(said) < 9


def test_over_tls_the_server_must_choose_http2(world: Make) -> None:
    w = world(tls=True)
    w.links.by_tls = "http/1.1"
    w.send()
    assert w.outcome() == ("refused", "the server speaks http/1.1 over TLS, not h2")
    w.links.by_tls = "h2"
    w.send()
    w.answer(SETTINGS)
    assert w.sent()


def test_a_connection_that_closes_resets_what_was_open_and_is_not_used_again(world: Make) -> None:
    w = world(clients=3)
    for channel in w.channels:
        w.send(channel=channel)
    w.answer(SETTINGS)
    assert len(w.links.made) == 1
    w.link.receiver.lost(ConnectionResetError(104, "Connection reset by peer"))
    assert [judgement.outcome for _, judgement in w.ended_calls] == [Outcome.RESET] * 3
    w.send()
    assert len(w.links.made) == 2


def test_a_write_into_a_broken_connection_is_a_reset(world: Make) -> None:
    w = world()
    first = w.send()
    w.answer(SETTINGS)
    w.answer(w.server.head(1), data(1, right(first)))
    w.link.is_open = False
    call = w.send()
    assert w.outcome() == ("reset", "while sending: broken pipe")
    assert call.sent_ns == NEVER


def test_after_goaway_open_calls_go_on_and_the_next_ones_connect_anew(world: Make) -> None:
    w = world(clients=2)
    call = w.send()
    w.answer(SETTINGS)
    old = w.link
    w.answer(frames.frame(frames.GOAWAY, 0, 0, b"\0\0\0\1" + bytes(4)))
    w.send(channel=w.channels[1])
    assert len(w.links.made) == 2
    old.receiver.received(w.server.head(1) + data(1, right(call)), w.clock())
    assert w.outcome() == ("ok", "")


def test_calls_wait_while_the_server_takes_no_more(world: Make) -> None:
    w = world(clients=3)
    for channel in w.channels:
        w.send(Fault(kind=FaultKind.CANCEL, after=fixed(1)), channel=channel)
    w.answer(frames.settings([(Setting.MAX_CONCURRENT_STREAMS, 2)]))
    assert [f[2] for f in w.sent() if f[0] == frames.HEADERS] == [1, 3]
    w.answer(frames.rst_stream(1, Code.REFUSED_STREAM))
    assert [f[2] for f in w.sent() if f[0] == frames.HEADERS] == [1, 3, 5]
    w.channels[2].expire()
    assert w.outcome()[0] == "timeout"


def test_a_message_that_nobody_asked_for_is_the_next_requests(world: Make) -> None:
    w = world()
    first = w.send()
    w.answer(SETTINGS)
    w.answer(w.server.head(1), data(1, right(first)))
    w.answer(data(1, [response(" stray", final=True)]))
    w.send()
    assert w.outcome()[0] == "wrong_answer"


def test_an_answer_without_end_is_cut_off(world: Make) -> None:
    w = world()
    w.send()
    w.answer(SETTINGS)
    w.answer(w.server.head(1))
    for _ in range(2000):
        w.answer(data_frame(1, response("x" * 5000, final=False)) * 3)
        if w.ended_calls:
            break
    assert "reading stopped" in w.outcome()[1]
    assert w.sent()[-1][0] == frames.RST_STREAM


def test_a_slow_reader_gives_the_window_back_as_it_reads(world: Make) -> None:
    w = world()
    call = w.send(Fault(kind=FaultKind.SLOW_READER, bytes_per_s=1e9))
    w.answer(SETTINGS)
    w.answer(w.server.head(1), data(1, right(call)), w.server.trailers(1))
    deadline = w.loop.time() + 20
    while not w.ended_calls and w.loop.time() < deadline:
        w.loop.run_until_complete(asyncio.sleep(0.001))
    assert w.outcome() == ("ok", "")
    assert call.token_ns == sorted(set(call.token_ns or ())), "each was read by itself"


@pytest.mark.slow
def test_a_server_that_reads_nothing_of_what_it_is_owed_is_left(world: Make) -> None:
    w = world()
    w.send()
    w.answer(SETTINGS)
    w.link.unsent = True
    written = len(w.link.writes)
    flood = frames.frame(frames.PING, 0, 0, bytes(8)) * 5000 + data_frame(1, b"\0")
    w.answer(w.server.head(1))
    for _ in range(300):
        w.link.receiver.received(flood, w.clock())
        if w.ended_calls:
            break
    assert w.outcome() == ("reset", "the server takes nothing of what it is owed")
    assert len(w.link.writes) == written


def test_what_the_kernel_holds_back_is_sent_when_it_takes_it(world: Make) -> None:
    w = world()
    first = w.send()
    w.answer(SETTINGS)
    w.answer(w.server.head(1), data(1, right(first)))
    w.link.unsent = True
    second = w.send()
    before = len(w.sent())
    given_ns = second.sent_ns
    w.link.unsent = False
    w.link.receiver.written()
    assert len(w.sent()) == before + 1
    assert second.sent_ns > given_ns


@pytest.mark.slow
@settings(deadline=None, max_examples=many(30, 20_000))
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                ["head", "token", "end", "reset", "goaway", "lost", "send", "settings"]
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([None, FaultKind.CANCEL, FaultKind.DISCONNECT, FaultKind.HALF_OPEN]),
    st.booleans(),
)
def test_whatever_a_server_does_each_call_has_one_end(
    script: list[bytes | str], fault: FaultKind | None, streams: bool
) -> None:
    w = World(streams=streams)
    after = fixed(1) if fault in (FaultKind.CANCEL, FaultKind.DISCONNECT) else None
    plan = None if fault is None else Fault(kind=fault, after=after)
    sent = [w.send(plan)]
    steps = {
        "settings": SETTINGS,
        "token": data_frame(1, response(" x", final=False)),
        "reset": frames.rst_stream(1, 2),
        "goaway": frames.frame(frames.GOAWAY, 0, 0, bytes(8)),
    }
    w.answer(SETTINGS)
    for step in script:
        if step == "send":
            if w.channel.call is None:
                sent.append(w.send(plan))
        elif step == "lost":
            if w.link.is_open:
                w.link.is_open = False
                w.link.receiver.lost(None)
        elif w.link.is_open:
            if step in ("head", "end"):
                w.answer(w.server.head(1) if step == "head" else w.server.trailers(1))
            else:
                w.answer(steps[step] if isinstance(step, str) else step)
    w.channel.expire()
    assert [call for call, _ in w.ended_calls] == sent
    assert all(judgement.outcome for _, judgement in w.ended_calls)
    w.line.break_off()
    w.run()
    w.loop.close()
