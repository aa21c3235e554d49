"""Targets: what servers answer. HTTP, event streams, gRPC, metrics, states.

Each is read whole and in pieces, as a network may deliver it; both must come to the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import yaml
from hpack import Decoder, HPACKError
from http2_frames import GOOD_END, GOOD_HEAD, HEAD, SETTINGS, Server, data_frame, message
from http_answers import VALID
from metrics_bodies import TRITON
from owner_states import STATES
from scripted_server import chunk, event

from benchmarks.fuzz.target import DEEP, ROOT, Drawn, Target, cut
from kit.checks.probe import _listed, _text
from kit.load.answers import EVIDENCE_CHARACTERS, OK, Judgement, whole_text
from kit.load.grpc import frames
from kit.load.grpc.answer import GrpcAnswer
from kit.load.grpc.codec import Infer, Piece
from kit.load.grpc.exchange import Answered, GrpcEnded, GrpcExchange, Message
from kit.load.grpc.headers import HEADER_LIST_BYTES, TABLE_BYTES, HeaderError, ResponseFields
from kit.load.http.dialect import DONE, Dialect
from kit.load.http.exchange import Ended, Exchange
from kit.load.http.generate import Generate
from kit.load.http.infer import HttpInfer
from kit.load.http.layout import ResponseLayout
from kit.load.http.openai import OpenAi
from kit.load.http.sse import SseParser
from kit.load.http.target import Credentials, HttpTarget
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import continuation
from kit.servers.told_state import ToldState, state_of
from kit.servers.watch.engine_log import EngineLog
from kit.servers.watch.fetch import Answer
from kit.servers.watch.metrics_text import MAX_LINES, parse_metrics
from kit.servers.watch.names import Sample
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck

_WHERE = HttpTarget(host="h", port=1, tls=None, credentials=Credentials())
_PROMPT = b"[n:01234567] Hi"
_TOKENS = 3
_TEXT = (_PROMPT + continuation(b"01234567", _TOKENS)).decode()


def _openai(*, chat: bool, streams: bool) -> OpenAi:
    check = AnswerCheck.EXACT
    return OpenAi(_WHERE, "m", chat=chat, streams=streams, check=check, extra={})


DIALECTS: tuple[Dialect, ...] = (
    Generate(_WHERE, "m", streams=False, extra={}),
    Generate(_WHERE, "m", streams=True, extra={}),
    _openai(chat=True, streams=False),
    _openai(chat=True, streams=True),
    _openai(chat=False, streams=True),
    HttpInfer(_WHERE, "m", extra={}),
)


def _call(*, streams: bool) -> Call:
    call = Call(0, 0, 0, b"01234567", _PROMPT, _PROMPT, 4, _TOKENS)
    if streams:
        call.stream()
    return call


def _fits_a_record(judgement: Judgement) -> None:
    for text in (judgement.cause, judgement.evidence):
        assert text is None or len(text) <= 4 * EVIDENCE_CHARACTERS, "too long for a record"
        assert text is None or text.encode() is not None, "no UTF-8"


# --- HTTP


def _exchanged(dialect: Dialect, pieces: list[bytes]) -> tuple[list[Ended], Call, bool]:
    """The ends of one call whose answer came in these pieces, and whether more came behind it."""
    exchange = Exchange(dialect, AnswerCheck.EXACT, ResponseLayout(), quotes=True)
    call = _call(streams=dialect.streams)
    exchange.begin(call)
    ended: list[Ended] = []
    unasked = False
    for now, piece in enumerate(pieces):
        for found in exchange.feed(piece, now):
            if isinstance(found, Ended):
                ended.append(found)
            else:
                unasked = True
    ended += [found for found in exchange.eof(len(pieces)) if isinstance(found, Ended)]
    return ended, call, unasked


def http_answer(data: bytes) -> None:
    """One answer of an HTTP server, to its first end and behind it."""
    drawn = Drawn(data)
    dialect, seed = DIALECTS[drawn.below(len(DIALECTS))], drawn.below(256)
    wire = drawn.rest
    whole, call, _ = _exchanged(dialect, [wire] if wire else [])
    pieces, other, unasked = _exchanged(dialect, cut(wire, seed))
    for ended in (whole, pieces):
        assert len(ended) == 1, f"{len(ended)} ends of one call"
        _fits_a_record(ended[0].judgement)
        assert not ended[0].reusable or ended[0].judgement.outcome is not Outcome.RESET
    one, two = whole[0].judgement, pieces[0].judgement
    behind = "bytes after the end of the answer"
    if one.cause == behind or two.cause == behind or unasked:
        return  # what comes behind an answer may come too late to be counted against it
    assert (one.outcome is Outcome.OK) == (two.outcome is Outcome.OK), f"{one} whole, {two} cut"
    sizes = {"reading stopped", "more than"}
    if not any(word in f"{one.cause} {two.cause}" for word in sizes):
        assert one.outcome is two.outcome, f"{one} whole, {two} in pieces"
        if one.outcome is Outcome.OK:
            assert whole[0].answered == pieces[0].answered
            assert call.tokens == other.tokens, "other tokens"
    if call.token_ns is not None:
        assert len(call.token_ns) == call.tokens


def _answers() -> Iterator[bytes]:
    yield from (bytes([n, n + 1]) + data for n, data in enumerate(VALID.values()))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    steps = [_PROMPT.decode(), *(f" 01234567:{n}" for n in range(_TOKENS))]
    bodies = [
        json.dumps({"text_output": _TEXT}).encode(),
        b"".join(map(event, steps)),
        json.dumps({"choices": [{"message": {"content": _TEXT}}]}).encode(),
        b"".join(
            b'data: {"id":"x","choices":[{"delta":{"content":%s}}]}\n\n' % json.dumps(s).encode()
            for s in steps
        )
        + b"data: [DONE]\n\n",
        b"".join(b'data: {"choices":[{"text":%s}]}\n\n' % json.dumps(s).encode() for s in steps)
        + b"data: [DONE]\n\n",
        b'{"outputs":[{"name":"text_output","datatype":"BYTES","shape":[1],"data":[%s]}]}'
        % json.dumps(_TEXT).encode(),
    ]
    for number, body in enumerate(bodies):
        yield bytes([number, 7]) + head + chunk(body) + chunk(b"")
        cutting = [body[at : at + 40] for at in range(0, len(body), 40)]
        yield bytes([number, 0]) + head + b"".join(map(chunk, cutting)) + chunk(b"")
        for other in (DEEP, b"data: " + DEEP + b"\n\n"):
            yield bytes([number, 9]) + head + chunk(other) + chunk(b"")
    refusal = b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % len(DEEP)
    yield b"\0\1" + refusal + DEEP
    error = b'{"error":{"message":"no"}}'
    yield b"\2\1HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(error), error)
    yield b"\2\1HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(error), error)


# --- event streams


def _events_of(data: bytes) -> list[bytes]:
    """As the standard says it, in its own words: HTML, section 9.2.6."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, lines = [], []
    *whole, _ = text.split(b"\n")
    for line in whole:
        name, _, value = line.partition(b":")
        if not line and lines:
            events.append(b"\n".join(lines))
            lines = []
        elif name == b"data":
            lines.append(value[1:] if value[:1] == b" " else value)
    return events


