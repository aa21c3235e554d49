"""Events like known ones are read without parsing, and say the same as parsed ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_helpers import workload
from tritonclient.grpc import service_pb2 as pb

from kit.load.grpc.codec import Infer, Piece
from kit.load.http.body import AnswerBody
from kit.load.http.layout import EventLayout
from kit.load.http.openai import OpenAi
from kit.load.http.target import http_target
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import Traffic
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, Endpoint, Protocol, fixed

TOKENS = 12
LOAD = workload(protocol=Protocol.OPENAI_CHAT_STREAM, output_tokens=fixed(TOKENS))


def chat_event(text: str, answer: int, *, last: bool = False) -> bytes:
    """One event as vLLM's server writes it: with an id of its answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "length" if last else None}
    event = {"id": f"chatcmpl-{answer:032x}", "object": "chunk", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def chat_answer(call: Call, answer: int) -> list[bytes]:
    texts = [f" {call.digits.decode()}:{index}" for index in range(call.output_tokens)]
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    events = [chat_event(text, answer) for text in texts[:-1]]
    return [role, *events, chat_event(texts[-1], answer, last=True), b"data: [DONE]\n\n"]


class Reads:
    """A dialect that counts the events that it is asked to read."""

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def read_event(self, data: bytes) -> Any:
        self.count += 1
        return self._dialect.read_event(data)


@pytest.fixture
def reads() -> Reads:
    target = http_target(Endpoint(http_port=1), {})
    return Reads(OpenAi(target, "m", chat=True, streams=True, check=AnswerCheck.EXACT, extra={}))


def calls(count: int) -> list[Call]:
    traffic = Traffic(LOAD)
    made = [traffic.call(number) for number in range(count)]
    for call in made:
        call.stream()
    return made


def test_streams_at_the_same_time_with_ids_of_their_own_are_hardly_parsed(reads: Reads) -> None:
    bodies = [AnswerBody(reads, AnswerCheck.EXACT) for _ in range(64)]
    open_calls = calls(64)
    answers = [chat_answer(call, call.number) for call in open_calls]
    for body, call, events in zip(bodies, open_calls, answers, strict=True):
        body.begin(call, 200)
        for event in events[:2]:
            body.feed(event, 1)
    for body, events in zip(bodies, answers, strict=True):
        known = events[2:-1]
        assert body.feed_each(known, list(range(2, 2 + len(known)))) == TOKENS - 2
        for event in events[-2:]:
            body.feed(event, 99)
    assert {body.finish().outcome for body in bodies} == {Outcome.OK}
    # The role, the first and the last text, and [DONE] of each.
    assert reads.count == 64 * 4
    assert {tuple(call.token_ns or ()) for call in open_calls} == {(1, *range(2, TOKENS), 99)}


def test_an_answer_in_one_piece_teaches_its_own_frame(reads: Reads) -> None:
    body = AnswerBody(reads, AnswerCheck.EXACT)
    for call in calls(3):
        body.begin(call, 200)
        body.feed(b"".join(chat_answer(call, call.number)), 5)
        assert body.finish().outcome is Outcome.OK
        assert call.token_ns == [5] * TOKENS
    assert reads.count == 3 * 4


def test_an_event_that_differs_after_the_first_is_learned_instead(reads: Reads) -> None:
    body = AnswerBody(reads, AnswerCheck.EXACT)
    (call,) = calls(1)
    events = chat_answer(call, 1)
    events[1] = chat_event(f" {call.digits.decode()}:0", 0)
    body.begin(call, 200)
    body.feed(b"".join(events), 5)
    assert body.finish().outcome is Outcome.OK
    assert reads.count == 5


def test_a_piece_that_is_half_an_event_is_not_taken_for_one(reads: Reads) -> None:
    body = AnswerBody(reads, AnswerCheck.EXACT)
    (call,) = calls(1)
    events = chat_answer(call, 1)
    body.begin(call, 200)
    body.feed(events[0] + events[1], 1)
    half = len(events[2]) // 2
    pieces = [events[2] + events[3][:half], events[3][half:] + events[4]]
    assert body.feed_each(pieces, [2, 3]) == 0
    for time, piece in enumerate([*pieces, *events[5:]], 2):
        body.feed(piece, time)
    assert body.finish().outcome is Outcome.OK
    assert call.token_ns == [1, 2, 3, 3, *range(4, 2 + TOKENS - 2)]


def test_a_stream_without_end_of_known_events_is_not_read_without_end(reads: Reads) -> None:
    body = AnswerBody(reads, AnswerCheck.EXACT)
    (call,) = calls(1)
    body.begin(call, 200)
    event = chat_answer(call, 1)[1]
    body.feed(event, 1)
    taken = [body.feed_each([event] * 100, [2] * 100) for _ in range(100)]
    assert 0 < sum(taken) < 1000
    assert (enough := body.feed(event * 1000, 3)) is not None
    assert enough.outcome is Outcome.WRONG_ANSWER


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["", "\n", '"', "\\", "é"]),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(TEXTS, st.booleans(), st.integers(0, 400), st.binary(max_size=3))
def test_known_events_say_what_json_says(
    texts: list[str], ascii_only: bool, place: int, damage: bytes
) -> None:
    frame = EventLayout()
    frame.learn(chat_event("hello", 1)[6:-2], "hello")
    whole = b"".join(
        chat_event("@@", 1).replace(b'"@@"', json.dumps(text, ensure_ascii=ascii_only).encode())
        for text in texts
    )
    place %= len(whole)
    for stream in (whole, whole[:place] + damage + whole[place:]):
        known = frame.texts(stream)
        if known is None:
            assert stream != whole or any('"' in text for text in texts)
            continue
        read, rest = known
        plain = stream[: len(stream) - len(rest)].split(b"\n\n")[:-1]
        said = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in plain]
        assert read == said


