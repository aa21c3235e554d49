"""Every protocol: the same record whatever the request travels by."""

from __future__ import annotations

import json
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_server import Error, GrpcServer, Step, tokens_of
from load_helpers import finished, run_load, started, trial, workload
from scripted_server import SILENCE, Script, ScriptedServer, answer, chunk, generate, right_text

from kit.errors import SpecError
from kit.load.channels import channels_for
from kit.load.traffic.traffic import Traffic
from kit.study.spec import (
    AnswerCheck,
    ArrivalKind,
    Arrivals,
    Client,
    Endpoint,
    Fault,
    FaultKind,
    Protocol,
    Workload,
    fixed,
)

TLS = Path(__file__).parent / "tls"
STREAM, UNARY = Protocol.GRPC_STREAM, Protocol.GRPC_INFER


def openai(head: bytes, body: bytes) -> Script:
    """A server of OpenAI's protocols in front of the simulated engine."""
    request = json.loads(body)
    chat = b"/chat/" in head.split(b"\r\n")[0]
    prompt = request["messages"][-1]["content"] if chat else request["prompt"]
    pieces = right_text(prompt, request["max_tokens"])
    pieces[0] = pieces[0].removeprefix(prompt)
    if not request["stream"]:
        text = "".join(pieces)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        choice = said if chat else {"text": text}
        return [answer(json.dumps({"id": "1", "choices": [choice]}).encode())]

    def events() -> Iterator[Any]:
        if chat:
            yield {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        for piece in pieces:
            yield {"choices": [{"delta": {"content": piece}} if chat else {"text": piece}]}
        yield {"choices": [{"delta": {}, "finish_reason": "length"}] if chat else []}
        yield "[DONE]"

    lines = [e if isinstance(e, str) else json.dumps(e) for e in events()]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(chunk(b"data: %b\n\n" % line.encode()) for line in lines), chunk(b"")]


OPENAI = [
    Protocol.OPENAI_COMPLETIONS,
    Protocol.OPENAI_COMPLETIONS_STREAM,
    Protocol.OPENAI_CHAT,
    Protocol.OPENAI_CHAT_STREAM,
]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", OPENAI)
def test_openai_answers_are_read_and_checked(tmp_path: Path, protocol: Protocol) -> None:
    def mostly(head: bytes, body: bytes) -> Script:
        if len(server.seen) == 7:
            error = b'{"error":{"message":"too much","code":429}}'
            return [answer(error, status="429 Too Many Requests")]
        if len(server.seen) == 9:
            return [answer(b'{"choices":[{"text":" x","message":{"content":" x"}}]}')]
        return openai(head, body)

    with ScriptedServer(mostly) as server:
        rows = run_load(workload(protocol=protocol, requests=30), server.port, tmp_path / "t")
    streamed = protocol in (OPENAI[1], OPENAI[3])
    seen = Counter(row["outcome"] for row in rows)
    # the ninth answer is no event stream at all, or one with a wrong text
    assert seen == {"ok": 28, "http_error": 1, "malformed" if streamed else "wrong_answer": 1}
    assert {row["cause"] for row in rows if row["status"] == 429} == {"HTTP 429: too much"}
    for row in rows:
        if row["outcome"] == "ok":
            assert row["tokens"] == (5 if streamed else None)


@pytest.mark.slow
def test_a_stream_without_its_last_event_is_malformed(tmp_path: Path) -> None:
    def cut(head: bytes, body: bytes) -> Script:
        steps = list(openai(head, body))
        return [*steps[:-2], steps[-1]]

    load = workload(protocol=Protocol.OPENAI_COMPLETIONS_STREAM, requests=4)
    with ScriptedServer(cut) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["cause"] for row in rows} == {"the stream ends without [DONE]"}


