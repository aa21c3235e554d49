"""One HTTP GET → what came of it, within a time and a size, whatever the server does.

A connection of its own per call: an answer that hangs, drips or never ends costs one call, and
no connection stays open that a stopping server would wait for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httptools

CHUNK_BYTES: Final = 256 * 1024
#: Of an answer's head, trailer and chunk marks, of which no body grows: more is no answer.
HEAD_BYTES: Final = 256 * 1024
#: A body that comes in chunks of a byte has six bytes of marks around each.
MARKS_A_BYTE: Final = 8


class NoAnswer(StrEnum):
    """Why there is no status."""

    REFUSED = "refused"  # nobody listens
    SILENT = "silent"  # not in time
    BROKEN = "broken"  # cut off before the status, or not HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one GET brought."""

    status: int | None
    why: NoAnswer | None = None  # given when there is no status
    body: bytes = b""
    whole: bool = False  # the body came to its end, within the size allowed


class _Reader:
    """Collects one answer; httptools calls the on_ methods."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status: int | None = None
        self.body = bytearray()
        self.complete = False
        self.length_known = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self.length_known = True

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = self.status is not None and self.status >= 200  # not "100 Continue"

    def on_end(self) -> None:
        """The connection ended; so does a body that told no length."""
        self.complete = self.complete or (self.status is not None and not self.length_known)


async def get(
    host: str,
    port: int,
    path: str,
    *,
    timeout_s: float,
    limit_bytes: int,
    tls: bool | ssl.SSLContext = False,
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    """GET `path`; the body is cut at `limit_bytes`, and a head that does not end is broken off.

    With tls=True the certificate is not checked: a server under test mostly has one that it made
    itself. What is secret among `headers` needs a context that checks it.
    """
    reader = _Reader()
    why = NoAnswer.BROKEN
    try:
        async with asyncio.timeout(timeout_s):
            await _exchange(host, port, path, reader, limit_bytes, tls, headers)
    except TimeoutError:
        why = NoAnswer.SILENT
    except ConnectionRefusedError:
        why = NoAnswer.REFUSED
    except (OSError, httptools.HttpParserError, httptools.HttpParserUpgrade):
        pass  # what came before it stands; another protocol has no metrics
    return Answer(
        status=reader.status,
        why=None if reader.status else why,
        body=bytes(reader.body[:limit_bytes]),
        whole=reader.complete and len(reader.body) <= limit_bytes,
    )


async def _exchange(
    host: str,
    port: int,
    path: str,
    reader: _Reader,
    limit_bytes: int,
    tls: bool | ssl.SSLContext,
    headers: Sequence[tuple[str, str]],
) -> None:
    context = _unchecked() if tls is True else tls or None
    source, sink = await asyncio.open_connection(host, port, ssl=context)
    try:
        name = f"[{host}]" if ":" in host else host
        lines = [f"GET {path} HTTP/1.1", f"Host: {name}:{port}", "Connection: close"]
        lines += [f"{key}: {value}" for key, value in headers]
        sink.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        received = 0
        while not reader.complete and len(reader.body) <= limit_bytes:
            if received > HEAD_BYTES + MARKS_A_BYTE * len(reader.body):
                return
            chunk = await source.read(CHUNK_BYTES)
            received += len(chunk)
            if not chunk:
                reader.on_end()
                return
            reader.parser.feed_data(chunk)
    finally:
        sink.transport.abort()


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
