"""Whatever a server does becomes a record with its outcome; a run neither fails nor hangs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from load_helpers import run_load, workload
from scripted_server import (
    CLOSE,
    RESET,
    SILENCE,
    STREAM_HEAD,
    Script,
    ScriptedServer,
    answer,
    asked,
    chunk,
    event,
    generate,
    right_text,
)

from kit.load.traffic.traffic import Traffic
from kit.study.folder import TrialFolder
from kit.study.spec import (
    Distribution,
    DistributionKind,
    Fault,
    FaultKind,
    Protocol,
    Workload,
    fixed,
)

PLAIN, STREAM = Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM
Respond = Callable[[bytes, bytes], Script]


def pieces(body: bytes) -> list[str]:
    return right_text(*asked(body))


def one_byte_a_chunk(head: bytes, body: bytes) -> Script:
    data = b"".join(event(piece) for piece in pieces(body))
    return [STREAM_HEAD, *(chunk(data[i : i + 1]) for i in range(len(data))), chunk(b"")]


def chunk_across_events(head: bytes, body: bytes) -> Script:
    data = b"".join(event(piece) for piece in pieces(body))
    return [STREAM_HEAD, *(chunk(data[i : i + 100]) for i in range(0, len(data), 100)), chunk(b"")]


def crlf_comments_and_split_data(head: bytes, body: bytes) -> Script:
    data = b": hello\r\n\r\n"
    for piece in pieces(body):
        text = json.dumps(piece).encode()
        data += b'event: token\r\ndata: {"text_output":\r\ndata: ' + text + b"}\r\nid: 1\r\n\r\n"
    return [STREAM_HEAD, chunk(data), chunk(b"")]


def error_in_the_middle(head: bytes, body: bytes) -> Script:
    first = event(pieces(body)[0])
    return [STREAM_HEAD, chunk(first), chunk(b'data: {"error":"boom at 2"}\n\n'), chunk(b"")]


def huge(head: bytes, body: bytes) -> Script:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
    for _ in range(100):
        yield b"x" * 1_000_000


def endless_events(head: bytes, body: bytes) -> Script:
    yield STREAM_HEAD
    for _ in range(100_000):
        yield chunk(event(" more"))


def half(head: bytes, body: bytes) -> Script:
    (whole,) = generate(head, body)
    assert isinstance(whole, bytes)
    return [whole[:-10], CLOSE]


def too_long(head: bytes, body: bytes) -> Script:
    (whole,) = generate(head, body)
    assert isinstance(whole, bytes)
    return [whole + b"and more"]


def redirect(head: bytes, body: bytes) -> Script:
    return [answer(b"", status="307 Temporary Redirect", headers=("Location: http://[::1]/x",))]


DEEP = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
INTERIM = b"HTTP/1.1 199 Wait\r\nContent-Length: 3\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: Upgrade\r\n\r\n"
CASES: list[tuple[str, Protocol, Respond, str, str]] = [
    ("reset", PLAIN, lambda h, b: [RESET], "reset", ""),
    ("closed", PLAIN, lambda h, b: [CLOSE], "reset", "before the first byte"),
    ("silent", PLAIN, lambda h, b: [SILENCE], "timeout", "nothing came"),
    ("slow", PLAIN, lambda h, b: [b"HTTP/1.1 200 OK\r\n", SILENCE], "timeout", "17 bytes came"),
    ("half", PLAIN, half, "reset", "closed by the server, after"),
    ("too long", PLAIN, too_long, "malformed", "bytes after the end"),
    ("garbage", PLAIN, lambda h, b: [b"\x00\xff\x00\xff" * 50], "malformed", "not HTTP/1.1"),
    ("no JSON", PLAIN, lambda h, b: [answer(b"<html>")], "malformed", "not JSON"),
    ("no text", PLAIN, lambda h, b: [answer(b"{}")], "malformed", "without text_output"),
    ("deep JSON", PLAIN, lambda h, b: [answer(DEEP)], "malformed", "recursion"),
    ("deep JSON in an error", PLAIN, lambda h, b: [answer(DEEP, status="500 Error")],
     "http_error", "HTTP 500: {"),
    ("interim answer with a body", PLAIN, lambda h, b: [INTERIM + b"abc", answer(b"{}")],
     "malformed", "an interim answer with a body"),
    ("deep JSON in a stream", STREAM, lambda h, b: [STREAM_HEAD, chunk(b"data: %b\n\n" % DEEP),
     chunk(b"")], "malformed", "recursion"),
    ("not UTF-8", PLAIN, lambda h, b: [answer(b'{"text_output":"\xff"}')], "malformed", "utf-8"),
    ("wrong", PLAIN, lambda h, b: [answer(b'{"text_output":"no"}')], "wrong_answer", "not begin"),
    ("500", PLAIN, lambda h, b: [answer(b'{"error":"boom"}', status="500 Error")], "http_error",
     "HTTP 500: boom"),
    ("error in 200", PLAIN, lambda h, b: [answer(b'{"error":"boom"}')], "http_error", "boom"),
    ("redirect", PLAIN, redirect, "http_error", "HTTP 307 (to http://[::1]/x)"),
    ("204", PLAIN, lambda h, b: [b"HTTP/1.1 204 No Content\r\n\r\n"], "http_error", "HTTP 204"),
    ("upgrade", PLAIN, lambda h, b: [UPGRADE], "malformed", ""),
    ("100 MB", PLAIN, huge, "wrong_answer", "reading stopped"),
    ("one byte a chunk", STREAM, one_byte_a_chunk, "ok", ""),
    ("chunks across events", STREAM, chunk_across_events, "ok", ""),
    ("CRLF, comments, split data", STREAM, crlf_comments_and_split_data, "ok", ""),
    ("error in the middle", STREAM, error_in_the_middle, "http_error", "boom at 2"),
    ("error first", STREAM, lambda h, b: [answer(b'data: {"error":"no"}\n\n', status="400 Bad")],
     "http_error", "HTTP 400: no"),
    ("cut in an event", STREAM, lambda h, b: [STREAM_HEAD, chunk(b"data: {"), chunk(b"")],
     "malformed", "inside an event"),
    ("no event", STREAM, lambda h, b: [STREAM_HEAD, chunk(b"")], "malformed", "without a token"),
    ("broken stream", STREAM, lambda h, b: [STREAM_HEAD, chunk(event("x")), CLOSE], "reset", ""),
    ("bad chunk", STREAM, lambda h, b: [STREAM_HEAD, b"zz\r\n"], "malformed", "not HTTP/1.1"),
    ("endless", STREAM, endless_events, "wrong_answer", "reading stopped"),
    ("endless event", STREAM, lambda h, b: [STREAM_HEAD, *[chunk(b"x" * 50_000)] * 99],
     "malformed", "an event or a line of more than"),
    ("endless head", STREAM, lambda h, b: [b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 50_000] * 99],
     "malformed", "a head of more than"),
]  # fmt: skip


def by_number(load: Workload, responds: Sequence[Respond]) -> Respond:
    """A server that does to request i what `responds[i]` says."""
    traffic = Traffic(load)
    numbers = {traffic.call(i).digits: i for i in range(len(responds))}

    def respond(head: bytes, body: bytes) -> Script:
        nonce = re.search(rb"\[n:([0-9a-f]{8})\]", body)
        assert nonce
        return responds[numbers[nonce[1]]](head, body)

    return respond


@pytest.mark.parametrize("protocol", [PLAIN, STREAM])
def test_every_misbehaviour_is_a_record(tmp_path: Path, protocol: Protocol) -> None:
    # Only those that are never answered are to run into their time, however busy the machine is.
    silent = [case for case in CASES if case[1] is protocol and case[3] == "timeout"]
    others = [case for case in CASES if case[1] is protocol and case[3] != "timeout"]
    rows = []
    for cases, timeout_s in ((silent, 0.7), (others, 60.0)):
        if cases:
            load = workload(
                protocol=protocol, requests=len(cases), concurrency=3, timeout_s=timeout_s
            )
            responds = by_number(load, [respond for _, _, respond, _, _ in cases])
            with ScriptedServer(responds) as server:
                own = run_load(load, server.port, tmp_path / f"{timeout_s}")
            assert [row["request"] for row in own] == list(range(len(cases)))
            rows += own
    cases = silent + others
    for row, (name, _, _, outcome, cause) in zip(rows, cases, strict=True):
        assert (name, row["outcome"]) == (name, outcome), row
        assert cause in (row["cause"] or ""), row
        assert row["end_ns"] >= row["sent_ns"]
        assert len(row["evidence"] or "") <= 500
        if outcome in ("wrong_answer", "malformed"):
            assert row["evidence"] is not None, row


def test_a_server_that_mixes_two_answers_up_is_found(tmp_path: Path) -> None:
    held: list[bytes] = []

    def crossed(head: bytes, body: bytes) -> Script:
        held.append(body)
        if len(held) % 10 == 0:
            return generate(head, held[-2])
        return generate(head, body)

    with ScriptedServer(crossed) as server:
        rows = run_load(workload(requests=50), server.port, tmp_path / "t")
    assert Counter(row["outcome"] for row in rows) == {"ok": 45, "wrong_answer": 5}


FAULTS: list[tuple[str, Fault, Protocol, str, str]] = [
    ("disconnect after tokens", Fault(kind=FaultKind.DISCONNECT, after=fixed(2)), STREAM,
     "disconnected", "left after 2 tokens"),
    ("disconnect after bytes", Fault(kind=FaultKind.DISCONNECT, after=fixed(90), unit="bytes"),
     STREAM, "disconnected", "left after 90 bytes"),
    ("disconnect at once", Fault(kind=FaultKind.DISCONNECT), PLAIN, "disconnected", "0 bytes"),
    ("leave after a time", Fault(kind=FaultKind.CANCEL, after=fixed(99), deadline_s=fixed(0.5)),
     STREAM, "disconnected", "left after 0.5 s"),
    ("deadline", Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(0.5)), STREAM, "timeout",
     "client deadline of 0.5 s"),
    ("half open", Fault(kind=FaultKind.HALF_OPEN, deadline_s=fixed(0.1)), PLAIN, "disconnected",
     "half a request"),
    ("slow reader", Fault(kind=FaultKind.SLOW_READER, bytes_per_s=5000.0), STREAM, "ok", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "protocol", "outcome", "cause"),
    [case[1:] for case in FAULTS],
    ids=[case[0] for case in FAULTS],
)
def test_what_is_done_on_purpose_is_on_the_record(
    tmp_path: Path, fault: Fault, protocol: Protocol, outcome: str, cause: str
) -> None:
    def slowly(head: bytes, body: bytes) -> Script:
        for step in generate(head, body):
            yield step
            yield 0.04 if fault.deadline_s is not None else 0.2  # so that no two are read at once

    load = workload(protocol=protocol, requests=4, faults=(fault,), timeout_s=30.0)
    leaves = outcome != "ok" and fault.kind is not FaultKind.HALF_OPEN
    if leaves:  # the answer takes 8 seconds or more: clients leave long before
        load = load.changed(output_tokens=200)
    with ScriptedServer(slowly) as server:
        rows = run_load(load, server.port, tmp_path / "t")
        deadline = time.monotonic() + 30
        while leaves and server.left < len(server.seen):  # one that left at once was never seen
            assert time.monotonic() < deadline, "the server did not see its clients leave"
            time.sleep(0.01)
    assert [row["outcome"] for row in rows] == [outcome] * 4, rows[0]
    assert {row["fault"] for row in rows} == {fault.kind.value}
    assert all(cause in (row["cause"] or "") for row in rows)
    if fault.kind is FaultKind.SLOW_READER:
        slow = rows[0]["bytes_received"] / 5000.0
        assert all(row["end_ns"] - row["sent_ns"] > 0.5e9 * slow for row in rows)


def test_only_their_share_of_requests_have_a_fault(tmp_path: Path) -> None:
    after = Distribution(kind=DistributionKind.UNIFORM, low=1, high=4)
    fault = Fault(kind=FaultKind.DISCONNECT, fraction=0.25, after=after)
    load = workload(protocol=STREAM, requests=80, faults=(fault,))
    with ScriptedServer() as server:
        rows = run_load(load, server.port, tmp_path / "t")
    seen = Counter((row["fault"], row["outcome"]) for row in rows)
    assert set(seen) == {(None, "ok"), ("disconnect", "disconnected")}
    assert 8 <= seen["disconnect", "disconnected"] <= 35


@pytest.mark.parametrize("kind", [FaultKind.BAD_JSON, FaultKind.WRONG_TYPE, FaultKind.OVER_LONG])
def test_a_request_that_must_be_refused_is_wrong_only_if_it_is_answered(
    tmp_path: Path, kind: FaultKind
) -> None:
    def strict(head: bytes, body: bytes) -> Script:
        try:
            prompt, _ = asked(body)
            assert isinstance(prompt, str)
            assert len(prompt.split()) < 2048
        except (ValueError, KeyError, AssertionError):
            return [answer(b'{"error":"refused"}', status="400 Bad Request")]
        return generate(head, body)

    load = workload(requests=6, faults=(Fault(kind=kind),), max_errors=1)
    with ScriptedServer(strict) as server:
        rows = run_load(load, server.port, tmp_path / "strict")
    assert [row["outcome"] for row in rows] == ["http_error"] * 6, rows[0]

    lax = answer(b'{"text_output":"anything"}')
    with ScriptedServer(lambda head, body: [lax]) as server:
        rows = run_load(load, server.port, tmp_path / "lax")
    assert {row["outcome"] for row in rows} == {"wrong_answer"}
    assert {row["cause"] for row in rows} == {"the server answered what it must refuse"}
    assert len(rows) < 6  # these are errors, and one was enough


class Hasty:
    """A server that answers 400 as soon as it has a request's head, and reads the rest later."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.received: list[bytearray] = []  # by connection
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        data = bytearray()
        self.received.append(data)
        with connection, contextlib.suppress(OSError):
            while b"\r\n\r\n" not in data:
                data += connection.recv(1024)
            connection.sendall(answer(b'{"error":"too long"}', status="400 Bad Request"))
            connection.settimeout(3.0)
            time.sleep(0.5)
            while piece := connection.recv(1 << 20):
                data += piece

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def test_no_request_begins_inside_the_body_of_one_that_was_answered_early(tmp_path: Path) -> None:
    server = Hasty()
    load = workload(requests=2, concurrency=1, prompt_tokens=fixed(2_000_000))
    rows = run_load(load, server.port, tmp_path / "t")
    server.close()
    assert [row["cause"] for row in rows] == ["HTTP 400: too long"] * 2
    for data in server.received:
        assert data.count(b"POST /") == 1, "each of them goes over a connection of its own"
        assert data.find(b"POST /") == 0


