"""gRPC connections: socket, clock and waiting for a `GrpcExchange`, each shared by a few clients.

A `SharedConnection` is what its clients see: it connects when one of them has a call and there is
no connection, holds calls back while the server takes no more, and tells them when theirs can
begin.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from kit.load.answers import Judgement, clipped
from kit.load.channel import Host, raise_task_error
from kit.load.grpc.exchange import Answered, GrpcEnded, GrpcExchange, Message, Rpc
from kit.load.grpc.target import HTTP2_BY_TLS, GrpcTarget
from kit.load.link import Link
from kit.load.links import Links
from kit.study.result import Outcome

#: A server that has not sent its SETTINGS by then is none, as for gRPC's own clients.
SETTINGS_S = 20.0
#: A server that lets so much wait that it asked for (acknowledgements, requests) is left.
_MOST_UNSENT_BYTES = 16 << 20


class Caller(Protocol):
    """A client of a SharedConnection."""

    def begin(self, connection: GrpcConnection) -> None:
        """The call that it wanted can be opened now, on `connection`."""

    def refused(self, judgement: Judgement) -> None:
        """There is no connection for it."""

    def on_message(self, rpc: Rpc, data: bytes, now_ns: int) -> None:
        """A message of its call has come."""

    def on_answer(self, rpc: Rpc, data: bytes, now_ns: int) -> None:
        """Its call is over, and well by gRPC, with this one message."""

    def on_end(
        self, rpc: Rpc, status: int | None, judgement: Judgement | None, now_ns: int
    ) -> None:
        """Its call is over; what it was for may be over before or go on."""

    def on_written(self, rpc: Rpc) -> None:
        """Its request, which was held back, was given to the kernel just now."""

    def unstamped(self) -> None:
        """What comes next has the time of this process, not the kernel's."""


class GrpcConnection:
    """One connection. `exchange` has its calls; `flush` writes what that wants sent."""

    def __init__(self, line: SharedConnection, exchange: GrpcExchange, host: Host) -> None:
        self.link: Link  # set by whoever opens it
        self.exchange = exchange
        self.is_closed = False
        self._line = line
        self._clock = host.clock
        self._held: list[Rpc] = []  # of which the kernel has not taken all

    def flush(self, rpc: Rpc | None = None) -> None:
        """Write what is to be sent; rpc: the call whose request this is.

        While the kernel holds back what was written before, it waits here.
        """
        out, link = self.exchange.out, self.link
        if self.is_closed or not out:
            return
        if not link.unsent:  # else the kernel has not taken all that was written before
            data = bytes(out)
            out.clear()
            try:
                link.send(data)
            except OSError as error:
                self._end(f"while sending: {error}")
                return
        if rpc is not None and link.unsent:
            self._held.append(rpc)

    def abort(self) -> None:
        """Close at once."""
        if not self.is_closed:
            self.is_closed = True
            self.link.abort()

    # --- what the link calls

    def received(self, data: bytes, now_ns: int) -> None:
        exchange = self.exchange
        for event in exchange.feed(data):
            caller: Caller | None = event.rpc.owner
            if caller is None:
                continue
            if isinstance(event, Message):
                caller.on_message(event.rpc, event.data, now_ns)
            elif isinstance(event, Answered):
                caller.on_answer(event.rpc, event.data, now_ns)
            elif isinstance(event, GrpcEnded):
                caller.on_end(event.rpc, event.status, event.judgement, now_ns)
            else:
                self.flush(event.rpc)
                caller.on_written(event.rpc)
        if exchange.out:
            self.flush()
        if exchange.failure is not None:
            self._close(exchange.failure)
        elif exchange.is_going and not exchange.open_calls:
            self._close(Judgement(Outcome.REFUSED, "the server is going away"))
        elif not self.is_closed:
            if self.link.unsent and len(exchange.out) > _MOST_UNSENT_BYTES:
                self._end("the server takes nothing of what it is owed")
            else:
                self._line.admit(self)

    def unstamped(self) -> None:
        for caller in self.exchange.owners():
            caller.unstamped()

    def written(self) -> None:
        self.flush()
        if self.is_closed or self.link.unsent:
            return
        held, self._held = self._held, []
        for rpc in held:
            if rpc.owner is not None:
                rpc.owner.on_written(rpc)

    def lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else "closed by the server")

    # --- ends

    def _end(self, how: str) -> None:
        """Every call that is open was cut off."""
        self.abort()
        now_ns = self._clock()
        for event in self.exchange.lost(how):
            if isinstance(event, GrpcEnded) and event.rpc.owner is not None:
                event.rpc.owner.on_end(event.rpc, event.status, event.judgement, now_ns)
        self._close(Judgement(Outcome.REFUSED, clipped(how)))

    def _close(self, why: Judgement) -> None:
        self.abort()
        self._line.lost(self, why)


