"""One client's line to Triton's gRPC frontend, by grpcio.

A streaming client keeps one stream for its requests, one after the other; a request that is to be
cancelled, or has a deadline, gets a stream of its own. What is stamped: `sent_ns` when gRPC has
taken the message, the rest when a response was read.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from kit.load.answers import Judgement, clipped, refused_or_not
from kit.load.channel import Host, raise_task_error
from kit.load.grpc.answer import GrpcAnswer
from kit.load.grpc.codec import Infer
from kit.load.grpc.grpcio_connection import GrpcioConnection
from kit.load.grpc.leaving import (
    DRAIN_S,
    HALF_OPEN,
    UNARY_STAY_S,
    expired,
    has_enough,
    left_after,
)
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, FaultKind

_INTERNAL = grpc.StatusCode.INTERNAL


class GrpcioChannel:
    """`send` a call, and the host hears of its end."""

    def __init__(
        self,
        host: Host,
        connection: GrpcioConnection,
        codec: Infer,
        check: AnswerCheck,
        *,
        quotes: bool = False,
    ) -> None:
        self.index = NEVER
        self.call: Call | None = None
        self._host = host
        self._connection = connection
        self._codec = codec
        self._answer = GrpcAnswer(codec, check, quotes=quotes)
        self._stream: Any = None  # kept for the next request
        self._open: Any = None  # the RPC of the open call
        self._task: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()

    @property
    def answered(self) -> bytes | None:
        """The text of the last answer without its prompt, escaped for JSON."""
        return self._answer.quoted

    def send(self, call: Call) -> None:
        """Begin `call`; the channel has none open."""
        self.call = call
        self._answer.begin(call)
        call.begun_ns = self._host.clock()
        self._task = self._host.loop.create_task(self._exchange(call))
        self._task.add_done_callback(raise_task_error)

    def expire(self) -> None:
        """The open call has had its time."""
        call = self.abandon()
        if call is not None:
            self._report(call, expired(call))

    def flush(self) -> None:
        """Nothing is put off."""

    def abandon(self) -> Call | None:
        """Drop the open call, if any, without telling the host."""
        call, self.call = self.call, None
        if call is None:
            return None
        if self._task is not None:
            self._task.cancel()
        if self._open is not None:
            self._open.cancel()
        self._stream = self._open = None
        return call

    async def close(self) -> None:
        """Leave in good order: tell the server that nothing more is coming, hear it out."""
        if self._stream is not None:
            self._part(self._stream)
        await asyncio.gather(*self._drains, return_exceptions=True)

    # --- one call

    async def _exchange(self, call: Call) -> None:
        try:
            await self._connection.ready()
            judgement = await (self._streamed(call) if self._codec.streams else self._unary(call))
        except grpc.aio.AioRpcError as error:
            self._stream = None
            judgement = _failure(call, error)
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            self._stream = None
            judgement = Judgement(Outcome.RESET, clipped(f"the stream had ended: {error}"))
        if call is self.call:
            self.call = self._open = None
            self._report(call, judgement)

    def _report(self, call: Call, judgement: Judgement) -> None:
        if call.end_ns == NEVER:
            call.end_ns = self._host.clock()
        self._host.ended(self, call, refused_or_not(call, judgement))

    async def _unary(self, call: Call) -> Judgement:
        fault = call.fault
        deadline_s = fault.deadline_s if fault is not None else None
        leaving = fault is not None and fault.kind.is_leaving
        rpc = self._connection.unary(
            self._codec.request(call),
            deadline_s if fault is not None and fault.kind is FaultKind.DEADLINE else None,
        )
        self._open = rpc
        call.sent_ns = self._host.clock()
        if leaving:
            await asyncio.wait([asyncio.ensure_future(rpc)], timeout=deadline_s or UNARY_STAY_S)
            if not rpc.done():
                return await self._leave(call, rpc)
        data = await rpc
        call.end_ns = self._host.clock()
        call.status = 0
        return self._answer.take(call, data, call.end_ns) or self._answer.finish(call)

    async def _streamed(self, call: Call) -> Judgement:
        fault = call.fault
        call.stream()
        alone = fault is not None and (fault.kind.is_leaving or fault.kind is FaultKind.DEADLINE)
        rpc: Any = None if alone else self._stream
        reused = rpc is not None and not rpc.done()  # the server may have ended it since
        if not reused:
            rpc = self._connection.stream(fault.deadline_s if alone and fault else None)
        if not alone:
            self._stream = rpc
        self._open = rpc
        if fault is not None and fault.kind is FaultKind.HALF_OPEN:
            call.sent_ns = self._host.clock()
            await asyncio.sleep(fault.deadline_s or 3600.0)
            rpc.cancel()
            self._stream = None
            return HALF_OPEN
        rpc = await self._write(call, rpc, reused=reused)
        call.sent_ns = self._host.clock()
        judgement = await self._read_stream(call, rpc, fault)
        if alone or judgement.outcome not in (Outcome.OK, Outcome.WRONG_ANSWER):
            # Whether more comes after an error is not said, so the next request must not see it.
            self._stream = None
            self._part(rpc)
        return judgement

    async def _write(self, call: Call, rpc: Any, *, reused: bool) -> Any:
        """Send the request; the stream that took it.

        One that the server ends just then takes nothing: gRPC's core refuses the message.
        """
        request = self._codec.request(call)
        try:
            await rpc.write(request)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError) as error:
            refused = not isinstance(error, grpc.aio.AioRpcError) or error.code() is _INTERNAL
            if not (reused and refused):
                raise
            rpc = self._stream = self._open = self._connection.stream(None)
            await rpc.write(request)
        return rpc

    async def _read_stream(self, call: Call, rpc: Any, fault: FaultPlan | None) -> Judgement:
        leaving = fault if fault is not None and fault.kind.is_leaving else None
        while True:
            if leaving is not None and has_enough(call, leaving):
                return await self._leave(call, rpc)
            data = await rpc.read()
            if data is grpc.aio.EOF:
                return self._answer.finish(call)
            judgement = self._answer.take(call, data, self._host.clock())
            self._answer.settle(call)
            if self._answer.is_excessive:
                rpc.cancel()
            if judgement is not None:
                return judgement
            if fault is not None and fault.kind is FaultKind.SLOW_READER:
                await asyncio.sleep(len(data) / (fault.bytes_per_s or 1.0))

    async def _leave(self, call: Call, rpc: Any) -> Judgement:
        """Cancel, or go away altogether."""
        call.end_ns = self._host.clock()
        rpc.cancel()
        if call.fault is not None and call.fault.kind is FaultKind.DISCONNECT:
            await self._connection.break_off()
            self._stream = None
        return left_after(call)

    def _part(self, rpc: Any) -> None:
        """End a stream in good order, beside what comes next."""
        task = self._host.loop.create_task(_drain(rpc))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)


async def _drain(rpc: Any) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            await rpc.done_writing()
            while await rpc.read() is not grpc.aio.EOF:
                pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, asyncio.CancelledError):
        rpc.cancel()


def _failure(call: Call, error: grpc.aio.AioRpcError) -> Judgement:
    """What a failed RPC says of the request."""
    code, details = error.code(), " ".join((error.details() or "").split())
    call.status = code.value[0]
    cause = clipped(f"{code.name}: {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" in details.lower() or "connection refused" in details.lower():
            call.sent_ns = NEVER
            return Judgement(Outcome.REFUSED, cause)
        return Judgement(Outcome.RESET, cause)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Judgement(Outcome.TIMEOUT, cause)
    return Judgement(Outcome.HTTP_ERROR, cause)
