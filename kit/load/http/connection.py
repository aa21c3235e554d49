"""Bytes from one connection in, stamps and the end of its calls out: HTTP/1.1 from the client.

What is stamped: `sent_ns` when the kernel has taken the last byte of the request, `first_ns` and
`token_ns` when the bytes came to this process, before anything else is done about them. The body
of a stream is only stamped when it comes; its events are read a third of a second later or when
the answer is whole, many at a time, which costs a third and leaves the loop free for the stamps.

An answer that is like a known one (kit.load.http.templates) need not be parsed.
"""

from __future__ import annotations

import os
import socket
from asyncio import Protocol
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from kit.load.answers import OK, Judgement, clipped, own_words
from kit.load.http.body import AnswerBody
from kit.load.http.dialect import malformed
from kit.load.http.parser import HttpAnswer
from kit.load.traffic.call import Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, FaultKind

if TYPE_CHECKING:
    from kit.load.http.channel import HttpChannel

_SLOW_READER_BUFFER_BYTES = 4096
#: A stream's events are read at the latest after so many reads, or one so large.
_READS_PUT_OFF = 256
_LARGE_READ_BYTES = 32768


class Wire(Protocol):
    """One connection of a channel."""

    def __init__(self, channel: HttpChannel) -> None:
        self.closed = False
        self._channel = channel
        self._dialect = channel.dialect
        self._request = channel.dialect.request
        self._frames = channel.frames
        self._known = channel.frames.is_answer
        self._learns = channel.check is AnswerCheck.EXACT and not channel.dialect.streams
        self._ended = channel.host.ended
        self._body = AnswerBody(channel.dialect, channel.check)
        self._answer = HttpAnswer(self._on_head)
        self._call: Call | None = None
        self._begun = False  # bytes of the answer have come
        self._unsent = False  # the transport holds bytes that the kernel has not taken
        self._puts_off = False  # events of this answer are read later
        self._times: list[int] = []  # of the reads that were put off,
        self._counts: list[int] = []  # and how many pieces of the body there were then
        self._transport: Any = None
        self._fd = -1  # written to directly; -1: through the transport (TLS)

    # --- the request

    def begin(self, call: Call) -> None:
        """Send `call`'s request."""
        self._call = call
        fault = call.fault
        request = self._request(call) if fault is None else self._faulty(call, fault)
        if self._fd >= 0 and not self._unsent:
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
        if fault is not None and fault.kind.is_leaving and self._has_enough(call, fault):
            self._leave(call)

    def _faulty(self, call: Call, fault: FaultPlan) -> bytes:
        request = self._dialect.faulty_request(call)
        if fault.kind is FaultKind.HALF_OPEN:
            return request[: len(request) // 2]
        if fault.kind is FaultKind.SLOW_READER:
            self._narrow()
        return request

    def pause_writing(self) -> None:
        self._unsent = True

    def resume_writing(self) -> None:
        self._unsent = False
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
        self.settle()
        call = self._call
        if call is None:
            return
        if self._answer.headed and not self._answer.framed and error is None:
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
        elif self._puts_off:
            self._put_off(call, data, now)
        elif self._learns and not self._begun and call.fault is None and self._known(call, data):
            call.received_bytes = len(data)
            call.status = 200
            call.first_ns = call.end_ns = now
            self._call = self._channel.call = None
            self._ended(self._channel, call, OK)
        else:
            self._receive(call, data, now)

    def _put_off(self, call: Call, data: bytes, now: int) -> None:
        """Stamp a piece of a stream; read its events later."""
        call.received_bytes += len(data)
        answer = self._answer
        problem = answer.take(data)
        self._times.append(now)
        self._counts.append(len(answer.pieces))
        if answer.complete or problem is not None:
            self.settle()
            self._close_up(call, now, problem)
        elif len(self._times) >= _READS_PUT_OFF or len(data) >= _LARGE_READ_BYTES:
            self.settle()

    def settle(self) -> None:
        """Read the events that were put off."""
        if not self._times:
            return
        times, self._times = self._times, []
        counts, self._counts = self._counts, []
        pieces = self._answer.pieces[:]
        self._answer.pieces.clear()
        enough = None
        # Mostly each read is one piece and each piece one event.
        alone = next((k for k, end in enumerate(counts) if end != k + 1), len(counts))
        begin = taken = self._body.feed_each(pieces[:alone], times[:alone]) if alone else 0
        for now, end in zip(times[taken:], counts[taken:], strict=True):
            if end > begin:
                enough = enough or self._body.feed(b"".join(pieces[begin:end]), now)
            begin = end
        if enough is not None and self._call is not None:
            self._call.end_ns = times[-1]
            self._end(enough)

    def _receive(self, call: Call, data: bytes, now: int) -> None:
        fault = call.fault
        leaving = fault if fault is not None and fault.kind.is_leaving else None
        if leaving and leaving.in_bytes and call.received_bytes + len(data) >= leaving.after:
            call.received_bytes = leaving.after
            self._leave(call)
            return
        call.received_bytes += len(data)
        self._begun = True
        answer = self._answer
        problem = answer.take(data)
        if answer.pieces:
            body = b"".join(answer.pieces)
            answer.pieces.clear()
            enough = self._body.feed(body, now)
            if enough is not None:
                call.end_ns = now
                self._end(enough)
                return
            if leaving and not leaving.in_bytes and call.tokens >= leaving.after:
                self._leave(call)
                return
        if answer.complete or problem is not None:
            self._close_up(call, now, problem)
        elif fault is not None and fault.kind is FaultKind.SLOW_READER:
            self._starve(len(data) / (fault.bytes_per_s or 1.0))

    def _on_head(self, status: int) -> None:
        call = self._call
        if call is not None:
            call.status = status
            self._body.begin(call, status)
            self._puts_off = self._dialect.streams and status == 200 and call.fault is None

    # --- endings

    def _close_up(self, call: Call, now: int, problem: Judgement | None) -> None:
        """The answer is whole, or is none."""
        if call is not self._call:
            return
        if self._answer.complete:
            self._finish(call, now)
        elif problem is not None:
            call.end_ns = now
            self._end(problem)

    def _finish(self, call: Call, now: int) -> None:
        call.end_ns = now
        answer, judgement = self._answer, self._body.finish()
        if answer.overrun:
            judgement = malformed("bytes after the end of the answer", b"".join(answer.reads))
        elif answer.location is not None and call.status >= 300:
            judgement = judgement._replace(
                cause=clipped(f"{judgement.cause} (to {answer.location})")
            )
        keep = answer.complete and answer.keeps and not answer.overrun and self._sent_whole(call)
        if judgement is OK:
            if self._channel.quotes and self._body.text is not None:
                self._channel.answered = own_words(call, self._body.text)
            if self._learns and keep and len(answer.reads) == 1:
                self._frames.learn_answer(call, answer.reads[0])
        self._call = None
        self._begun = self._puts_off = False
        answer.clear()
        self._channel.end(call, judgement, keep=keep and not self.closed)

    def _sent_whole(self, call: Call) -> bool:
        """The server has its whole request, so what is sent next cannot end up inside it."""
        half = call.fault is not None and call.fault.kind is FaultKind.HALF_OPEN
        return not half and self._transport.get_write_buffer_size() == 0

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