@pytest.mark.slow
def test_a_chat_quotes_what_the_server_said(tmp_path: Path) -> None:
    load = workload(
        protocol=Protocol.OPENAI_CHAT,
        turns=3,
        requests=6,
        concurrency=2,
        answer_check=AnswerCheck.NONE,
    )
    said = json.dumps({"choices": [{"message": {"content": 'a "real" answer'}}]}).encode()
    with ScriptedServer(lambda head, body: [answer(said)]) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    longest = [json.loads(body)["messages"] for _, body in server.seen if body.count(b"role") == 5]
    assert len(longest) == 2
    for messages in longest:
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        assert messages[1]["content"] == messages[3]["content"] == 'a "real" answer'


@pytest.mark.slow
def test_a_conversation_over_generate_quotes_real_answers(tmp_path: Path) -> None:
    def echo(head: bytes, body: bytes) -> Script:
        prompt = json.loads(body)["text_input"]
        return [answer(json.dumps({"text_output": prompt + " and so on"}).encode())]

    load = workload(turns=2, requests=4, concurrency=1, answer_check=AnswerCheck.ECHO)
    with ScriptedServer(echo) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    first, second = (json.loads(body)["text_input"] for _, body in server.seen[:2])
    assert second.startswith(first + " and so on ")


def test_a_chat_cannot_be_asked_to_repeat_its_prompt() -> None:
    load = workload(protocol=Protocol.OPENAI_CHAT, answer_check=AnswerCheck.ECHO)
    with pytest.raises(SpecError, match="repeat"):
        channels_for(trial(load), Endpoint(http_port=1), {})


@pytest.mark.parametrize("protocol", [Protocol.HTTP_GENERATE, STREAM])
def test_an_endpoint_without_the_port_is_refused(protocol: Protocol) -> None:
    with pytest.raises(SpecError, match="port"):
        channels_for(trial(workload(protocol=protocol)), Endpoint(), {})


@pytest.mark.slow
def test_https_is_spoken_and_certificates_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    load = workload(protocol=Protocol.HTTP_GENERATE_STREAM, requests=12)
    with ScriptedServer(generate, tls=context) as server:
        rows = run_load(load, server.port, tmp_path / "unknown", tls=True)
        assert {row["outcome"] for row in rows} == {"refused"}
        assert "certificate" in rows[0]["cause"].lower()
        monkeypatch.setenv("KIT_CA_FILE", str(TLS / "certificate.pem"))
        rows = run_load(load, server.port, tmp_path / "known", tls=True)
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(row["scheduled_ns"] <= row["sent_ns"] <= row["first_ns"] for row in rows)


# --- gRPC


@pytest.fixture(params=Client)
def client(request: pytest.FixtureRequest) -> Client:
    """The kit's own client and the reference: what holds for one holds for the other."""
    return request.param  # type: ignore[no-any-return]


def run_grpc(load: Workload, server: GrpcServer, path: Path, **endpoint: Any) -> list[Any]:
    folder, workers = started(load, Endpoint(grpc_port=server.port, **endpoint), path)
    finished(workers)
    return sorted(folder.requests().to_pylist(), key=lambda row: row["request"])