class SharedConnection:
    """The connection that some clients share, made anew when it is lost."""

    def __init__(self, host: Host, links: Links, target: GrpcTarget) -> None:
        self._host = host
        self._links = links
        self._target = target
        self._connection: GrpcConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._waiting: dict[Caller, None] = {}  # clients with a call to begin, in turn

    def want(self, caller: Caller) -> None:
        """Let `caller` begin a call as soon as there is a connection that takes it."""
        connection = self._connection
        if connection is not None:
            if not self._waiting and connection.exchange.can_open:
                caller.begin(connection)
                return
            if connection.exchange.is_going:
                connection = self._connection = None  # it closes when its last call has ended
        self._waiting[caller] = None
        if connection is None and self._connecting is None:
            self._connecting = self._host.loop.create_task(self._connect())
            self._connecting.add_done_callback(raise_task_error)

    def forget(self, caller: Caller) -> None:
        """It wants nothing any more."""
        self._waiting.pop(caller, None)

    def admit(self, connection: GrpcConnection) -> None:
        """Begin what waits, as far as the server takes it."""
        if not self._waiting and self._patience is None:
            return
        if connection is not self._connection or not connection.exchange.is_ready:
            return
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        while self._waiting and connection.exchange.can_open and not connection.is_closed:
            caller = next(iter(self._waiting))
            del self._waiting[caller]
            caller.begin(connection)

    def lost(self, connection: GrpcConnection, why: Judgement) -> None:
        """A connection is closed: who waits for it is refused."""
        if connection is not self._connection:
            return
        self._forget_connection()
        self._refuse(why)

    def break_off(self) -> None:
        """Close the connection as a client does that goes away."""
        connection = self._connection
        self._forget_connection()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if connection is not None:
            connection.abort()

    def _forget_connection(self) -> None:
        self._connection = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, why: Judgement) -> None:
        waiting, self._waiting = self._waiting, {}
        refusal = why._replace(outcome=Outcome.REFUSED)
        for caller in waiting:
            caller.refused(refusal)

    async def _connect(self) -> None:
        target = self._target
        connection = GrpcConnection(self, GrpcExchange(target.head), self._host)
        try:
            connection.link = await self._links.open(
                connection, target.host, target.port, target.tls
            )
        except OSError as error:
            self._connecting = None
            self._refuse(Judgement(Outcome.REFUSED, clipped(str(error))))
            return
        self._connecting = None
        if connection.is_closed:
            self._refuse(Judgement(Outcome.REFUSED, "closed before the request was sent"))
            return
        chosen = connection.link.by_tls
        if target.tls is not None and chosen != HTTP2_BY_TLS:
            connection.abort()
            what = f"the server speaks {chosen or 'no protocol that it names'} over TLS, not h2"
            self._refuse(Judgement(Outcome.REFUSED, clipped(what)))
            return
        self._connection = connection
        self._patience = self._host.loop.call_later(SETTINGS_S, self._lose_patience, connection)
        connection.flush()

    def _lose_patience(self, connection: GrpcConnection) -> None:
        self._patience = None
        if connection is self._connection and not connection.exchange.is_ready:
            self._connection = None
            connection.abort()
            self._refuse(Judgement(Outcome.REFUSED, f"no SETTINGS within {SETTINGS_S:g} s"))
