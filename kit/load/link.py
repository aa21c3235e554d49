"""One connection's bytes: what a protocol sees of its socket.

A `Link` writes straight to the socket while the kernel takes everything; what it does not take
waits in the event loop's transport. What comes is handed on with the time at which it came.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

#: CLOCK_MONOTONIC nanoseconds.
Clock = Callable[[], int]


#: One read so large, or so many, are not put off any longer.
LARGE_READ_BYTES = 32768
MOST_PUT_OFF = 256


class PutOff:
    """Reads in the middle of a stream, kept with the times at which they came, to be parsed later.

    middles: how a read ends after which more must come. A link may keep such a read here in the
    place of handing it on; none: it hands on each.
    """

    __slots__ = ("middles", "reads", "times_ns")

    def __init__(self) -> None:
        self.middles: tuple[bytes, ...] = ()
        self.reads: list[bytes] = []
        self.times_ns: list[int] = []

    def keeps(self, data: bytes, now_ns: int) -> bool:
        """Keep what came at `now_ns` if it may be put off; whether it may."""
        reads = self.reads
        if (
            data.endswith(self.middles)
            and len(data) < LARGE_READ_BYTES
            and len(reads) < MOST_PUT_OFF
        ):
            reads.append(data)
            self.times_ns.append(now_ns)
            return True
        return False

    def taken(self) -> tuple[list[bytes], list[int]]:
        """What was put off, and when each came; from now on there is none."""
        reads, self.reads = self.reads, []
        times_ns, self.times_ns = self.times_ns, []
        return reads, times_ns


class Receiver(Protocol):
    """What a link tells of its connection."""

    def received(self, data: bytes, now_ns: int) -> PutOff | None:
        """`data` has come, at `now_ns`; where the next reads may be put off, or None: nowhere."""

    def unstamped(self) -> None:
        """The kernel has no time for what is received next: it has that of this process."""

    def written(self) -> None:
        """The kernel has taken everything that was held back."""

    def lost(self, error: Exception | None) -> None:
        """The connection is closed; None: the other side closed it in order."""


class Link(Protocol):
    """One open connection."""

    @property
    def unsent(self) -> bool:
        """Some bytes wait for the kernel to take them."""

    #: What comes has the time at which the kernel received it, not that of this process.
    has_kernel_clock: bool

    @property
    def by_tls(self) -> str | None:
        """The protocol that was agreed on by TLS (ALPN); None: there is no TLS, or none was."""

    def send(self, data: bytes) -> None:
        """Send it, or hold back what the kernel does not take now (`unsent`).

        Raises:
            OSError: the connection is broken.
        """

    def narrow(self, receive_bytes: int) -> None:
        """Take at most so little from the network at a time."""

    def pause(self) -> None:
        """Read nothing until `resume`."""

    def resume(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """Close at once; the receiver hears nothing more."""


class TransportLink(asyncio.Protocol):
    """A link on a transport of the event loop, with or without TLS."""

    has_kernel_clock = False

    def __init__(self, receiver: Receiver, clock: Clock) -> None:
        self._waits = False  # for the kernel to take bytes
        self._receiver = receiver
        self._clock = clock
        self._received: Callable[[bytes, int], PutOff | None] = receiver.received
        self._open = True
        self._transport: Any = None
        self._fd = -1  # written to directly; -1: through the transport (TLS)

    # --- what protocols call

    def send(self, data: bytes) -> None:
        if self._fd >= 0 and not self._waits:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
        else:
            sent = 0
        if sent < len(data):
            # With a buffer limit of 0, resume_writing comes when the kernel has taken all.
            self._transport.write(data[sent:])

    @property
    def unsent(self) -> bool:
        return self._waits or self._transport.get_write_buffer_size() > 0

    @property
    def by_tls(self) -> str | None:
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.selected_alpn_protocol()

    def narrow(self, receive_bytes: int) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def abort(self) -> None:
        self._open = False
        self._received = ignore
        self._fd = -1
        self._transport.abort()

    # --- what the event loop calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("sslcontext") is None:
            self._fd = sock.fileno()

    def data_received(self, data: bytes) -> None:
        self._received(data, self._clock())

    def pause_writing(self) -> None:
        self._waits = True

    def resume_writing(self) -> None:
        self._waits = False
        if self._open:
            self._receiver.written()

    def connection_lost(self, error: Exception | None) -> None:
        self._fd = -1
        if self._open:
            self._open = False
            self._receiver.lost(error)


def ignore(data: bytes, now_ns: int) -> None:
    """What comes after an abort is nobody's."""