@pytest.mark.slow
@pytest.mark.parametrize("empty_final", [True, False])
def test_a_grpc_stream_carries_a_clients_requests_one_after_the_other(
    client: Client, tmp_path: Path, empty_final: bool
) -> None:
    with GrpcServer(empty_final=empty_final) as server:
        rows = run_grpc(workload(grpc_client=client, protocol=STREAM), server, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    assert server.streams == 4
    for row in rows:
        assert row["tokens"] == len(row["token_ns"]) == 5
        times = [row["scheduled_ns"], row["sent_ns"], *row["token_ns"], row["end_ns"]]
        assert times == sorted(times)
        assert row["status"] == 0


@pytest.mark.slow
def test_a_stream_that_the_server_ended_in_good_order_costs_no_request(
    client: Client, tmp_path: Path
) -> None:
    # A second between requests: on a busy machine too, the end of a stream is read long before
    # the next request, which would else meet it and be reset (the test below).
    arrivals = Arrivals(kind=ArrivalKind.CONSTANT, rate_per_s=1.0, concurrency=1)
    load = workload(grpc_client=client, protocol=STREAM, requests=6, arrivals=arrivals)
    with GrpcServer(ends_streams=True) as server:
        rows = run_grpc(load, server, tmp_path / "t")
    # A machine that stalls for that second makes one of them meet the end after all.
    outcomes = Counter(row["outcome"] for row in rows)
    assert set(outcomes) <= {"ok", "reset"}, rows
    assert outcomes["ok"] >= 4, rows
    assert server.streams == 6


@pytest.mark.slow
def test_a_request_that_meets_the_end_of_its_stream_is_reset_and_not_timed_out(
    client: Client,
    tmp_path: Path,
) -> None:
    with GrpcServer(ends_streams=True) as server:
        rows = run_grpc(
            workload(grpc_client=client, protocol=STREAM, requests=60), server, tmp_path / "t"
        )
    assert {row["outcome"] for row in rows} <= {"ok", "reset"}
    assert Counter(row["outcome"] for row in rows)["ok"] >= 15


@pytest.mark.slow
def test_unary_grpc_answers_are_checked(client: Client, tmp_path: Path) -> None:
    with GrpcServer() as server:
        rows = run_grpc(workload(grpc_client=client, protocol=UNARY), server, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    assert {row["tokens"] for row in rows} == {None}


def scripted(prompt: str, tokens: int) -> Iterable[Step]:
    """What is done to a request is decided by its prompt's first hexadecimal digit."""
    match int(prompt[3], 16) % 8:
        case 0:
            return [*right_text(prompt, tokens)[:2], Error("boom at 2")]
        case 1:
            return [SILENCE]
        case 2:
            return [grpc.StatusCode.INVALID_ARGUMENT]
        case 3:
            return right_text(prompt, tokens)[:3]
        case 4:
            return []
        case _:
            return right_text(prompt, tokens)


def expected(digits: bytes) -> tuple[str, str]:
    return {
        0: ("http_error", "boom at 2"),
        1: ("timeout", "no whole answer in time"),
        2: ("http_error", "INVALID_ARGUMENT: as the test says"),
        3: ("wrong_answer", "truncated: 3 of 5 tokens"),
        4: ("malformed", "a stream without a token"),
    }.get(int(digits[:1], 16) % 8, ("ok", ""))


@pytest.mark.slow
def test_what_goes_wrong_on_a_grpc_stream_is_a_record(client: Client, tmp_path: Path) -> None:
    load = workload(grpc_client=client, protocol=STREAM, requests=40, timeout_s=2.0)
    with GrpcServer(scripted) as server:
        rows = run_grpc(load, server, tmp_path / "t")
    traffic = Traffic(load)
    assert len({row["outcome"] for row in rows}) == 5
    for row in rows:
        outcome, cause = expected(traffic.call(row["request"]).digits)
        assert row["outcome"] == outcome, row
        assert cause in (row["cause"] or ""), row


def slowly(prompt: str, tokens: int) -> Iterable[Step]:
    for piece in right_text(prompt, tokens):
        yield piece
        yield 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "fault", "outcome", "cause"),
    [
        (STREAM, Fault(kind=FaultKind.CANCEL, after=fixed(2)), "disconnected", "after 2 tokens"),
        (STREAM, Fault(kind=FaultKind.DISCONNECT, after=fixed(2)), "disconnected", "2 tokens"),
        (
            STREAM,
            Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(0.5)),
            "timeout",
            "DEADLINE_EXCEEDED",
        ),
        (
            UNARY,
            Fault(kind=FaultKind.CANCEL, deadline_s=fixed(0.5)),
            "disconnected",
            "left after 0 bytes",
        ),
        (
            UNARY,
            Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(0.5)),
            "timeout",
            "DEADLINE_EXCEEDED",
        ),
        (
            STREAM,
            Fault(kind=FaultKind.HALF_OPEN, deadline_s=fixed(0.5)),
            "disconnected",
            "sent nothing",
        ),
    ],
)
def test_grpc_clients_leave_on_purpose(
    client: Client, tmp_path: Path, protocol: Protocol, fault: Fault, outcome: str, cause: str
) -> None:
    with GrpcServer(slowly) as server:
        # Whole answers take two seconds: whatever the machine does, clients leave before.
        load = workload(
            grpc_client=client,
            protocol=protocol,
            requests=8,
            faults=(fault,),
            output_tokens=fixed(40),
            timeout_s=30.0,
        )
        rows = run_grpc(load, server, tmp_path)
        deadline = time.monotonic() + 30
        # A call that is cancelled in the packet that opens it never reaches the server's code.
        while server.cancelled < len(server.metadata) and fault.kind is not FaultKind.DEADLINE:
            assert time.monotonic() < deadline, "the server did not see its clients leave"
            time.sleep(0.01)
        assert server.metadata, "the server saw none of its clients"
    assert [row["outcome"] for row in rows] == [outcome] * 8, rows[0]
    assert all(cause in row["cause"] for row in rows), rows[0]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [STREAM, UNARY])
