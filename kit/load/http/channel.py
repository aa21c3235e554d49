"""One client's line to an HTTP server: it sends a call, and its host hears of the call's end.

A channel has one request open at a time, on a connection that it keeps as long as the server
lets it. Whatever the server does becomes a judgement; nothing is raised.
"""

from __future__ import annotations

import asyncio

from kit.load.answers import OK, Judgement, clipped
from kit.load.channel import Host, raise_task_error
from kit.load.http.connection import Connection
from kit.load.http.dialect import Dialect
from kit.load.http.exchange import Ended, Exchange
from kit.load.http.layout import ResponseLayout
from kit.load.http.target import HttpTarget
from kit.load.links import Links
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck, FaultKind


class HttpChannel:
    """`send` a call, and the host hears of its end.

    quotes: keep what the server answered, for the next turn's prompt.
    layout: what valid answers look like, shared by the channels of a worker.
    """

    def __init__(
        self,
        host: Host,
        links: Links,
        dialect: Dialect,
        target: HttpTarget,
        check: AnswerCheck,
        layout: ResponseLayout,
        *,
        quotes: bool = False,
    ) -> None:
        self.index = NEVER
        self.call: Call | None = None
        self.answered: bytes | None = None
        self._dialect = dialect
        self._check = check
        self._layout = layout
        self._quotes = quotes
        self._streams = dialect.streams
        self._host = host
        self._ended = host.ended
        self._links = links
        self._loop = host.loop
        self._target = target
        self._connection: Connection | None = None
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
        connection = self._connection
        if connection is not None:
            connection.begin(call)
        else:
            self._open(call)

    def _open(self, call: Call) -> None:
        """Begin `call` on a connection of its own."""
        call.begun_ns = self._host.clock()
        self._connecting = self._loop.create_task(self._connect(call))
        self._connecting.add_done_callback(raise_task_error)

    def expire(self) -> None:
        """The open call has had its time."""
        self.flush()
        call = self.call
        if call is None:
            return
        if call.fault is not None and call.fault.kind is FaultKind.HALF_OPEN:
            self._end(call, _half_open())
            return
        came = f"{call.received_bytes} bytes came" if call.received_bytes else "nothing came"
        self._end(call, Judgement(Outcome.TIMEOUT, f"no whole answer in time; {came}"))

    def flush(self) -> None:
        """Read the events that were put off."""
        if self._connection is not None:
            self._connection.flush()

    def abandon(self) -> Call | None:
        """Drop the open call, if any, without telling the host."""
        self.flush()
        call, self.call = self.call, None
        self._hang_up()
        return call

    # --- what the connection calls

    def _on_end(self, call: Call, ended: Ended) -> None:
        """Report `call`, unless that was done before; the connection is closed or kept."""
        if call is not self.call:
            return
        judgement = ended.judgement
        if judgement is not OK and self._dialect.refuses_usage(call, judgement):
            self._send_again(call, reusable=ended.reusable)
            return
        if call.is_resent:
            self._dialect.answered_again(judgement)
        self.call = None
        if call.end_ns == NEVER:
            call.end_ns = self._host.clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not ended.reusable:
            self._hang_up()
        if ended.answered is not None:
            self.answered = ended.answered
        self._ended(self, call, judgement)

    def _send_again(self, call: Call, *, reusable: bool) -> None:
        """Send the open call in another form; its deadline stays."""
        timer, self._timer = self._timer, None
        if not reusable:
            self._hang_up()
        self._timer = timer
        call.send_again()
        if self._streams:
            call.stream()
        if self._connection is not None:
            self._connection.begin(call)
        else:
            self._open(call)

    def _on_well(self, call: Call) -> None:
        """As `_on_end`, without the questions that other ends need."""
        self.call = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended = self._ended
        ended(self, call, OK)

    def _end(self, call: Call, judgement: Judgement) -> None:
        self._on_end(call, Ended(judgement))

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None

    # --- the connection

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _deadline(self, call: Call, fault: FaultPlan) -> None:
        self._timer = None
        if fault.kind is FaultKind.DEADLINE:
            ending = Judgement(Outcome.TIMEOUT, f"client deadline of {fault.deadline_s:.6g} s")
        elif fault.kind is FaultKind.HALF_OPEN:
            ending = _half_open()
        else:
            ending = Judgement(Outcome.DISCONNECTED, f"left after {fault.deadline_s:.6g} s")
        self._end(call, ending)

    def _new_connection(self) -> Connection:
        return Connection(
            Exchange(self._dialect, self._check, self._layout, quotes=self._quotes),
            self._loop,
            self._host.clock,
            self._on_end,
            self._on_well,
            self._on_lost,
            shows_tokens=self._streams,
        )

    async def _connect(self, call: Call) -> None:
        target = self._target
        connection = self._new_connection()
        try:
            connection.link = await self._links.open(
                connection, target.host, target.port, target.tls
            )
        except OSError as error:
            self._connecting = None
            self._end(call, Judgement(Outcome.REFUSED, clipped(str(error))))
            return
        self._connecting = None
        if call is not self.call:
            connection.abort()
        elif connection.closed:
            self._end(call, Judgement(Outcome.RESET, "closed before the request was sent"))
        else:
            self._connection = connection
            connection.begin(call)


def _half_open() -> Judgement:
    return Judgement(Outcome.DISCONNECTED, "sent half a request, then nothing")
