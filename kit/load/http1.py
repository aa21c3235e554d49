"""Bytes from one connection in, stamps and the end of its calls out: HTTP/1.1 from the client.

What is stamped: `sent_ns` when the kernel has taken the last byte of the request, `first_ns` and
`token_ns` when the bytes came to this process, before anything else is done about them.

httptools parses; an answer that is like a known one (kit.load.frames) need not be parsed.
"""

from __future__ import annotations

import os
import socket
from asyncio import Protocol
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import httptools

from kit.load.answers import OK, Judgement, clipped, own_words
from kit.load.body import AnswerBody
from kit.load.call import Call
from kit.load.dialect import malformed
from kit.load.faults import FaultPlan
from kit.records import AnswerCheck, FaultKind, Outcome

if TYPE_CHECKING:
    from kit.load.http_channel import HttpChannel

_SLOW_READER_BUFFER_BYTES = 4096
_LEAVING = frozenset({FaultKind.DISCONNECT, FaultKind.CANCEL})


class Wire(Protocol):
    """One connection of a channel."""

    def __init__(self, channel: HttpChannel) -> None:
        self.closed = False
        self._learns = channel.check is AnswerCheck.EXACT and not channel.dialect.streams
        self._channel = channel
        self._dialect = channel.dialect
        self._frames = channel.frames
        self._known = channel.frames.is_answer
        self._ended = channel.host.ended
        self._request = channel.dialect.request
        self._body = AnswerBody(channel.dialect, channel.check, channel.frames)
        self._call: Call | None = None
        self._transport: Any = None
        self._fd = -1  # written to directly; -1: through the transport (TLS)
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self._begun = self._headed = self._framed = self._complete = self._overrun = False
        self._keeps = False
        self._head: list[bytes] = []
        self._location: bytes | None = None

    # --- the request

    def begin(self, call: Call) -> None:
        """Send `call`'s request."""
        self._call = call
        fault = call.fault
        request = self._request(call) if fault is None else self._faulty(call, fault)
        if self._fd >= 0:
            try:
                sent = os.write(self._fd, request)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._end(Judgement(Outcome.RESET, f"while sending: {error}"))
                return
        else:
            sent = 0
        call.sent_ns = monotonic_ns()
        if sent < len(request):
            # With a buffer limit of 0, resume_writing comes when the kernel has taken all.
            self._transport.write(request[sent:])
        if fault is not None and fault.kind in _LEAVING and self._has_enough(call, fault):
            self._leave(call)

    def _faulty(self, call: Call, fault: FaultPlan) -> bytes:
        request = self._dialect.faulty_request(call)
        if fault.kind is FaultKind.HALF_OPEN:
            return request[: len(request) // 2]
        if fault.kind is FaultKind.SLOW_READER:
            self._narrow()
        return request

    def resume_writing(self) -> None:
        if self._call is not None and not self._begun:
            self._call.sent_ns = monotonic_ns()

    def _narrow(self) -> None:
        """Take little from the network at a time, so that the server feels a slow reader."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_READER_BUFFER_BYTES)

    # --- the connection

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("sslcontext") is None:
            self._fd = sock.fileno()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fd = -1
        self._channel.lost(self)
        call = self._call
        if call is None:
            return
        if self._headed and not self._framed and error is None:
            self._finish(call, monotonic_ns())  # such a body ends with the connection
            return
        how = str(error) if error else "closed by the server"
        came = f"after {call.received_bytes} bytes" if self._begun else "before the first byte"
        self._end(Judgement(Outcome.RESET, clipped(f"{how}, {came}")))

    def abort(self) -> None:
        """Close at once; what is still on its way is nobody's."""
        self._call = None
        self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    # --- the answer

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        call = self._call
        if call is None:  # bytes that nobody asked for: the next call gets another connection
            self._channel.lost(self)
            self.abort()
            return
        if self._learns and not self._begun and call.fault is None and self._known(call, data):
            call.received_bytes = len(data)
            call.status = 200
            call.first_ns = call.end_ns = now
            self._call = self._channel.call = None
            self._ended(self._channel, call, OK)
            return
        self._receive(call, data, now)

    def _receive(self, call: Call, data: bytes, now: int) -> None:
        fault = call.fault
        leaving = fault if fault is not None and fault.kind in _LEAVING else None
        if leaving and leaving.in_bytes and call.received_bytes + len(data) >= leaving.after:
            call.received_bytes = leaving.after
            self._leave(call)
            return
        call.received_bytes += len(data)
        self._begun = True
        if not self._headed and len(self._head) < 64:
            self._head.append(data)
        problem = self._parse(data)
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            enough = self._body.feed(body, now)
            if enough is not None:
                call.end_ns = now
                self._end(enough)
                return
            if leaving and not leaving.in_bytes and call.tokens >= leaving.after:
                self._leave(call)
                return
        if self._complete:
            self._finish(call, now)
        elif problem is not None:
            call.end_ns = now
            self._end(problem)
        elif fault is not None and fault.kind is FaultKind.SLOW_READER:
            self._starve(len(data) / (fault.bytes_per_s or 1.0))

    def _parse(self, data: bytes) -> Judgement | None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return malformed("the server wants another protocol than HTTP/1.1", data)
        except httptools.HttpParserError as error:
            if self._complete:
                self._overrun = True
                return None
            return malformed(f"not HTTP/1.1: {error}", b"".join(self._head) or data)
        return None

    def on_message_begin(self) -> None:
        if self._complete:
            self._overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name == b"location":
            self._location = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._complete or self._call is None:
            return
        self._headed = True
        self._call.status = status
        self._body.begin(self._call, status)

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
            self._keeps = self._parser.should_keep_alive()  # the parser forgets it afterwards
        else:
            self._framed = False  # an interim answer (100); the real one follows

    # --- endings

    def _finish(self, call: Call, now: int) -> None:
        call.end_ns = now
        judgement = self._body.finish()
        if self._overrun:
            judgement = malformed("bytes after the end of the answer", b"".join(self._head))
        elif self._location is not None and call.status >= 300:
            where = self._location.decode("latin-1")
            judgement = judgement._replace(cause=clipped(f"{judgement.cause} (to {where})"))
        keep = self._complete and self._keeps and not self._overrun
        if judgement is OK and self._channel.quotes and self._body.text is not None:
            self._channel.answered = own_words(call, self._body.text)
        if judgement is OK and keep and self._learns and len(self._head) == 1:
            self._frames.learn_answer(call, self._head[0])
        self._call = None
        self._begun = self._headed = self._framed = self._complete = self._overrun = False
        self._head.clear()
        self._location = None
        self._channel.end(call, judgement, keep=keep and not self.closed)

    def _end(self, judgement: Judgement) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._channel.end(call, judgement)

    def _has_enough(self, call: Call, fault: FaultPlan) -> bool:
        """Whether the client leaves now, before anything came.

        Where the protocol shows no tokens, leaving after some of them cannot be told from leaving
        at once.
        """
        return fault.after == 0 or not (fault.in_bytes or self._dialect.streams)

    def _leave(self, call: Call) -> None:
        what = f"{call.received_bytes} bytes" if not call.tokens > 0 else f"{call.tokens} tokens"
        self._end(Judgement(Outcome.DISCONNECTED, f"left after {what}"))

    def _starve(self, seconds: float) -> None:
        self._transport.pause_reading()
        self._channel.later(seconds, self._resume)

    def _resume(self) -> None:
        if not self.closed and self._call is not None:
            self._transport.resume_reading()