def test_a_huge_answer_does_not_grow_the_worker(tmp_path: Path) -> None:
    def grown(respond: Respond, name: str) -> float:
        with ScriptedServer(respond) as server:
            load = workload(requests=4, concurrency=4)
            run_load(load, server.port, tmp_path / name)
        return max(TrialFolder(tmp_path / name).client()["rss_bytes"].to_pylist())

    assert grown(huge, "huge") - grown(generate, "small") < 20e6


def test_no_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_BEARER_TOKEN", "sesame-open")
    monkeypatch.setenv("KIT_HEADERS", json.dumps({"X-Team": "blue-secret-team"}))

    def tells(head: bytes, body: bytes) -> Script:
        return [answer(b'{"error":"bad token ' + head.replace(b"\r\n", b" ") + b'"}')]

    with ScriptedServer(tells) as server:
        rows = run_load(workload(requests=4), server.port, tmp_path / "t")
        sent = server.seen[0][0]
    assert b"\r\nAuthorization: Bearer sesame-open\r\n" in sent
    assert b"\r\nX-Team: blue-secret-team\r\n" in sent
    assert {row["outcome"] for row in rows} == {"http_error"}
    for path in (tmp_path / "t").iterdir():
        assert b"sesame-open" not in path.read_bytes(), path
        assert b"blue-secret-team" not in path.read_bytes(), path


def test_a_header_that_cannot_be_sent_ends_the_worker_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_HEADERS", json.dumps({"X": "a\r\nb"}))
    with pytest.raises(AssertionError, match="KIT_HEADERS"):
        run_load(workload(requests=4), 1, tmp_path / "t")