def event_stream(data: bytes) -> None:
    """An event stream by the standard, and its texts by layout and without."""
    drawn = Drawn(data)
    seed, dialect = drawn.below(256), DIALECTS[(1, 3, 4)[drawn.below(3)]]
    wire = drawn.rest
    expected = _events_of(wire)
    parser = SseParser()
    assert [e for piece in cut(wire, seed) for e in parser.feed(piece)] == expected
    parser = SseParser(64)
    kept = [e for piece in cut(wire, seed) for e in parser.feed(piece)]
    assert all(len(one) <= 64 + max(map(len, cut(wire, seed))) for one in kept)
    _texts_are_those(wire, seed, dialect, expected)


def _texts_are_those(wire: bytes, seed: int, dialect: Dialect, events: list[bytes]) -> None:
    """What the body's reader, which learns layouts, reads is what each event says by itself."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(wire)
    pieces, failed = [], False
    for one in events:
        read = dialect.read_event(one)
        if isinstance(read, str):
            pieces += [read] if read else []
        elif read is not None and read is not DONE:
            failed = True
            break
    exchange = Exchange(dialect, AnswerCheck.NONE, ResponseLayout(), quotes=True)
    call = _call(streams=True)
    exchange.begin(call)
    found = [*exchange.feed(head, 0)]
    for now, piece in enumerate(cut(wire, seed), 1):
        found += exchange.feed(piece, now)
    found += exchange.eof(len(wire) + 9)
    ended = next(one for one in found if isinstance(one, Ended))
    if ended.judgement is OK:
        assert not failed, "an event that says an error was passed over"
        text = whole_text(call, pieces, AnswerCheck.NONE)
        said = json.dumps(str(text).removeprefix(_PROMPT.decode()), ensure_ascii=False)[1:-1]
        assert ended.answered == said.encode(), f"{ended.answered!r}, and not {said!r}"
        assert call.tokens == len(pieces), f"{call.tokens} tokens, and not {len(pieces)}"


def _streams() -> Iterator[bytes]:
    for number, data in enumerate(_answers()):
        body = data.rpartition(b"\r\n\r\n")[0].partition(b"\r\n\r\n")[2]
        if b"data:" in body:
            yield bytes([number, number % 3]) + b"".join(
                line for line in body.splitlines(keepends=True) if not line.endswith(b"\r\n")
            )
    yield b"\5\0" + b"".join(map(event, ["a", "b\u00e9\\", '"', "", "\U0001f600"] * 3))
    yield (
        b"\5\1" + b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n' * 4 + b"data: [DONE]\n\n"
    )
    yield b"\0\0\xef\xbb\xbf: comment\rdata\rdata: x\r\rdata:y\n\n"


# --- gRPC


def grpc_connection(data: bytes) -> None:
    """Everything that a gRPC server sends on one connection with three calls."""
    drawn = Drawn(data)
    seed = drawn.below(256)
    wire = drawn.rest
    whole, pieces = _conversation([wire]), _conversation(cut(wire, seed))
    assert whole == pieces, f"{whole} whole, {pieces} in pieces"


def _conversation(pieces: list[bytes]) -> list[tuple[object, ...]]:
    exchange = GrpcExchange(HEAD)
    exchange.feed(SETTINGS)
    calls = [exchange.open(timeout_ms=250) for _ in range(3)]
    for number, rpc in enumerate(calls):
        exchange.write(rpc, b"q" * 90_000 if number == 2 else b"q", last=True)
    exchange.hold(calls[1])
    found: list[tuple[object, ...]] = []
    given = 0
    for piece in pieces:
        given += len(piece)
        for one in exchange.feed(piece):
            if isinstance(one, GrpcEnded):
                outcome = one.judgement and one.judgement.outcome
                found.append((one.rpc.stream, one.status, outcome))
                if one.judgement:
                    _fits_a_record(one.judgement)
            elif isinstance(one, Message):
                found.append((one.rpc.stream, one.data))
            elif isinstance(one, Answered):
                found += [(one.rpc.stream, one.data), (one.rpc.stream, 0, None)]
            else:
                found.append((one.rpc.stream, "written"))
    found += [(e.rpc.stream, "lost") for e in exchange.lost("over") if isinstance(e, GrpcEnded)]
    for rpc in calls:
        ends = [one for one in found if one[0] == rpc.stream and (len(one) == 3 or "lost" in one)]
        assert len(ends) == 1, f"{len(ends)} ends of one call"
        assert len(rpc.buffer) <= given, "more is kept than came"
    assert exchange.open_calls == 0
    assert len(exchange.out) < 120_000 + 20 * given, "more is sent than was asked for"
    return found


def _connections() -> Iterator[bytes]:
    for ends in (GOOD_END, (("grpc-status", "5"), ("grpc-message", "no%20such"))):
        server = Server()
        wire = b""
        for stream in (1, 3, 5):
            wire += server.head(stream) + data_frame(stream, message(b"answer"))
            wire += server.trailers(stream, ends)
        yield b"\7" + wire
    server = Server()
    wire = frames.window_update(0, 100_000) + frames.window_update(5, 100_000)
    wire += frames.settings([(4, 200_000), (1, 0), (5, 20_000), (3, 1)])
    wire += frames.frame(frames.PING, 0, 0, bytes(8))
    wire += server.head(1, GOOD_HEAD) + data_frame(1, message(b"a") + message(b"b" * 50)[:20])
    wire += frames.frame(frames.DATA, frames.PADDED, 1, b"\3" + message(b"b" * 50)[20:] + bytes(3))
    wire += frames.frame(frames.GOAWAY, 0, 0, bytes([0, 0, 0, 3, 0, 0, 0, 11]) + b"calm")
    yield b"\3" + wire + frames.rst_stream(3, 8)
    block = server.block((*GOOD_HEAD, ("x-a", "b" * 40)))
    wire = frames.frame(frames.HEADERS, 0, 1, block[:5])
    yield b"\0" + wire + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[5:])


def header_blocks(data: bytes) -> None:
    """Header blocks of one connection, as the library reads them without what the kit keeps."""
    kept, plain = ResponseFields(), Decoder(max_header_list_size=HEADER_LIST_BYTES)
    plain.max_allowed_table_size = TABLE_BYTES
    rest = data
    while rest:
        size, rest = 1 + rest[0], rest[1:]
        block, rest = rest[:size], rest[size:]
        try:
            expected = tuple((bytes(n), bytes(v)) for n, v in plain.decode(block, raw=True))
        except HPACKError:
            expected = None
        try:
            found = kept.decode(block)
        except HeaderError:
            found = None
        assert found == expected, f"{found}, and not {expected}"
        if found is None:
            return  # the connection is over
        assert sum(len(n) + len(v) + 32 for n, v in found) <= HEADER_LIST_BYTES


def _blocks() -> Iterator[bytes]:
    for fields in (GOOD_HEAD, GOOD_END, (("x", "y" * 200), ("grpc-message", "a%20b"))):
        server = Server()
        blocks = [server.block(fields) for _ in range(3)]
        yield b"".join(bytes([len(block) - 1]) + block for block in blocks)
    yield b"\0\x20" + bytes([2]) + b"\x3f\xe1\x1f"


#: Codecs that learn from one input how to read the next.
_LEARNED = {streams: Infer("m", streams=streams, extra={}) for streams in (True, False)}


def infer_response(data: bytes) -> None:
    """One message of Triton's infer protocol, of a stream and of a unary call."""
    for streams in (True, False):
        codec, call = Infer("m", streams=streams, extra={}), _call(streams=streams)
        read = codec.read(data)
        assert _LEARNED[streams].read(data) == read
        if isinstance(read, Judgement):
            _fits_a_record(read)
        else:
            assert isinstance(read, Piece)
            assert read.text is None or read.text.encode() in data
        answer = GrpcAnswer(codec, AnswerCheck.EXACT, quotes=True)
        answer.begin(call)
        for now in range(3):
            judgement = answer.take(call, data, now)
            if judgement is not None:
                _fits_a_record(judgement)
        _fits_a_record(answer.finish(call))


