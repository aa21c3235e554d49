"""Hostile servers: HTTP, gRPC, bare sockets and metrics. Whatever they do becomes a record."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grpc as grpc_library
from grpc_server import Error, GrpcServer, Step, tokens_of
from load_helpers import finished, started, workload
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

from benchmarks.faults.batch import Fault
from kit.load.traffic.traffic import Traffic
from kit.servers.watch.fetch import Answer, get
from kit.servers.watch.metrics_text import parse_metrics
from kit.study.folder import TrialFolder
from kit.study.result import Outcome
from kit.study.spec import Endpoint, Protocol, Workload

OK = "ok"
TIMEOUT_S = 6.0
MOST_EVIDENCE = 500
MOST_BODY = 1_000_000
ASKED = b'{"text_input":"[n:0]","sampling_parameters":"{\\"max_tokens\\":1}"}'
Respond = Callable[[random.Random, bytes, bytes], Script]


def _whole(head: bytes, body: bytes) -> bytes:
    return b"".join(step for step in generate(head, body) if isinstance(step, bytes))


def _flipped(rng: random.Random, head: bytes, body: bytes) -> Script:
    data = bytearray(_whole(head, body))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return [bytes(data), CLOSE]


def _cut(rng: random.Random, head: bytes, body: bytes) -> Script:
    data = _whole(head, body)
    return [data[: rng.randrange(1, len(data))], rng.choice([CLOSE, RESET, SILENCE])]


def _drip(rng: random.Random, head: bytes, body: bytes) -> Script:
    for byte in _whole(head, body)[: rng.randrange(5, 60)]:
        yield bytes([byte])
        yield 0.01
    yield CLOSE


def _endless(piece: bytes, first: bytes = b"") -> Respond:
    def respond(rng: random.Random, head: bytes, body: bytes) -> Script:
        yield first
        for _ in range(20_000_000 // len(piece)):
            yield piece

    return respond


def _length(change: Callable[[int], object]) -> Respond:
    def respond(rng: random.Random, head: bytes, body: bytes) -> Script:
        text = b"".join(piece.encode() for piece in right_text(*asked(body)))
        said = str(change(len(text))).encode()
        return [b"HTTP/1.1 200 OK\r\nContent-Length: " + said + b"\r\n\r\n" + text, CLOSE]

    return respond


def _say(data: bytes, *then: str) -> Respond:
    return lambda rng, head, body: [data, *then]


#: Each by its name; those in MAY_BE_OK may hold a right answer all the same.
HTTP: dict[str, Respond] = {
    "well": lambda rng, head, body: generate(head, body),
    "reset": lambda rng, head, body: [RESET],
    "closed before a byte": lambda rng, head, body: [CLOSE],
    "silence": lambda rng, head, body: [SILENCE],
    "a flipped bit": _flipped,
    "cut short": _cut,
    "a drip, then an end": _drip,
    "garbage": lambda rng, head, body: [rng.randbytes(rng.randrange(1, 5000)), CLOSE],
    "an endless head": _endless(b"X-a: " + b"y" * 50_000, b"HTTP/1.1 200 OK\r\n"),
    "endless headers": _endless(b"X-a: b\r\n" * 5_000, b"HTTP/1.1 200 OK\r\n"),
    "endless 100 Continue": _endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
    "an endless body": _endless(b"x" * 100_000, b"HTTP/1.1 200 OK\r\n\r\n"),
    "an endless event": _endless(chunk(b"x" * 50_000), STREAM_HEAD),
    "endless events": _endless(chunk(event(" more")) * 500, STREAM_HEAD),
    "an endless trailer": _endless(b"X-a: b\r\n" * 5_000, STREAM_HEAD + b"0\r\n"),
    "an endless chunk size": _endless(b"1" * 50_000, STREAM_HEAD),
    "a length too small": _length(lambda n: n // 2),
    "a length too large": _length(lambda n: n * 2),
    "a negative length": _length(lambda n: -n),
    "a huge length": _length(lambda n: 10**30),
    "no JSON": _say(answer(b"<html>\x1b[31m</html>")),
    "no UTF-8": _say(answer(b'{"text_output":"\xff\xfe"}')),
    "deep JSON": _say(answer(b"[" * 100_000)),
    "a status of 30 digits": _say(b"HTTP/1.1 " + b"9" * 30 + b" X\r\n\r\n", CLOSE),
    "an upgrade": _say(b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: Upgrade\r\n\r\n"),
    "a redirect": _say(answer(b"", status="307 X", headers=("Location: file:///etc/passwd",))),
    "an error with controls": _say(answer(b'{"error":"\\u001b[2J\\u202e"}', status="500 X")),
    "a bad chunk": _say(STREAM_HEAD + b"zz\r\n", CLOSE),
}
MAY_BE_OK = {"well", "a flipped bit", "cut short", "a length too small"}


def http(rng: random.Random, folder: Path) -> list[Fault]:
    """One worker, 30 requests, to each of which the server does something else."""
    names = [rng.choice(list(HTTP)) for _ in range(30)]
    streams = rng.random() < 0.5
    load = workload(
        protocol=Protocol.HTTP_GENERATE_STREAM if streams else Protocol.HTTP_GENERATE,
        requests=len(names),
        concurrency=rng.choice([1, 5, 10]),
        timeout_s=TIMEOUT_S,
    )
    number_of = _numbers(load, len(names))

    def respond(head: bytes, body: bytes) -> Script:
        return HTTP[names[number_of(body)]](rng, head, body)

    with ScriptedServer(respond) as server:
        rows = _rows(load, Endpoint(http_port=server.port), folder / "t")
    return [(name, _wrong(rows, i, ok=name in MAY_BE_OK)) for i, name in enumerate(names)]


GRPC: dict[str, Callable[[random.Random, str, int], Iterable[Step]]] = {
    "well": lambda rng, prompt, tokens: tokens_of(prompt, tokens),
    "another text": lambda rng, prompt, tokens: ["something else"],
    "silence": lambda rng, prompt, tokens: [SILENCE],
    "an error in the stream": lambda rng, prompt, tokens: [Error("boom \x1b[2J\u202e")],
    "a token of 2 MB": lambda rng, prompt, tokens: ["x" * 2_000_000],
    "a thousand tokens": lambda rng, prompt, tokens: [" more"] * 1000,
    "an end in the middle": lambda rng, prompt, tokens: [
        right_text(prompt, tokens)[0],
        grpc_library.StatusCode.UNAVAILABLE,
    ],
    "a status": lambda rng, prompt, tokens: [
        rng.choice([code for code in grpc_library.StatusCode if code.value[0]])
    ],
}


def grpc(rng: random.Random, folder: Path) -> list[Fault]:
    """One worker over gRPC, 20 requests, to each of which the server does something else."""
    names = [rng.choice(list(GRPC)) for _ in range(20)]
    load = workload(
        protocol=rng.choice([Protocol.GRPC_STREAM, Protocol.GRPC_INFER]),
        requests=len(names),
        concurrency=rng.choice([1, 5]),
        timeout_s=TIMEOUT_S,
    )
    number_of = _numbers(load, len(names))

    def respond(prompt: str, tokens: int) -> Iterable[Step]:
        return GRPC[names[number_of(prompt.encode())]](rng, prompt, tokens)

    with GrpcServer(respond) as server:
        rows = _rows(load, Endpoint(http_port=1, grpc_port=server.port), folder / "t")
    return [(f"gRPC: {n}", _wrong(rows, i, ok=n == "well")) for i, n in enumerate(names)]


_FRAME = {
    "settings": b"\0\0\0\4\0\0\0\0\0",
    "GOAWAY": b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\x0b",
    "ping": b"\0\0\x08\x06\0\0\0\0\0" + b"\0" * 8,
}
RAW: dict[str, Callable[[random.Random], Iterable[bytes]]] = {
    "garbage frames": lambda rng: [rng.randbytes(2000)],
    "a wrong frame length": lambda rng: [
        _FRAME["settings"],
        b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 99,
    ],
    "GOAWAY at once": lambda rng: [_FRAME["settings"], _FRAME["GOAWAY"]],
    "endless pings": lambda rng: [_FRAME["settings"], *[_FRAME["ping"] * 1000] * 50],
    "a reset stream": lambda rng: [_FRAME["settings"], b"\0\0\4\3\0\0\0\0\1\0\0\0\2"],
    "HTTP/1.1 on the port of gRPC": lambda rng: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "nothing at all": lambda rng: [],
}


def raw(rng: random.Random, folder: Path) -> list[Fault]:
    """Bytes that are no answer, over a bare socket, to requests of either protocol."""
    name = rng.choice(list(RAW))
    over_grpc = rng.random() < 0.7
    load = workload(
        protocol=Protocol.GRPC_STREAM if over_grpc else Protocol.HTTP_GENERATE_STREAM,
        requests=6,
        concurrency=3,
        timeout_s=3.0,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_talk, args=(listener, RAW[name], rng), daemon=True).start()
        port = listener.getsockname()[1]
        endpoint = Endpoint(http_port=port, grpc_port=port)
        rows = _rows(load, endpoint, folder / "t")
        listener.shutdown(socket.SHUT_RDWR)
    protocol = "gRPC" if over_grpc else "HTTP"
    return [(f"{protocol}: {name}", _wrong(rows, i, ok=False)) for i in range(6)]


def _talk(
    listener: socket.socket, script: Callable[[random.Random], Iterable[bytes]], rng: random.Random
) -> None:
    kept = []  # open until the end, since an end says something
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the listener was shut down
            return
        kept.append(connection)
        with contextlib.suppress(OSError):
            for data in script(rng):
                connection.sendall(data)


PAGE = (
    b"# TYPE nv_inference_count counter\n"
    b'nv_inference_count{model="m",version="1"} 42\nvllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
    b'vllm:num_requests_running{model_name="m"} 3\nnv_cpu_utilization 0.25\n'
)
PAGES: dict[str, Callable[[random.Random], bytes]] = {
    "flipped bits": lambda rng: _flip(rng, PAGE * 20, 40),
    "garbage": lambda rng: rng.randbytes(20_000),
    "huge numbers": lambda rng: PAGE + b"nv_inference_count 1" + b"0" * 5000 + b"\n",
    "no numbers": lambda rng: b"nv_inference_count NaN\nnv_inference_count +Inf\nnv_x abc\n",
    "endless labels": lambda rng: b"nv_x{" + b'a="b",' * 200_000 + b"} 1\n",
    "a million lines": lambda rng: b"nv_x 1\n" * 1_000_000,
    "controls in labels": lambda rng: 'nv_x{a="\x1b[2J\u202e\\n"} 1\n'.encode(),
    "cut short": lambda rng: PAGE[: rng.randrange(len(PAGE))],
}


def _flip(rng: random.Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def metrics(rng: random.Random, folder: Path) -> list[Fault]:
    """Pages of metrics as text, and over the wire from the servers of `http`."""
    found = []
    for _ in range(12):
        name = rng.choice(list(PAGES))
        began, why = time.monotonic(), ""
        try:
            samples = parse_metrics(PAGES[name](rng), t_ns=1)
            if any(not isinstance(sample.value, float) for sample in samples):
                why = "a value that is no number"
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            why = f"{type(error).__name__}: {error}"
        if time.monotonic() - began > 20:
            why = "slow"
        found.append((f"metrics: {name}", why))
    names = [name for name in HTTP if name not in MAY_BE_OK]

    def respond(head: bytes, body: bytes) -> Script:
        name = head.split(b" ")[1].decode().strip("/").replace("_", " ")
        return HTTP[name](rng, head, ASKED)

    with ScriptedServer(respond) as server:
        for name in rng.sample(names, 8):
            path = "/" + name.replace(" ", "_")
            began, why = time.monotonic(), ""
            try:
                got = asyncio.run(_get(server.port, path))
                if len(got.body) > MOST_BODY:
                    why = f"took {len(got.body)} bytes"
            except Exception as error:  # noqa: BLE001
                why = f"{type(error).__name__}: {error}"
            if time.monotonic() - began > 20:
                why = "slow"
            found.append((f"metrics over the wire: {name}", why))
    return found


async def _get(port: int, path: str) -> Answer:
    return await get("127.0.0.1", port, path, timeout_s=1.0, limit_bytes=MOST_BODY)


def _numbers(load: Workload, count: int) -> Callable[[bytes], int]:
    traffic = Traffic(load)
    numbers = {traffic.call(i).digits: i for i in range(count)}

    def number_of(text: bytes) -> int:
        nonce = re.search(rb"\[n:([0-9a-f]{8})\]", text)
        assert nonce
        return numbers[nonce[1]]

    return number_of


def _rows(load: Workload, endpoint: Endpoint, path: Path) -> list[dict[str, object]]:
    folder, workers = started(load, endpoint, path)
    finished(workers, timeout_s=200.0)
    rows: list[dict[str, object]] = TrialFolder(folder.path).requests().to_pylist()
    return rows


def _wrong(rows: Sequence[dict[str, object]], number: int, *, ok: bool) -> str:
    """What is wrong with the record of one request; "": nothing."""
    own = [row for row in rows if row["request"] == number]
    if len(own) != 1:
        return f"{len(own)} records"
    row = own[0]
    if row["outcome"] not in set(Outcome):
        return f"outcome {row['outcome']}"
    if row["outcome"] == OK and not ok:
        return "called ok"
    if len(str(row["evidence"] or "")) > MOST_EVIDENCE or len(str(row["cause"] or "")) > 2000:
        return "a record without a limit"
    if row["end_ns"] is None and row["outcome"] != Outcome.IN_FLIGHT:
        return "no end"
    return ""