def grpc_message(
    text: bytes | None,
    *,
    final: bool | None,
    streams: bool,
    other: bytes | None = None,
    behind: bytes | None = None,
) -> bytes:
    """A response of Triton's. text: of text_output; other, behind: of outputs around it."""
    inner = pb.ModelInferResponse(model_name="m", model_version="1")
    if final is not None:
        inner.parameters["triton_final_response"].bool_param = final
    for name, contents in (("other", other), ("text_output", text), ("behind", behind)):
        if contents is not None:
            inner.outputs.add(name=name, datatype="BYTES", shape=[1])
            inner.raw_output_contents.append(len(contents).to_bytes(4, "little") + contents)
    whole = pb.ModelStreamInferResponse(infer_response=inner) if streams else inner
    return bytes(whole.SerializeToString())


def test_a_known_grpc_message_is_read_without_decoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Infer("m", streams=True, extra={})
    first = codec.read(grpc_message(b" 01234567:0", final=False, streams=True))
    last = codec.read(grpc_message(None, final=True, streams=True))
    monkeypatch.setattr("kit.load.grpc.codec.pb", None)
    assert first == Piece(" 01234567:0", False)
    later = codec.read(grpc_message(b" 89abcdef:9", final=False, streams=True))
    assert later == Piece(" 89abcdef:9", False)
    assert codec.read(grpc_message(None, final=True, streams=True)) == last == Piece(None, True)


TEXTS = st.sampled_from([None, b"", b"a", b"b", b"ab", b"\0\0", "é".encode(), b"\xff\xff"])
MESSAGES = st.lists(
    st.tuples(TEXTS, st.sampled_from([None, False, True]), TEXTS, TEXTS), min_size=2, max_size=8
)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [True, False])
@given(MESSAGES, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 200), st.binary(max_size=2))))
def test_a_codec_that_has_learned_reads_what_a_new_one_reads(
    streams: bool,
    messages: list[tuple[bytes | None, bool | None, bytes | None, bytes | None]],
    changes: list[tuple[int, int, bytes]],
) -> None:
    wire = [
        grpc_message(text, final=final, streams=streams, other=other, behind=behind)
        for text, final, other, behind in messages
    ]
    for which, at, by in changes:  # damaged ones as well, of the same length
        data = wire[which % len(wire)]
        at %= len(data)
        wire.append((data[:at] + by + data[at + len(by) :])[: len(data)])
    learned = Infer("m", streams=streams, extra={})
    for data in wire * 2:
        assert learned.read(data) == Infer("m", streams=streams, extra={}).read(data)


@pytest.mark.parametrize(
    ("known", "read"),
    [
        ({"other": b"ab"}, {"other": b"cd"}),  # the text stands there twice
        ({"behind": b"ab"}, {"behind": b"cd"}),
        ({"behind": b"xy"}, {"behind": b"xy", "damage": b"\xff" * 6}),
    ],
)
def test_only_what_surely_stands_around_a_text_is_learned(
    known: dict[str, bytes], read: dict[str, bytes]
) -> None:
    damage = read.pop("damage", b"")
    first = grpc_message(b"ab", final=False, streams=True, **known)
    later = grpc_message(b"ab", final=False, streams=True, **read)
    later = later[: len(later) - len(damage)] + damage
    learned, fresh = (Infer("m", streams=True, extra={}) for _ in range(2))
    assert isinstance(learned.read(first), Piece)
    assert learned.read(later) == fresh.read(later)