def _responses() -> Iterator[bytes]:
    from tritonclient.grpc import service_pb2 as pb

    for text in (_TEXT.encode(), b"", b"\xff"):
        inner = pb.ModelInferResponse(model_name="m", id="1")
        inner.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        inner.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
        inner.parameters["triton_final_response"].bool_param = True
        yield inner.SerializeToString()
        yield pb.ModelStreamInferResponse(infer_response=inner).SerializeToString()
    yield pb.ModelStreamInferResponse(error_message="in ensemble 'm', no").SerializeToString()


# --- what watchers read


def metrics(data: bytes) -> None:
    """The body of a /metrics answer."""
    found = parse_metrics(data, t_ns=1)
    _samples_are_sound(found)
    assert len(found) <= MAX_LINES
    body, _, torn = data.rpartition(b"\n")
    if body and torn:
        assert parse_metrics(body + b"\n", t_ns=1) == found, "a torn line is no line"
    assert {s.name for s in parse_metrics(data, t_ns=1, models=["m"])} <= {s.name for s in found}


def _samples_are_sound(samples: list[Sample]) -> None:
    for sample in samples:
        assert math.isfinite(sample.value)
        assert isinstance(json.loads(sample.labels or "{}"), dict)
        sample.labels.encode("utf-8", "strict")
        sample.name.encode("utf-8", "strict")


