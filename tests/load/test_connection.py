"""The HTTP exchange: each answer, however it comes, has one outcome; nothing is ever raised."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_helpers import workload
from scripted_server import answer, asked, chunk, event, right_text

from kit.load.answers import Judgement
from kit.load.http.connection import Connection
from kit.load.http.exchange import WELL, Ended, Exchange, Unasked
from kit.load.http.generate import Generate
from kit.load.http.layout import ResponseLayout
from kit.load.http.parser import LARGEST_HEAD_BYTES
from kit.load.http.target import http_target
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import Traffic
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, Endpoint, Fault, FaultKind, Protocol, fixed

BAD = {Outcome.MALFORMED, Outcome.WRONG_ANSWER, Outcome.HTTP_ERROR, Outcome.RESET}


class FakeLink:
    """A link that keeps what is sent."""

    has_kernel_clock = False

    def __init__(self) -> None:
        self.sent = b""
        self.unsent = False
        self.aborted = self.paused = False
        self.receive_bytes: int | None = None

    def send(self, data: bytes) -> None:
        self.sent += data

    def narrow(self, receive_bytes: int) -> None:
        self.receive_bytes = receive_bytes

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True


#: Where faults put off what they do; it never runs.
LOOP = asyncio.new_event_loop()


def teardown_module() -> None:
    LOOP.close()


class Client:
    """One connection with a clock of ours, without a network: each look at it is a step later."""

    def __init__(
        self, protocol: Protocol, check: AnswerCheck = AnswerCheck.EXACT, **changes: Any
    ) -> None:
        load = workload(protocol=protocol, answer_check=check, **changes)
        streams = protocol is Protocol.HTTP_GENERATE_STREAM
        self.dialect = Generate(
            http_target(Endpoint(http_port=1), {}), "m", streams=streams, extra={}
        )
        self.layout = ResponseLayout()
        self.traffic = Traffic(load)
        self.endings: list[tuple[Call, Judgement]] = []
        self.call: Any = None
        self.link = FakeLink()
        self.clock = count(1).__next__
        self.connection = Connection(
            Exchange(self.dialect, check, self.layout),
            LOOP if changes.get("faults") else None,  # type: ignore[arg-type]
            self.clock,
            self._on_end,
            lambda call: self._on_end(call, WELL),
            lambda connection: None,
            shows_tokens=streams,
        )
        self.connection.link = self.link

    def _on_end(self, call: Call, ended: Ended) -> None:
        self.endings.append((call, ended.judgement))
        if not ended.reusable:
            self.connection.abort()

    def send(self, number: int = 0) -> bytes:
        """Send a request; what the server gets."""
        self.call = self.traffic.call(number)
        if self.dialect.streams:
            self.call.stream()
        self.link.sent = b""
        self.connection.begin(self.call)
        return self.link.sent

    def receive(self, data: bytes) -> None:
        self.connection.received(data, self.clock())

    def answer(
        self, pieces: list[bytes], *, then_close: bool = False, flushes: Iterable[int] = ()
    ) -> Outcome | None:
        """The outcome of an answer that comes in these pieces.

        flushes: after which of them what was put off is read, as a run does now and then.
        """
        for place, piece in enumerate(pieces):
            if piece and not self.connection.closed:
                self.receive(piece)
            if place in flushes:
                self.connection.flush()
        if then_close and not self.connection.closed:
            self.connection.lost(None)
        assert len(self.endings) <= 1
        return self.endings.pop()[1].outcome if self.endings else None


@pytest.fixture
def client() -> Client:
    return Client(Protocol.HTTP_GENERATE)


def whole(request: bytes, *, framing: str = "length") -> bytes:
    """The right answer to a generate request."""
    prompt, tokens = asked(request.partition(b"\r\n\r\n")[2])
    text = "".join(right_text(prompt, tokens))
    body = json.dumps({"model_name": "m", "text_output": text}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if framing == "length":
        return answer(body)
    if framing == "close":
        return head + b"Connection: close\r\n\r\n" + body
    pieces = b"".join(chunk(body[i : i + 7]) for i in range(0, len(body), 7))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


def stream(request: bytes, *, a_chunk: int = 1) -> bytes:
    """The right answer to a generate_stream request, `a_chunk` events a chunk."""
    prompt, tokens = asked(request.partition(b"\r\n\r\n")[2])
    events = [event(piece) for piece in right_text(prompt, tokens)]
    groups = [b"".join(events[i : i + a_chunk]) for i in range(0, len(events), a_chunk)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    body = b"".join(map(chunk, groups))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


PLACES = st.lists(st.integers(0, 2000), max_size=8)
FLUSHES = st.sets(st.integers(0, 8))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(PLACES, st.sampled_from(["length", "chunked", "close"]))
def test_a_right_answer_is_right_however_it_is_cut(places: list[int], framing: str) -> None:
    one = Client(Protocol.HTTP_GENERATE)
    data = whole(one.send(), framing=framing)
    assert one.answer(cut(data, places), then_close=framing == "close") is Outcome.OK


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(PLACES, st.integers(1, 5), FLUSHES)
def test_a_right_stream_is_right_however_it_is_cut_and_flushed(
    places: list[int], a_chunk: int, flushes: set[int]
) -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    data = stream(one.send(), a_chunk=a_chunk)
    call = one.call
    assert one.answer(cut(data, places), flushes=flushes) is Outcome.OK
    assert call.tokens == len(call.token_ns) == 5
    assert call.token_ns == sorted(call.token_ns)
    assert call.received_bytes == len(data)


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from([Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM]),
    st.integers(0, 3000),
    st.binary(max_size=4),
    st.integers(0, 6),
    PLACES,
    FLUSHES,
)
def test_a_damaged_answer_has_one_outcome_and_is_right_only_if_its_text_is(
    protocol: Protocol, at: int, damage: bytes, removed: int, places: list[int], flushes: set[int]
) -> None:
    one = Client(protocol)
    request = one.send()
    good = whole(request) if protocol is Protocol.HTTP_GENERATE else stream(request)
    at %= len(good) + 1
    bad = good[:at] + damage + good[at + removed :]
    outcome = one.answer(cut(bad, places), then_close=True, flushes=flushes)
    assert outcome in BAD | {Outcome.OK}
    if outcome is Outcome.OK:
        prompt, tokens = asked(request.partition(b"\r\n\r\n")[2])
        for piece in right_text(prompt, tokens):  # what was damaged was not the text
            assert json.dumps(piece)[1:-1].encode() in bad


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), PLACES)
def test_garbage_has_one_outcome(garbage: bytes, places: list[int]) -> None:
    one = Client(Protocol.HTTP_GENERATE)
    one.send()
    assert one.answer(cut(garbage, places), then_close=True) in BAD


def test_an_answer_like_a_known_one_is_not_parsed_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = whole(client.send(0))
    assert client.answer([good]) is Outcome.OK
    alike = next(
        number
        for number in range(1, 500)
        if len(client.traffic.call(number).prompt) == len(client.traffic.call(0).prompt)
    )
    following = whole(client.send(alike))
    monkeypatch.setattr(client.dialect, "read_body", None)  # would fail if it were asked
    assert client.answer([following]) is Outcome.OK


@pytest.mark.parametrize("wrong", [b"5", b"", b"40", b'4","more":"'])
def test_an_answer_that_differs_in_one_token_from_a_known_one_is_not_taken_for_it(
    client: Client, wrong: bytes
) -> None:
    assert client.answer([whole(client.send(0))]) is Outcome.OK
    body = whole(client.send(0)).partition(b"\r\n\r\n")[2]
    at = body.rindex(b":4") + 1
    outcome = client.answer([answer(body[:at] + wrong + body[at + 1 :])])
    assert outcome is (Outcome.OK if b'"' in wrong else Outcome.WRONG_ANSWER)


def test_the_answer_to_another_request_is_wrong_with_evidence(client: Client) -> None:
    first = whole(client.send(0))
    assert client.answer([first]) is Outcome.OK
    client.send(1)
    client.receive(first)
    call, judgement = client.endings.pop()
    nonce = re.search(rb"\[n:(\w+)\]", first)
    assert nonce
    assert judgement.outcome is Outcome.WRONG_ANSWER
    assert judgement.cause == f"the answer belongs to another request (nonce {nonce[1].decode()})"
    assert judgement.evidence is not None
    assert call.digits.decode() in judgement.evidence
    assert len(judgement.evidence) <= 500


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda pieces: pieces[:3], "truncated: 3 of 5 tokens"),
        (lambda pieces: [*pieces, pieces[-1]], "duplicated tokens"),
        (lambda pieces: [*pieces[:2], pieces[3], pieces[2], pieces[4]], "tokens out of order"),
        (lambda pieces: [*pieces[:2], *pieces[3:]], "missing tokens: 4 of 5, with gaps"),
        (
            lambda pieces: [*pieces[:4], " 00000000:4"],
            "tokens of another request (nonce 00000000)",
        ),
    ],
)
def test_a_wrong_stream_says_in_what_way_it_is_wrong(damage: Any, cause: str) -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    prompt, tokens = asked(one.send().partition(b"\r\n\r\n")[2])
    events = b"".join(event(piece) for piece in damage(right_text(prompt, tokens)))
    one.receive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(events))
    one.receive(events)
    _, judgement = one.endings.pop()
    assert (judgement.outcome, judgement.cause) == (Outcome.WRONG_ANSWER, cause)


def test_an_event_is_stamped_when_it_came_though_only_its_length_came_before() -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    head, *chunks = stream(one.send()).split(b"\r\n\r\n", 1)
    lines = chunks[0].split(b"\r\n")
    first, length, rest = lines[:2], lines[2], lines[3:]
    one.answer([head + b"\r\n\r\n" + b"\r\n".join([*first, b""])])
    call = one.call
    one.answer([length + b"\r\n", b"\r\n".join([*rest[:3], b""])])
    one.connection.flush()
    assert len(call.token_ns) == 3
    assert call.token_ns[0] < call.token_ns[1] == call.token_ns[2]
    assert one.answer([b"\r\n".join(rest[3:])]) is Outcome.OK


def test_each_event_has_the_time_of_the_read_that_it_came_in_however_late_it_is_parsed() -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    head, _, body = stream(one.send(), a_chunk=1).partition(b"\r\n\r\n")
    chunks = [b"%b\n\n\r\n" % part for part in body.split(b"\n\n\r\n")[:-1]]
    call = one.call
    one.connection.received(head + b"\r\n\r\n", 10)
    # One event, two in one read, one.
    for data, now_ns in ((chunks[0], 20), (chunks[1] + chunks[2], 30), (chunks[3], 40)):
        one.connection.received(data, now_ns)
    assert call.tokens == 0, "nothing is parsed before it must be"
    one.connection.flush()
    assert call.token_ns == [20, 30, 30, 40]
    one.connection.received(chunks[4], 50)
    one.connection.received(b"0\r\n\r\n", 60)  # the end is not put off
    assert [judgement.outcome for _, judgement in one.endings] == [Outcome.OK]
    assert (call.token_ns[-1], call.first_ns, call.end_ns) == (50, 20, 60)


@pytest.mark.parametrize(
    "end", [b"0\r\n\r\n", b"0;last\r\n\r\n", b"0\r\nX-Tokens: 5\r\n\r\n"], ids=repr
)
def test_no_end_of_a_stream_is_put_off(end: bytes) -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    whole_stream = stream(one.send()).removesuffix(b"0\r\n\r\n")
    one.answer([whole_stream[:200]])  # in the middle from now on
    assert one.answer([whole_stream[200:] + end]) is Outcome.OK


def test_what_is_no_http_in_put_off_reads_is_malformed() -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    data = stream(one.send())
    at = data.index(b"\n\n\r\n") + 4
    one.connection.received(data[:at], 10)
    one.connection.received(b"no chunk\n\n\r\n", 20)
    one.connection.received(data[at:-5], 30)
    one.connection.flush()
    [(call, judgement)] = one.endings
    assert judgement.outcome is Outcome.MALFORMED
    assert "not HTTP/1.1" in (judgement.cause or "")
    assert call.end_ns == 20


def test_a_stream_that_repeats_its_text_so_far_is_right() -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM)
    prompt, tokens = asked(one.send().partition(b"\r\n\r\n")[2])
    pieces = right_text(prompt, tokens)
    events = b"".join(event("".join(pieces[: n + 1])) for n in range(len(pieces)))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(events)
    assert one.answer([head + events]) is Outcome.OK


def so_far(pieces: list[str]) -> list[str]:
    """The same answer by a server that repeats its text so far in each event."""
    return ["".join(pieces[: n + 1]) for n in range(len(pieces))]


def judged(
    texts: Callable[[list[str]], list[str]],
    *,
    tokens: int = 5,
    check: AnswerCheck = AnswerCheck.EXACT,
) -> Judgement:
    """What is made of a stream whose events carry what `texts` makes of the right pieces."""
    one = Client(Protocol.HTTP_GENERATE_STREAM, check, output_tokens=fixed(tokens))
    prompt, asked_for = asked(one.send().partition(b"\r\n\r\n")[2])
    assert asked_for == tokens
    events = b"".join(event(text) for text in texts(right_text(prompt, tokens)))
    one.receive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(events))
    one.receive(events)
    return one.endings.pop()[1]


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda whole: [*whole[:2], *whole[1:]], "duplicated: event 3 says the same"),
        (lambda whole: [whole[0], *whole], "duplicated: event 2 says the same"),
        (lambda whole: [*whole, whole[-1]], "duplicated: event 6 says the same"),
        (lambda whole: [*whole[:1], *whole[2:]], "event 2 does not say 2 tokens"),
        (lambda whole: whole[1:], "event 1 does not say 1 tokens"),
        (lambda whole: [whole[0][:-2], *whole], "event 1 does not say 1 tokens"),
        (lambda whole: whole[:-1], "truncated: 4 of 5 tokens"),
        (lambda whole: [*whole, whole[-1] + " more"], "the right tokens with other text"),
    ],
)
def test_a_stream_that_repeats_its_text_so_far_is_wrong_if_any_event_is(
    damage: Callable[[list[str]], list[str]], cause: str
) -> None:
    judgement = judged(lambda pieces: damage(so_far(pieces)))
    assert judgement.outcome is Outcome.WRONG_ANSWER
    assert cause in (judgement.cause or "")
    assert judgement.evidence


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_short_answer_that_is_sent_twice_is_wrong(tokens: int) -> None:
    assert judged(so_far, tokens=tokens).outcome is Outcome.OK
    twice = judged(lambda pieces: [*so_far(pieces), so_far(pieces)[-1]], tokens=tokens)
    assert (twice.outcome, (twice.cause or "")[:10]) == (Outcome.WRONG_ANSWER, "duplicated")


def test_an_echo_without_a_word_of_its_own_is_no_answer() -> None:
    def echo(pieces: list[str]) -> list[str]:
        return [pieces[0].rpartition(" ")[0]]

    said = judged(lambda pieces: [*echo(pieces), " word"], check=AnswerCheck.ECHO)
    assert said.outcome is Outcome.OK
    for texts in (echo, lambda pieces: echo(pieces) * 2):
        judgement = judged(texts, check=AnswerCheck.ECHO)
        assert judgement.outcome is Outcome.WRONG_ANSWER
        assert judgement.cause == "the answer says nothing"


def test_after_half_a_request_the_connection_is_not_used_again() -> None:
    one = Client(Protocol.HTTP_GENERATE, faults=(Fault(kind=FaultKind.HALF_OPEN),))
    one.send()
    refusal = answer(b'{"error":"where is the rest"}', status="408 Request Timeout")
    assert one.answer([refusal]) is Outcome.HTTP_ERROR
    assert one.link.aborted


def test_an_interim_answer_is_not_the_answer(client: Client) -> None:
    good = whole(client.send())
    assert client.answer([b"HTTP/1.1 100 Continue\r\n\r\n" + good]) is Outcome.OK


def test_bytes_after_the_answer_are_malformed_and_the_connection_is_not_used_again(
    client: Client,
) -> None:
    good = whole(client.send())
    assert client.answer([good + b"HTTP/1.1 200 OK\r\n"]) is Outcome.MALFORMED
    assert client.link.aborted


def test_a_real_engine_must_repeat_the_prompt_where_that_is_asked() -> None:
    one = Client(Protocol.HTTP_GENERATE, AnswerCheck.ECHO)
    prompt, _ = asked(one.send(0).partition(b"\r\n\r\n")[2])
    said = json.dumps({"text_output": prompt + " whatever it says"}).encode()
    assert one.answer([answer(said)]) is Outcome.OK
    one.send(1)
    assert one.answer([answer(said)]) is Outcome.WRONG_ANSWER


def test_without_a_check_any_text_will_do_but_an_error_is_an_error() -> None:
    one = Client(Protocol.HTTP_GENERATE, AnswerCheck.NONE)
    one.send(0)
    assert one.answer([answer(b'{"text_output":"anything"}')]) is Outcome.OK
    one.send(1)
    assert one.answer([answer(b'{"error":"no"}')]) is Outcome.HTTP_ERROR


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 4096, "a head of more than"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 700, "a head of more than"),
    "header name": (b"HTTP/1.1 200 OK\r\n", b"x" * 4096, "a head of more than"),
    "reason": (b"HTTP/1.1 200 ", b"x" * 4096, "a head of more than"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 160, "a head of more than"),
    "chunk extension": (STREAM_HEAD + b"5;", b"x" * 4096, "chunk line of more than"),
    "trailer": (STREAM_HEAD + b"0\r\nX: ", b"x" * 4096, "trailer or chunk line of more"),
    "trailers": (STREAM_HEAD + b"0\r\n", b"X: y\r\n" * 700, "trailer or chunk line of more"),
    "event line": (STREAM_HEAD, chunk(b"x" * 4096), "an event or a line of more than"),
    "comment": (STREAM_HEAD, chunk(b":" + b"x" * 4096), "an event or a line of more than"),
    "event": (STREAM_HEAD, chunk(b"data: x\n" * 500), "an event or a line of more than"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_a_server_sends_without_end_is_malformed_and_not_kept(name: str) -> None:
    head, piece, cause = ENDLESS[name]
    for protocol in (Protocol.HTTP_GENERATE_STREAM, Protocol.HTTP_GENERATE):
        if "event" in cause and protocol is Protocol.HTTP_GENERATE:
            continue
        one = Client(protocol)
        one.send()
        if head:
            one.receive(head)
        while not one.endings and one.call.received_bytes < 4 * LARGEST_HEAD_BYTES:
            one.receive(piece)
        _, judgement = one.endings.pop()
        assert judgement.outcome is Outcome.MALFORMED
        assert cause in (judgement.cause or "")
        assert judgement.evidence
        assert one.call.received_bytes <= LARGEST_HEAD_BYTES + 8192 or "event" in cause
        assert one.link.aborted


@pytest.mark.slow
def test_an_answer_may_have_more_framing_than_the_largest_head() -> None:
    one = Client(Protocol.HTTP_GENERATE_STREAM, AnswerCheck.NONE, output_tokens=fixed(12_000))
    one.send()
    one.receive(STREAM_HEAD)
    for _ in range(12_000):
        text = event("x")
        one.receive(b"".join(chunk(bytes([byte])) for byte in text))
    assert one.call.received_bytes > 10 * LARGEST_HEAD_BYTES
    assert one.answer([chunk(b"")]) is Outcome.OK


def test_an_exchange_takes_answer_after_answer_and_says_when_nobody_asked() -> None:
    one = Client(Protocol.HTTP_GENERATE)
    exchange = Exchange(one.dialect, AnswerCheck.EXACT, one.layout)
    for number in range(3):
        call = one.traffic.call(number)
        data = whole(exchange.begin(call))
        assert exchange.feed(data[:50], 10 * number) == ()
        (ended,) = exchange.feed(data[50:], 10 * number + 5)
        assert ended == Ended(Judgement(Outcome.OK), reusable=True)
        assert call.end_ns == 10 * number + 5
    assert exchange.feed(b"HTTP/1.1 408 Timeout\r\n", 99) == (Unasked(),)
    assert exchange.eof(100) == ()


def test_a_client_that_leaves_after_tokens_closes_though_the_answer_ends_with_them() -> None:
    fault = Fault(kind=FaultKind.DISCONNECT, after=fixed(5))
    one = Client(Protocol.HTTP_GENERATE_STREAM, faults=(fault,))
    data = stream(one.send())
    assert one.answer([data]) is Outcome.DISCONNECTED
    assert one.link.aborted


def test_a_slow_reader_is_held_back_after_each_piece() -> None:
    fault = Fault(kind=FaultKind.SLOW_READER, bytes_per_s=100.0)
    one = Client(Protocol.HTTP_GENERATE_STREAM, faults=(fault,))
    data = stream(one.send())
    assert one.link.receive_bytes == 4096
    assert one.answer([data[:200]]) is None
    assert one.link.paused
    assert one.answer([data[200:]]) is Outcome.OK


def test_a_request_that_the_kernel_did_not_take_whole_ends_its_connection() -> None:
    one = Client(Protocol.HTTP_GENERATE)
    request = one.send()
    sent_ns = one.call.sent_ns
    one.link.unsent = True
    one.connection.written()
    assert one.call.sent_ns > sent_ns
    assert one.answer([whole(request)]) is Outcome.OK
    assert one.link.aborted