def test_grpc_requests_open_when_the_server_dies_are_in_flight(
    client: Client, tmp_path: Path, protocol: Protocol
) -> None:
    asked: list[str] = []

    def then_silent(prompt: str, tokens: int) -> Iterable[Step]:
        asked.append(prompt)
        return tokens_of(prompt, tokens) if len(asked) <= 10 else [SILENCE]

    with GrpcServer(then_silent) as server:
        endpoint = Endpoint(grpc_port=server.port)
        folder, workers = started(
            workload(grpc_client=client, protocol=protocol), endpoint, tmp_path / "t"
        )
        deadline = time.monotonic() + 20
        while len(asked) < 14:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.die()
        workers[0].server_died(time.monotonic_ns())
        finished(workers)
    seen = Counter(row["outcome"] for row in folder.requests().to_pylist())
    assert (seen["ok"], seen["in_flight"]) == (10, 4)
    assert set(seen) <= {"ok", "in_flight", "refused"}


@pytest.mark.slow
def test_no_grpc_server_is_a_refusal(client: Client, tmp_path: Path) -> None:
    with GrpcServer() as server:
        port = server.port
    load = workload(grpc_client=client, protocol=STREAM, requests=8)
    folder, workers = started(load, Endpoint(grpc_port=port), tmp_path / "t")
    finished(workers)
    rows = folder.requests().to_pylist()
    assert [row["outcome"] for row in rows] == ["refused"] * 8, rows[0]


@pytest.mark.slow
@pytest.mark.parametrize(("errors", "sent"), [("message", None), ("status", "true")])
def test_a_stream_asks_for_the_status_of_its_errors_only_where_the_workload_says_so(
    client: Client, tmp_path: Path, errors: str, sent: str | None
) -> None:
    load = workload(grpc_client=client, protocol=STREAM, requests=4, stream_errors=errors)
    with GrpcServer() as server:
        rows = run_grpc(load, server, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    assert {fields.get("triton_grpc_error") for fields in server.metadata} == {sent}


@pytest.mark.slow
def test_grpc_over_tls_sends_its_token(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_BEARER_TOKEN", "sesame-open")
    monkeypatch.setenv("KIT_CA_FILE", str(TLS / "certificate.pem"))
    pair = ((TLS / "key.pem").read_bytes(), (TLS / "certificate.pem").read_bytes())
    with GrpcServer(credentials=grpc.ssl_server_credentials([pair])) as server:
        rows = run_grpc(
            workload(grpc_client=client, protocol=UNARY, requests=8),
            server,
            tmp_path / "t",
            tls=True,
        )
    assert {row["outcome"] for row in rows} == {"ok"}
    assert server.metadata[0]["authorization"] == "Bearer sesame-open"