def engine_lines(data: bytes) -> None:
    """Lines of an engine's log."""
    log = EngineLog()
    for line in data.decode("utf-8", "replace").split("\n"):
        _samples_are_sound(log.read_line(line, t_ns=1))


def _engine_seeds() -> Iterator[bytes]:
    rows = yaml.safe_load((ROOT / "tests/servers/watch/engine_log_lines.yaml").read_text("utf-8"))
    yield from (row["line"].encode() for row in rows)
    yield b"Engine 000: Iteration(12): 3 requests, GPU KV cache usage: 12.5%"
    yield b"# GPU blocks: 1,234, # CPU blocks: 2048\nGPU KV cache size: 12,345 tokens"
    yield b"Maximum concurrency for 4,096 tokens per request: 3.01x"


def server_facts(data: bytes) -> None:
    """What a server says of itself and its models, before any traffic."""
    answer = Answer(status=200, body=data, whole=True)
    listed = _listed(answer)
    assert listed is None or all(isinstance(name, str) for name in listed)
    assert isinstance(_text(answer, "version"), str | None)


def _facts() -> Iterator[bytes]:
    yield b'{"name":"triton","version":"2.51.0","extensions":["statistics"]}'
    yield b'{"object":"list","data":[{"id":"m","max_model_len":4096},{"id":"n"}]}'
    yield DEEP


