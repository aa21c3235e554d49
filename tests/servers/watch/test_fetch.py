"""One GET never takes more than it is given, whatever the server sends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kit.servers.watch.fetch import HEAD_BYTES, Answer, NoAnswer, get

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]
#: What the sockets between two processes may hold beyond what was read.
BUFFERS_BYTES = 16_000_000


def asked(answering: Answering, *, limit_bytes: int = 1_000_000) -> tuple[Answer, int]:
    """The answer, and how many bytes of it the server could send."""
    sent = 0

    async def both() -> Answer:
        async def serve(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal sent
            write = sink.write

            def counted(data: bytes) -> None:
                nonlocal sent
                sent += len(data)
                write(data)

            sink.write = counted  # type: ignore[method-assign, assignment]
            try:
                await source.readuntil(b"\r\n\r\n")
                await answering(sink)
                await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await get("127.0.0.1", port, "/m", timeout_s=60, limit_bytes=limit_bytes)

    return asyncio.run(both()), sent


@pytest.mark.parametrize("piece", [b"X: " + b"x" * 65_000 + b"\r\n", b"x" * 65_000])
def test_a_head_without_an_end_is_broken_off(piece: bytes) -> None:
    async def never_end(sink: asyncio.StreamWriter) -> None:
        sink.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            sink.write(piece)
            await sink.drain()

    answer, sent = asked(never_end)
    assert (answer.status, answer.why) == (None, NoAnswer.BROKEN)
    assert sent < HEAD_BYTES + BUFFERS_BYTES


def test_a_trailer_without_an_end_is_broken_off_and_the_body_stands() -> None:
    async def never_end(sink: asyncio.StreamWriter) -> None:
        sink.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        while True:
            sink.write(b"X: " + b"x" * 65_000 + b"\r\n")
            await sink.drain()

    answer, sent = asked(never_end)
    assert (answer.status, answer.body, answer.whole) == (200, b"ok", False)
    assert sent < HEAD_BYTES + BUFFERS_BYTES


def test_a_body_in_chunks_of_a_byte_is_read_whole() -> None:
    async def crumble(sink: asyncio.StreamWriter) -> None:
        sink.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        sink.write(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")

    answer, _ = asked(crumble)
    assert answer.whole
    assert len(answer.body) == 100_000
