"""A server that does what a test says: for each request, a list of steps.

A step is bytes to send, seconds to wait (float), or one of the words CLOSE (end the connection
in order), RESET (break it), SILENCE (never answer). It runs in a thread on 127.0.0.1; `seen`
holds every request as (head, body), `left` counts connections that clients closed while a script
was being played.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any

from kit.servers.models.common.answer import nonce_of

CLOSE = "close"
RESET = "reset"
SILENCE = "silence"

Script = Iterable[bytes | float | str]


def answer(body: bytes, *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}"]).encode()
    return head + b"\r\n\r\n" + body


def right_text(prompt: str, tokens: int) -> list[str]:
    """The pieces of the simulated engine's answer."""
    pieces = [f" {nonce_of(prompt)}:{index}" for index in range(tokens)]
    return [prompt + pieces[0], *pieces[1:]]


def asked(body: bytes) -> tuple[str, int]:
    """(prompt, tokens) of a generate request."""
    request = json.loads(body)
    return request["text_input"], json.loads(request["sampling_parameters"])["max_tokens"]


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str) -> bytes:
    body = {"model_name": "m", "model_version": "1", "text_output": text}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def generate(head: bytes, body: bytes) -> Script:
    """A well-behaved Triton with the simulated engine."""
    prompt, tokens = asked(body)
    pieces = right_text(prompt, tokens)
    if b"/generate_stream" in head.split(b"\r\n")[0]:
        return [STREAM_HEAD, *(chunk(event(piece)) for piece in pieces), b"0\r\n\r\n"]
    output = {"model_name": "m", "model_version": "1", "text_output": "".join(pieces)}
    return [answer(json.dumps(output, separators=(",", ":")).encode())]


class ScriptedServer:
    """Use it as a context manager; `port` is where it listens."""

    def __init__(
        self,
        respond: Callable[[bytes, bytes], Script] = generate,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self._respond = respond
        self._tls = tls
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connections: set[asyncio.StreamWriter] = set()
        self.port = port  # 0: any that is free
        self.seen: list[tuple[bytes, bytes]] = []
        self.left = 0
        self.most_open = 0
        self._open = 0

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def die(self) -> None:
        """Break every connection and refuse new ones, as a server that segfaults does."""
        self._loop.call_soon_threadsafe(self._die)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._server = await asyncio.start_server(
            self._serve_one, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        self._die()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    def _die(self) -> None:
        self._server.close()
        for writer in list(self._connections):
            _reset(writer)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length.group(1)) if length else 0)
                self.seen.append((head, body))
                self._open += 1
                self.most_open = max(self.most_open, self._open)
                try:
                    if not await self._play(self._respond(head, body), reader, writer):
                        return
                finally:
                    self._open -= 1
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _play(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection goes on."""
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    try:
                        await writer.drain()
                    except OSError:
                        self.left += 1
                        raise
                case float():
                    gone: Any = asyncio.ensure_future(reader.read(1))
                    done, _ = await asyncio.wait([gone], timeout=step)
                    if done:
                        self.left += 1
                        return False
                    gone.cancel()
                    await asyncio.sleep(0)
                case "close":
                    return False
                case "reset":
                    _reset(writer)
                    return False
                case "silence":
                    await reader.read(1)
                    self.left += 1
                    return False
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
