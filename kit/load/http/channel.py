"""A call in, its judgement out: one client's line to an HTTP server.

A channel has one request open at a time, on a connection that it keeps as long as the server
lets it. Whatever the server does becomes a judgement; nothing is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kit.load.answers import Judgement, clipped
from kit.load.channel import Host, let_out
from kit.load.http.connection import Wire
from kit.load.http.dialect import Dialect
from kit.load.http.target import HttpTarget
from kit.load.http.templates import Frames
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, FaultKind


class HttpChannel:
    """`send` a call, and the host hears of its end.

    quotes: keep what the server answered, for the next turn's prompt.
    frames: what good answers look like, shared by the channels of a worker.
    """

    def __init__(
        self,
        host: Host,
        dialect: Dialect,
        target: HttpTarget,
        check: AnswerCheck,
        frames: Frames,
        *,
        quotes: bool = False,
    ) -> None:
        self.index = NEVER
        self.call: Call | None = None
        self.answered: bytes | None = None
        self.dialect = dialect
        self.check = check
        self.frames = frames
        self.quotes = quotes
        self._streams = dialect.streams
        self.host = host
        self._loop = host.loop
        self._target = target
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, call: Call) -> None:
        """Begin `call`; the channel has none open."""
        self.call = call
        if self._streams:
            call.stream()
        fault = call.fault
        if fault is not None and fault.deadline_s is not None:
            self._timer = self._loop.call_later(fault.deadline_s, self._deadline, call, fault)
        wire = self._wire
        if wire is not None:
            wire.begin(call)
        else:
            call.begun_ns = self.host.clock()
            self._connecting = self._loop.create_task(self._connect(call))
            self._connecting.add_done_callback(let_out)

    def expire(self) -> None:
        """The open call has had its time."""
        self.settle()
        call = self.call
        if call is None:
            return
        if call.fault is not None and call.fault.kind is FaultKind.HALF_OPEN:
            self.end(call, _half_open())
            return
        seen = f"{call.received_bytes} bytes came" if call.received_bytes else "nothing came"
        self.end(call, Judgement(Outcome.TIMEOUT, f"no whole answer in time; {seen}"))

    def settle(self) -> None:
        """Read the events that were put off."""
        if self._wire is not None:
            self._wire.settle()

    def abandon(self) -> Call | None:
        """Drop the open call, if any, without a word to the host."""
        self.settle()
        call, self.call = self.call, None
        self._hang_up()
        return call

    def end(self, call: Call, judgement: Judgement, *, keep: bool = False) -> None:
        """Report `call`, unless that was done before; without `keep` the connection is closed."""
        if call is not self.call:
            return
        self.call = None
        if call.end_ns == NEVER:
            call.end_ns = self.host.clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not keep:
            self._hang_up()
        self.host.ended(self, call, judgement)

    def lost(self, wire: Wire) -> None:
        """The connection is closed."""
        if wire is self._wire:
            self._wire = None

    def later(self, seconds: float, call_back: Callable[[], None]) -> None:
        """Have `call_back` called then."""
        self._loop.call_later(seconds, call_back)

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()

    def _deadline(self, call: Call, fault: FaultPlan) -> None:
        self._timer = None
        if fault.kind is FaultKind.DEADLINE:
            ending = Judgement(Outcome.TIMEOUT, f"client deadline of {fault.deadline_s:.6g} s")
        elif fault.kind is FaultKind.HALF_OPEN:
            ending = _half_open()
        else:
            ending = Judgement(Outcome.DISCONNECTED, f"left after {fault.deadline_s:.6g} s")
        self.end(call, ending)

    async def _connect(self, call: Call) -> None:
        target = self._target
        try:
            _, wire = await self._loop.create_connection(
                lambda: Wire(self), target.host, target.port, ssl=target.tls
            )
        except OSError as error:
            self._connecting = None
            self.end(call, Judgement(Outcome.REFUSED, clipped(str(error))))
            return
        self._connecting = None
        if call is not self.call:
            wire.abort()
        elif wire.closed:
            self.end(call, Judgement(Outcome.RESET, "closed before the request was sent"))
        else:
            self._wire = wire
            wire.begin(call)


def _half_open() -> Judgement:
    return Judgement(Outcome.DISCONNECTED, "sent half a request, then nothing")