def told_state(data: bytes) -> None:
    """What docker, kubectl, systemctl or sacct print of a server."""
    found = state_of(data.decode("utf-8", "replace"))
    if found is not None:
        assert not found.is_another_life_than(found) or found.runs is False
        assert isinstance(found.runs, bool | None)
        assert isinstance(found.restarts, int | None)
        assert isinstance(found.exit_code, int | None)
        assert isinstance(found.is_another_life_than(ToldState()), bool)


def _states() -> Iterator[bytes]:
    yield from (text.encode() for text in STATES)
    yield b'{"items":[' * 400 + b"]}" * 400


_HTTP_WORDS = (
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: ", b"Connection: close\r\n"),
    *(b"Location: /\r\n", b"Upgrade: h2c\r\n", b"0\r\n\r\n", b"data: ", b"data: [DONE]\n\n"),
    *(b'{"text_output":"', b'"error":"', b'"choices":[', b'{"delta":{"content":"', b'"text":"'),
    *(b'"message":', b'"outputs":[', b'"datatype":"BYTES"', b'"shape":[1]', b'"data":["'),
    *(b" 01234567:0", b" 01234567:1", b"\\u0000", b"\\ud800", b"null"),
)
_STREAM_WORDS = (
    b"data: ",
    b"data",
    b"\r",
    b"\r\n",
    b"\n\n",
    b":",
    b"event: x\n",
    *_HTTP_WORDS[10:],
)
_FRAME_WORDS = tuple(frames.frame(kind, flags, 1, b"") for kind in range(10) for flags in (0, 1, 4))

TARGETS = (
    Target(
        name="http-answer",
        reads="an HTTP server's answers, in six dialects",
        check=http_answer,
        seeds=_answers,
        words=_HTTP_WORDS,
    ),
    Target(
        name="event-stream",
        reads="server-sent events",
        check=event_stream,
        seeds=_streams,
        words=_STREAM_WORDS,
    ),
    Target(
        name="grpc-connection",
        reads="HTTP/2 frames and gRPC messages",
        check=grpc_connection,
        seeds=_connections,
        words=_FRAME_WORDS,
        largest_bytes=4096,
    ),
    Target(
        name="header-blocks",
        reads="HPACK header blocks",
        check=header_blocks,
        seeds=_blocks,
        words=(b"\x82", b"\x20", b"\x3f\xe1\x1f", b"\x40", b"\x0f", b"\x7f"),
        largest_bytes=4096,
    ),
    Target(
        name="infer-response",
        reads="protobuf messages of Triton's infer protocol",
        check=infer_response,
        seeds=_responses,
        words=(b"text_output", b"triton_final_response", b"BYTES"),
        largest_bytes=4096,
    ),
    Target(
        name="metrics",
        reads="Prometheus text of /metrics",
        check=metrics,
        seeds=lambda: [TRITON, TRITON.replace(b"nv_", b"vllm:")],
        words=(b"nv_", b"vllm:", b'{model="m"}', b"NaN", b"+Inf", b"# TYPE ", b"\\n", b"1e999"),
        largest_bytes=4096,
    ),
    Target(
        name="engine-log",
        reads="vLLM's lines on its KV cache",
        check=engine_lines,
        seeds=_engine_seeds,
        words=(b"Avg prompt throughput: ", b" KV cache usage: ", b"Iteration(", b" blocks: "),
        largest_bytes=4096,
    ),
    Target(
        name="server-facts",
        reads="a server's words on its version and models",
        check=server_facts,
        seeds=_facts,
        words=(b'"version":', b'"data":[', b'"id":', b'"max_model_len":'),
    ),
    Target(
        name="told-state",
        reads="docker inspect, kubectl, systemctl, sacct",
        check=told_state,
        seeds=_states,
        words=(
            *(b'"State":{', b'"items":[', b'"status":{"containerStatuses":[{', b'"terminated":{'),
            *(b"ActiveState=", b"ExecMainCode=2", b"ExecMainStatus=", b"State|ExitCode|", b"0:9"),
        ),
    ),
)
