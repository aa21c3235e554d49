"""One HTTP connection: socket, clock and faults around an `Exchange`.

What is stamped here: `sent_ns`, when the last byte of the request is given to the kernel. What came
is stamped by the link. The faults that a client does to its server happen here: leaving in the
middle, half a request, reading slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kit.load.answers import Judgement
from kit.load.http.exchange import WELL, Ended, Event, Exchange
from kit.load.link import Clock, Link, PutOff
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import FaultKind

_SLOW_READER_BUFFER_BYTES = 4096


class Connection:
    """One connection; `begin` sends a call on it, `on_end` and `on_lost` tell what becomes of it.

    on_end: (call, how it ended, whether the connection can take another one).
    on_well: (call), for the most common end: a valid answer, after which the connection goes on.
    shows_tokens: the protocol streams, so that leaving after some tokens is possible.
    """

    def __init__(
        self,
        exchange: Exchange,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        on_end: Callable[[Call, Ended], None],
        on_well: Callable[[Call], None],
        on_lost: Callable[[Connection], None],
        *,
        shows_tokens: bool,
    ) -> None:
        self.link: Link  # set by whoever opens it
        self.closed = False
        self._exchange = exchange
        self._known = exchange.known
        self._loop = loop
        self._clock = clock
        self._on_end = on_end
        self._on_well = on_well
        self._on_lost = on_lost
        self._shows_tokens = shows_tokens
        self._call: Call | None = None
        self._fault: FaultPlan | None = None

    def begin(self, call: Call) -> None:
        """Send `call`'s request."""
        self._call = call
        exchange, clock, link = self._exchange, self._clock, self.link
        request = exchange.begin(call)
        fault = call.fault
        if fault is not None:
            self._fault = fault
            if fault.kind is FaultKind.HALF_OPEN:
                request = request[: len(request) // 2]
            elif fault.kind is FaultKind.SLOW_READER:
                link.narrow(_SLOW_READER_BUFFER_BYTES)
        # Before, not after: the kernel's time of the answer must not be earlier than this, even
        # where the answer comes before this process gets to look at its clock again.
        sent_ns = clock()
        try:
            link.send(request)
        except OSError as error:
            self._finish(call, Ended(Judgement(Outcome.RESET, f"while sending: {error}")))
            return
        call.sent_ns = sent_ns
        call.has_kernel_clock = link.has_kernel_clock
        if fault is not None and fault.kind.is_leaving and self._leaves_at_once(fault):
            self._leave(call)

    def flush(self) -> None:
        """Read the events that were put off."""
        events = self._exchange.flush()
        if events:
            self._handle(events)

    def abort(self) -> None:
        """Close at once; what is still on its way is nobody's."""
        self._call = None
        self._exchange.cancel()
        if not self.closed:
            self.closed = True
            self.link.abort()

    # --- what the link calls

    def received(self, data: bytes, now_ns: int) -> PutOff | None:
        exchange = self._exchange
        if exchange.fresh is not None:
            known = self._known  # here and below: an attribute that is called costs a look-up
            call = known(data, now_ns)
            if call is not None:
                if self.link.unsent:
                    self._finish(call, WELL)
                else:
                    self._call = None
                    on_well = self._on_well
                    on_well(call)
                return None
        if self._fault is not None:
            self._receive_faulty(data, now_ns)
            return None
        events = exchange.feed(data, now_ns)
        if events:
            self._handle(events)
            return None
        return exchange.later

    def unstamped(self) -> None:
        if self._call is not None:
            self._call.has_kernel_clock = False

    def written(self) -> None:
        call = self._call
        if call is not None and not call.received_bytes:
            call.sent_ns = self._clock()

    def lost(self, error: Exception | None) -> None:
        self.closed = True
        self._on_lost(self)
        self._handle(self._exchange.eof(self._clock(), error))

    # --- what becomes of it

    def _handle(self, events: tuple[Event, ...]) -> None:
        for event in events:
            call = self._call
            if call is not None and isinstance(event, Ended):
                self._finish(call, event)
            else:  # bytes that nobody asked for: the next call gets another connection
                self._on_lost(self)
                self.abort()

    def _finish(self, call: Call, ended: Ended) -> None:
        self._call = self._fault = None
        if ended.reusable and (self.closed or self.link.unsent or _is_half(call)):
            # Of what the server does not have yet, the next request would become a part.
            ended = ended._replace(reusable=False)
        self._on_end(call, ended)

    # --- faults

    def _receive_faulty(self, data: bytes, now_ns: int) -> None:
        call, fault = self._call, self._fault
        if call is None or fault is None:
            return
        leaves = fault.kind.is_leaving
        if leaves and fault.in_bytes and call.received_bytes + len(data) >= fault.after:
            call.received_bytes = fault.after
            self._leave(call)
            return
        events = self._exchange.feed(data, now_ns)
        if leaves and not fault.in_bytes and call.tokens >= fault.after:
            call.end_ns = NEVER  # whether the answer ended with these bytes or not
            self._leave(call)
        elif events:
            self._handle(events)
        elif fault.kind is FaultKind.SLOW_READER:
            self.link.pause()
            self._loop.call_later(len(data) / (fault.bytes_per_s or 1.0), self._resume)

    def _leaves_at_once(self, fault: FaultPlan) -> bool:
        """Whether the client leaves before anything came.

        Where the protocol shows no tokens, leaving after some of them cannot be told from leaving
        at once.
        """
        return fault.after == 0 or not (fault.in_bytes or self._shows_tokens)

    def _leave(self, call: Call) -> None:
        what = f"{call.received_bytes} bytes" if not call.tokens > 0 else f"{call.tokens} tokens"
        self._finish(call, Ended(Judgement(Outcome.DISCONNECTED, f"left after {what}")))

    def _resume(self) -> None:
        if not self.closed and self._call is not None:
            self.link.resume()


def _is_half(call: Call) -> bool:
    return call.fault is not None and call.fault.kind is FaultKind.HALF_OPEN
