"""Tokens as servers count them, in each of the ways that servers say it, and what is done where
they do not, or say what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from load_helpers import run_load, workload
from scripted_server import Script, ScriptedServer, answer, chunk, right_text

from kit.load.token_counts import usage_of
from kit.load.traffic.traffic import Traffic
from kit.study.spec import AnswerCheck, Protocol

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMS = [Protocol.OPENAI_COMPLETIONS_STREAM, Protocol.OPENAI_CHAT_STREAM]
#: Of every answer of the servers here: what a tokenizer makes of six words and of five.
USAGE = {"prompt_tokens": 14, "total_tokens": 22, "completion_tokens": 8}

Events = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def final_chunk(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """vLLM: one more event without a choice, after the last."""
    return [*events, {"choices": [], "usage": USAGE}]


def null_until_the_last(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI: every event has the field, of which only the last one's says something."""
    return [*({**event, "usage": None} for event in events), {"choices": [], "usage": USAGE}]


def continuous(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """vLLM with continuous_usage_stats: every event says how many there were so far."""
    told = [
        {**event, "usage": USAGE | {"completion_tokens": min(number, 8)}}
        for number, event in enumerate(events)
    ]
    return [*told, {"choices": [], "usage": USAGE}]


def with_the_last_text(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Others: in the event that says why the answer ends."""
    return [*events[:-1], {**events[-1], "usage": USAGE}]


def silent(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events


def request_of(body: bytes) -> tuple[str, dict[str, Any]]:
    """(prompt, request) of a body of either protocol."""
    request = json.loads(body)
    chat = "messages" in request
    return request["messages"][-1]["content"] if chat else request["prompt"], request


def stream(told: Events, body: bytes, compact: bool = True) -> Script:
    """What an OpenAI server in front of the simulated engine streams."""
    prompt, request = request_of(body)
    pieces = right_text(prompt, request["max_tokens"])
    pieces[0] = pieces[0].removeprefix(prompt)
    texts = [{"delta": {"content": p}} if "messages" in request else {"text": p} for p in pieces]
    events = [{"id": "1", "choices": [text]} for text in texts]
    separators = (",", ":") if compact else (", ", ": ")
    lines = [json.dumps(event, separators=separators) for event in told(events)]
    return [HEAD, *(chunk(b"data: %b\n\n" % e.encode()) for e in [*lines, "[DONE]"]), chunk(b"")]


def whole(usage: Any, body: bytes) -> bytes:
    """What it answers without a stream."""
    prompt, request = request_of(body)
    text = "".join(right_text(prompt, request["max_tokens"])).removeprefix(prompt)
    choice = {"message": {"content": text}} if "messages" in request else {"text": text}
    body = json.dumps({"id": "1", "choices": [choice], "usage": usage}).encode()
    return answer(body)


def counts(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    assert {row["outcome"] for row in rows} == {"ok"}, [row["cause"] for row in rows]
    return {(row["tokens_by"], row["tokens_in"], row["tokens_out"]) for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("check", [AnswerCheck.EXACT, AnswerCheck.NONE])
@pytest.mark.parametrize("protocol", STREAMS)
@pytest.mark.parametrize(
    "told", [final_chunk, null_until_the_last, continuous, with_the_last_text, silent]
)
def test_a_stream_has_the_counts_that_its_server_gives(
    told: Events, protocol: Protocol, check: AnswerCheck, tmp_path: Path
) -> None:
    compact = protocol is STREAMS[0]
    load = workload(protocol=protocol, requests=12, answer_check=check)
    with ScriptedServer(lambda head, body: stream(told, body, compact)) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert counts(rows) == {("words", 6, 5) if told is silent else ("server", 14, 8)}
    assert {row["tokens"] for row in rows} == {5}  # an event of usage is no token
    asked = {json.dumps(json.loads(body).get("stream_options")) for _, body in server.seen}
    assert asked == {'{"include_usage": true}'}


@pytest.mark.slow
@pytest.mark.parametrize("check", [AnswerCheck.EXACT, AnswerCheck.NONE])
@pytest.mark.parametrize("protocol", [Protocol.OPENAI_COMPLETIONS, Protocol.OPENAI_CHAT])
@pytest.mark.parametrize("usage", [USAGE, None])
def test_a_whole_answer_has_the_counts_that_its_server_gives(
    usage: Any, protocol: Protocol, check: AnswerCheck, tmp_path: Path
) -> None:
    load = workload(protocol=protocol, requests=12, answer_check=check)
    with ScriptedServer(lambda head, body: [whole(usage, body)]) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert counts(rows) == {("words", 6, 5) if usage is None else ("server", 14, 8)}
    assert all("stream_options" not in json.loads(body) for _, body in server.seen)


@pytest.mark.slow
def test_protocols_without_usage_count_words_and_an_echo_is_no_answer(tmp_path: Path) -> None:
    def echo(head: bytes, body: bytes) -> Script:
        prompt = json.loads(body)["text_input"]
        return [answer(json.dumps({"text_output": f"{prompt} and so on"}).encode())]

    with ScriptedServer(echo) as server:
        load = workload(requests=8, answer_check=AnswerCheck.ECHO)
        rows = run_load(load, server.port, tmp_path / "t")
    assert counts(rows) == {("words", 6, 3)}


@pytest.mark.slow
def test_requests_that_failed_have_no_counts(tmp_path: Path) -> None:
    def refuse(head: bytes, body: bytes) -> Script:
        return [answer(b'{"error":{"message":"no"},"usage":%b}' % json.dumps(USAGE).encode(),
                       status="500 Internal Server Error")]  # fmt: skip

    with ScriptedServer(refuse) as server:
        load = workload(protocol=Protocol.OPENAI_CHAT, requests=4)
        rows = run_load(load, server.port, tmp_path / "t")
    assert {(row["tokens_by"], row["tokens_in"], row["tokens_out"]) for row in rows} == {
        (None, None, None)
    }


REFUSALS = {
    "Mistral": (
        "422 Unprocessable Entity",
        b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body",'
        b'"stream_options","include_usage"],"msg":"Extra inputs are not permitted"}]}}',
    ),
    "Azure": (
        "400 Bad Request",
        b'{"error":{"message":"Unrecognized request argument supplied: stream_options"}}',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("keeps", [True, False])
def test_a_server_that_refuses_the_question_is_asked_no_more(
    refusal: tuple[str, bytes], keeps: bool, tmp_path: Path
) -> None:
    def strict(head: bytes, body: bytes) -> Script:
        if "stream_options" in json.loads(body):
            headers = () if keeps else ("Connection: close",)
            return [answer(refusal[1], status=refusal[0], headers=headers)]
        return stream(silent, body)

    load = workload(protocol=Protocol.OPENAI_CHAT_STREAM, requests=40)
    with ScriptedServer(strict) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert counts(rows) == {("words", 6, 5)}
    assert {row["tokens"] for row in rows} == {5}
    again = sum("stream_options" in json.loads(body) for _, body in server.seen)
    assert 1 <= again <= 4  # what was open when the first was refused
    assert len(server.seen) == 40 + again


@pytest.mark.slow
def test_a_refusal_that_only_quotes_the_request_is_one(tmp_path: Path) -> None:
    def quoting(head: bytes, body: bytes) -> Script:
        return [answer(b'{"error":"bad: %b"}' % body.replace(b'"', b"'"), status="400 Bad Request")]

    load = workload(protocol=Protocol.OPENAI_CHAT_STREAM, requests=40, concurrency=1)
    with ScriptedServer(quoting) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"http_error"}
    assert len(server.seen) == 48
    assert "stream_options" in json.loads(server.seen[-1][1])


HOSTILE: list[Any] = [
    {"prompt_tokens": -1, "completion_tokens": 8},
    {"prompt_tokens": 14, "completion_tokens": -8},
    {"prompt_tokens": 14, "completion_tokens": 10**9},
    {"prompt_tokens": 10**30, "completion_tokens": 8},
    {"prompt_tokens": "14", "completion_tokens": "8"},
    {"prompt_tokens": 14, "completion_tokens": 8.5},
    {"prompt_tokens": True, "completion_tokens": False},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 14},
    {"completion_tokens": 8},
    {},
    [],
    "many",
    14,
]


@pytest.mark.parametrize("usage", HOSTILE, ids=repr)
def test_usage_that_cannot_be_is_none(usage: Any) -> None:
    call = Traffic(workload()).call(0)
    assert usage_of(call, json.dumps({"choices": [], "usage": usage}).encode()) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"usage":{"prompt_tokens":1e999}}'])
def test_what_is_no_json_has_no_usage(data: bytes) -> None:
    assert usage_of(Traffic(workload()).call(0), data) is None


@pytest.mark.slow
@pytest.mark.parametrize("usage", [HOSTILE[0], HOSTILE[3], HOSTILE[4], HOSTILE[12]], ids=repr)
def test_an_answer_with_usage_that_cannot_be_is_counted_by_words(
    usage: Any, tmp_path: Path
) -> None:
    def told(head: bytes, body: bytes) -> Script:
        if json.loads(body)["stream"]:
            return stream(lambda events: [*events, {"choices": [], "usage": usage}], body)
        return [whole(usage, body)]

    for protocol in (Protocol.OPENAI_CHAT, Protocol.OPENAI_CHAT_STREAM):
        load = workload(protocol=protocol, requests=8)
        with ScriptedServer(told) as server:
            rows = run_load(load, server.port, tmp_path / protocol)
        assert counts(rows) == {("words", 6, 5)}
