"""One client's line to Triton's gRPC frontend: it sends a call, its host hears of the call's end.

On the wire it does what gRPC's own client does, since that is a part of every fault: a streaming
client keeps one stream for its requests, one after the other, and opens one of its own for a
request that is to be cancelled or has a deadline; the head of a stream travels before its first
message, a unary request as one; cancelling resets the stream; deadlines are whole milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque

from kit.load.answers import Judgement, refused_or_not
from kit.load.channel import Host
from kit.load.grpc.answer import GrpcAnswer
from kit.load.grpc.codec import Infer
from kit.load.grpc.connection import GrpcConnection, SharedConnection
from kit.load.grpc.exchange import GrpcEnded, Rpc
from kit.load.grpc.leaving import (
    DRAIN_S,
    HALF_OPEN,
    UNARY_STAY_S,
    expired,
    has_enough,
    left_after,
    told_deadline,
)
from kit.load.grpc.status import GrpcStatus
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, FaultKind

#: Messages that come on a kept stream before the request that they are read for.
_MOST_EARLY = 64
_MS = 1_000_000


class GrpcChannel:
    """`send` a call, and the host hears of its end.

    quotes: keep what the server answered, for the next turn's prompt.
    """

    def __init__(
        self,
        host: Host,
        line: SharedConnection,
        codec: Infer,
        check: AnswerCheck,
        *,
        quotes: bool = False,
    ) -> None:
        self.index = NEVER
        self.call: Call | None = None
        self._host = host
        self._loop = host.loop
        self._line = line
        self._codec = codec
        self._request = codec.request
        self._answer = GrpcAnswer(codec, check, quotes=quotes)
        self._connection: GrpcConnection | None = None  # of the two that follow
        self._kept: Rpc | None = None  # the stream for the next request
        self._open: Rpc | None = None  # the open call's
        self._early: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ns = NEVER
        self._slowly: deque[bytes | GrpcEnded] | None = None  # what a slow reader has not read

    # --- what the host calls

    @property
    def answered(self) -> bytes | None:
        """The text of the last answer without its prompt, escaped for JSON."""
        return self._answer.quoted

    def send(self, call: Call) -> None:
        """Begin `call`; the channel has none open."""
        self.call = call
        call.begun_ns = self._host.clock()
        self._answer.begin(call)
        self._slowly = None
        self._deadline_ns = NEVER
        if self._codec.streams:
            call.stream()
            if self._kept is not None and self._connection is not None and not _is_alone(call):
                self._write(call, self._connection, self._kept)
                return
        self._line.want(self)

    def expire(self) -> None:
        """The open call has had its time."""
        call = self.abandon()
        if call is not None:
            self._report(call, expired(call))

    def flush(self) -> None:
        """Count the tokens that have come so far."""
        if self.call is not None:
            self._answer.settle(self.call)

    def abandon(self) -> Call | None:
        """Drop the open call, if any, without telling the host."""
        self.flush()
        call, self.call = self.call, None
        if call is None:
            return None
        self._line.forget(self)
        self._stop_timer()
        self._cancel(self._open)
        self._open = None
        return call

    async def close(self) -> None:
        """Leave in good order: tell the server that nothing more is coming, hear it out."""
        rpc, connection = self._kept, self._connection
        if rpc is None or connection is None:
            return
        self._kept = None
        connection.exchange.close_sending(rpc)
        connection.flush()
        for _ in range(round(DRAIN_S / 0.01)):
            if connection.is_closed or not connection.exchange.has(rpc):
                return
            await asyncio.sleep(0.01)

    # --- what the line calls

    def begin(self, connection: GrpcConnection) -> None:
        """Open the call on `connection`."""
        call = self.call
        if call is None:
            return
        if connection is not self._connection:
            if self._kept is not None:
                self._part(self._kept)
            self._connection = connection
        fault = call.fault
        exchange = connection.exchange
        if self._codec.streams:
            alone = _is_alone(call)
            rpc = exchange.open(self, self._set_deadline(call) if alone else None)
            if not alone:
                self._kept = rpc
                self._early.clear()
            connection.flush()  # gRPC's client sends the head of a stream by itself
            self._write(call, connection, rpc)
        elif fault is not None and fault.kind is FaultKind.HALF_OPEN:
            self._give(call, connection, exchange.open(self))
        else:
            waits = fault is not None and fault.kind is FaultKind.DEADLINE
            deadline_ms = self._set_deadline(call) if waits else None
            self._give(call, connection, *exchange.ask(self._request(call), self, deadline_ms))

    def refused(self, judgement: Judgement) -> None:
        """There is no connection."""
        call = self.call
        if call is not None:
            self._finish(call, judgement)

    # --- the request

    def _set_deadline(self, call: Call) -> int | None:
        """The deadline that the server is told, in ms; None: the call has none."""
        fault = call.fault
        if fault is None or fault.deadline_s is None or fault.kind is FaultKind.HALF_OPEN:
            return None
        told_ms, self._deadline_ns = told_deadline(self._host.clock(), fault.deadline_s)
        return told_ms

    def _write(self, call: Call, connection: GrpcConnection, rpc: Rpc) -> None:
        """Send the request on a stream; a half-open one stops before its message."""
        if call.fault is None or call.fault.kind is not FaultKind.HALF_OPEN:
            self._give(call, connection, rpc, connection.exchange.write(rpc, self._request(call)))
        else:
            self._give(call, connection, rpc)

    def _give(self, call: Call, connection: GrpcConnection, rpc: Rpc, whole: bool = True) -> None:
        """Give the kernel what is to be sent of the call; not whole: some waits for the server."""
        self._open = rpc
        fault = call.fault
        if fault is not None and fault.kind is FaultKind.SLOW_READER:
            self._slowly = deque()
            connection.exchange.hold(rpc)
        sent_ns = self._host.clock()
        connection.flush(rpc if whole else None)
        if call is not self.call:
            return  # the connection broke
        call.sent_ns = sent_ns
        call.has_kernel_clock = connection.link.has_kernel_clock
        if fault is not None:
            self._watch(call, fault)
        if self._early and rpc is self._kept and call is self.call:
            early, self._early = self._early, []
            for data in early:
                self.on_message(rpc, data, sent_ns)

    def _watch(self, call: Call, fault: FaultPlan) -> None:
        """Set the clock of what the client is to do to its call."""
        if self._deadline_ns != NEVER:
            left_ms = max(0, -((self._host.clock() - self._deadline_ns) // _MS))
            self._timer = self._loop.call_later(left_ms / 1e3, self._deadline, call)
        elif fault.kind is FaultKind.HALF_OPEN:
            if fault.deadline_s is not None:
                self._timer = self._loop.call_later(fault.deadline_s, self._end_half_open, call)
        elif fault.kind.is_leaving and not self._codec.streams:
            stay_s = fault.deadline_s or UNARY_STAY_S
            self._timer = self._loop.call_later(stay_s, self._leave, call)
        if fault.kind.is_leaving and self._codec.streams and has_enough(call, fault):
            self._leave(call)

    # --- the answer

    def on_message(self, rpc: Rpc, data: bytes, now_ns: int) -> None:
        call = self.call
        if call is None or rpc is not self._open:
            if rpc is self._kept:
                self._come_early(rpc, data)
        elif call.fault is None:
            judgement = self._answer.take(call, data, now_ns)
            if judgement is not None:
                self._end_early(call, rpc, judgement)
        elif self._slowly is not None:
            self._slowly.append(data)
            if self._timer is None:
                self._read_slowly(call, call.fault, rpc)
        else:
            self._take(call, call.fault, rpc, data, now_ns)

    def on_answer(self, rpc: Rpc, data: bytes, now_ns: int) -> None:
        call = self.call
        if call is None or call.fault or rpc is not self._open or self._codec.streams:
            self.on_message(rpc, data, now_ns)
            self.on_end(rpc, GrpcStatus.OK, None, now_ns)
            return
        call.status = GrpcStatus.OK
        call.first_ns = call.end_ns = now_ns
        self._finish(call, self._answer.whole(call, data))

    def on_end(
        self, rpc: Rpc, status: int | None, judgement: Judgement | None, now_ns: int
    ) -> None:
        if rpc is self._kept:
            self._kept = None
        call = self.call
        if call is None or rpc is not self._open:
            return
        if self._slowly is not None and self._slowly:
            self._slowly.append(GrpcEnded(rpc, status, judgement))
            return
        self._end_of_call(call, status, judgement, now_ns)

    def on_written(self, rpc: Rpc) -> None:
        call = self.call
        if call is not None and rpc is self._open and not call.received_bytes:
            call.sent_ns = self._host.clock()

    def unstamped(self) -> None:
        if self.call is not None:
            self.call.has_kernel_clock = False

    def _end_of_call(
        self, call: Call, status: int | None, judgement: Judgement | None, now_ns: int
    ) -> None:
        """The server has ended the call's stream."""
        if status is not None:
            call.status = status
        if status == GrpcStatus.CANCELLED and NEVER != self._deadline_ns <= now_ns:
            judgement = _DEADLINE  # the server keeps it, too, and was the first
        call.end_ns = now_ns
        self._finish(call, self._answer.finish(call) if judgement is None else judgement)

    def _take(self, call: Call, fault: FaultPlan, rpc: Rpc, data: bytes, now_ns: int) -> None:
        """One message of the answer to a call with a fault."""
        judgement = self._answer.take(call, data, now_ns)
        if judgement is not None:
            self._end_early(call, rpc, judgement)
            return
        self._answer.settle(call)
        if fault.kind.is_leaving and self._codec.streams and has_enough(call, fault):
            self._leave(call)

    def _end_early(self, call: Call, rpc: Rpc, judgement: Judgement) -> None:
        """A message has decided on the call, whose stream may go on."""
        if self._answer.is_excessive:
            self._cancel(rpc)
        self._finish(call, judgement)

    def _come_early(self, rpc: Rpc, data: bytes) -> None:
        """Keep what nobody asked for: the next request on the stream will take it for its own."""
        self._early.append(data)
        if len(self._early) > _MOST_EARLY:
            self._early.clear()
            self._cancel(rpc)

    def _read_slowly(self, call: Call, fault: FaultPlan, rpc: Rpc) -> None:
        """Read the next of what a slow reader has not read, and wait as it does."""
        self._timer = None
        queue = self._slowly
        if call is not self.call or not queue or self._connection is None:
            return
        item, now_ns = queue.popleft(), self._host.clock()
        if isinstance(item, GrpcEnded):
            self._end_of_call(call, item.status, item.judgement, now_ns)
            return
        self._connection.exchange.consumed(rpc, item)
        self._connection.flush()
        self._take(call, fault, rpc, item, now_ns)
        if call is self.call:
            wait_s = len(item) / (fault.bytes_per_s or 1.0)
            self._timer = self._loop.call_later(wait_s, self._read_slowly, call, fault, rpc)

    # --- what the client does to its call

    def _leave(self, call: Call) -> None:
        """Cancel, or go away altogether."""
        if call is not self.call or call.fault is None:
            return
        call.end_ns = self._host.clock()
        self._cancel(self._open)
        if call.fault.kind is FaultKind.DISCONNECT:
            self._line.break_off()
            self._kept = self._connection = None
        self._finish(call, left_after(call))

    def _deadline(self, call: Call) -> None:
        if call is self.call:
            self._cancel(self._open)
            call.status = GrpcStatus.DEADLINE_EXCEEDED
            self._finish(call, _DEADLINE)

    def _end_half_open(self, call: Call) -> None:
        if call is self.call:
            self._cancel(self._open)
            self._finish(call, HALF_OPEN)

    def _cancel(self, rpc: Rpc | None) -> None:
        """Reset a call's stream."""
        if rpc is None or self._connection is None:
            return
        if rpc is self._kept:
            self._kept = None
        self._connection.exchange.cancel(rpc)
        self._connection.flush()

    # --- the end

    def _finish(self, call: Call, judgement: Judgement) -> None:
        self._answer.settle(call)
        rpc, self._open = self._open, None
        self.call = None
        self._stop_timer()
        reusable = judgement.outcome in (Outcome.OK, Outcome.WRONG_ANSWER)
        if rpc is not None and self._codec.streams and (rpc is not self._kept or not reusable):
            # Whether more comes after an error is not said, so the next request must not see it.
            self._part(rpc)
        self._report(call, judgement)

    def _report(self, call: Call, judgement: Judgement) -> None:
        if call.end_ns == NEVER:
            call.end_ns = self._host.clock()
        self._host.ended(self, call, refused_or_not(call, judgement))

    def _part(self, rpc: Rpc) -> None:
        """End a stream in good order, beside what comes next."""
        connection = self._connection
        if rpc is self._kept:
            self._kept = None
        rpc.owner = None
        if connection is None or connection.is_closed or not connection.exchange.has(rpc):
            return
        connection.exchange.close_sending(rpc)
        connection.flush()
        self._loop.call_later(DRAIN_S, _give_up, connection, rpc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_DEADLINE = Judgement(Outcome.TIMEOUT, "DEADLINE_EXCEEDED: the client's deadline")


def _is_alone(call: Call) -> bool:
    """The request gets a stream of its own."""
    fault = call.fault
    if fault is None:
        return False
    return fault.kind.is_leaving or fault.kind in (FaultKind.DEADLINE, FaultKind.HALF_OPEN)


def _give_up(connection: GrpcConnection, rpc: Rpc) -> None:
    """The server has not ended the stream in time."""
    connection.exchange.cancel(rpc)
    connection.flush()
