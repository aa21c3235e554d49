"""Reads sockets with the kernel's own time of what came, one at a time or in ticks.

`SO_TIMESTAMPNS` makes `recvmsg` give the kernel's receive time of the last segment that it
returns. A stamp is then right however late this process reads, so pieces in the middle of a
stream, on which nothing waits, are read in ticks of a few milliseconds, many at a time: that
costs about half. At low load they are read at once.

Two pieces that wait in one socket have the time of the later one: streams whose pieces come closer
together than `SHORT_GAP_NS` are not read in ticks, and all sockets are read before anything that
came is handed on, since that takes longer.

Sources: Linux `Documentation/networking/timestamping.rst`, section 1.2 (SO_TIMESTAMPNS);
`net/ipv4/tcp.c`, `tcp_recv_timestamp`.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import sys
from typing import Any

from kit.load.kernel_clock import KernelClock
from kit.load.link import Clock, PutOff, Receiver, ignore

#: The socket option, and the type of the control message: asm-generic/socket.h.
SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
_TIMESPEC = struct.Struct("@ll")
_SPACE = socket.CMSG_SPACE(_TIMESPEC.size) if hasattr(socket, "CMSG_SPACE") else 0
_READ_BYTES = 65536
_MOST_READ = 1024  # sockets in one batch
_EPOLLIN = getattr(select, "EPOLLIN", 1)

#: How often streams are read in ticks. Shorter than the time between two tokens by far.
TICK_S = 0.002
#: Pieces of a stream further apart than this are read in ticks,
LONG_GAP_NS = 8_000_000
#: unless some came closer together than this.
SHORT_GAP_NS = 4_000_000
_SHORT_GAPS = 3
#: While what was read is handed on, sockets are read again so often, and no longer than so long
#: before the loop gets to its timers.
_TAKE_AGAIN_NS = 2_000_000
_LONGEST_READ_NS = 150_000_000


def is_supported() -> bool:
    """Whether this system stamps what it receives."""
    return sys.platform == "linux" and hasattr(select, "epoll")


#: What was read of a link, when it came (an OSError: what broke it), how long after the last.
_Came = tuple["StampedLink", bytes, Any, int]


class StampedLink:
    """A link on a plain TCP socket; what comes has the kernel's time."""

    by_tls = None

    def __init__(self, sock: socket.socket, poller: Poller, receiver: Receiver) -> None:
        self.has_kernel_clock = True
        self.unsent = False
        self.fd = sock.fileno()
        self.in_ticks = False
        self.last_ns = 0  # when the last bytes came
        self.short_gaps = 0
        self.later: PutOff | None = None  # where reads may be put off
        self.is_slow = False  # it is read no faster than what was read is handed on
        self.waits = False  # something was read of it that is not handed on yet
        self._sock = sock
        self.recvmsg = sock.recvmsg
        self._poller = poller
        self.receiver = receiver
        self.received = receiver.received
        self._held = b""
        self._paused = False
        poller.add(self)

    def send(self, data: bytes) -> None:
        if not self.unsent:
            try:
                sent = os.write(self.fd, data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._held += data
        self.unsent = True
        self._poller.watch(self)

    def write_held(self) -> None:
        """The kernel takes bytes again."""
        try:
            self._held = self._held[os.write(self.fd, self._held) :]
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(error)
            return
        if not self._held:
            self.unsent = False
            self._poller.watch(self)
            self.receiver.written()

    def narrow(self, receive_bytes: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.is_slow = True

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._poller.remove(self)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._poller.add(self)

    def abort(self) -> None:
        if self.fd >= 0:
            self.received = ignore
            if not self._paused:
                self._poller.remove(self)
            self.fd = -1
            # Closed, not reset: as a transport's `abort` does.
            self._sock.close()

    def lose(self, error: Exception | None) -> None:
        """The other side has closed the connection, or it broke."""
        self.abort()
        self.receiver.lost(error)


class Poller:
    """Reads the stamped links of one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        kernel_clock: KernelClock | None = None,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self.kernel_clock = kernel_clock or KernelClock(clock)
        self._links: dict[int, StampedLink] = {}
        # One for what is read at once, one for what is read in ticks.
        self._prompt = select.epoll()
        self._ticked = select.epoll()
        self._tick: asyncio.TimerHandle | None = None
        self._woken_ns = 0
        self._streams = False  # some link was in the middle of a stream
        loop.add_reader(self._prompt.fileno(), self._prompt_ready)
        loop.add_reader(self._ticked.fileno(), self._ticked_ready)

    async def connect(self, receiver: Receiver, host: str, port: int) -> StampedLink:
        """A link to the first address of `host` that takes the connection.

        Raises:
            OSError: there is none.
        """
        problem: OSError | None = None
        for family, kind, protocol, _, address in await self._addresses(host, port):
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._loop.sock_connect(sock, address)
                return StampedLink(sock, self, receiver)
            except OSError as error:
                sock.close()
                problem = error
            except BaseException:
                sock.close()
                raise
        raise problem or OSError(f"{host} has no address")

    async def _addresses(self, host: str, port: int) -> list[tuple[int, int, int, str, tuple]]:  # type: ignore[type-arg]
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, host)
            except OSError:
                continue
            return [(family, socket.SOCK_STREAM, 0, "", (host, port))]
        return await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]

    def add(self, link: StampedLink) -> None:
        """Read this link from now on."""
        self._links[link.fd] = link
        self._prompt.register(link.fd, _events(link))

    def remove(self, link: StampedLink) -> None:
        """Read it no more."""
        (self._ticked if link.in_ticks else self._prompt).unregister(link.fd)
        link.in_ticks = False
        del self._links[link.fd]

    def watch(self, link: StampedLink) -> None:
        """Look whether it can be written, or no longer."""
        if link.fd in self._links:
            (self._ticked if link.in_ticks else self._prompt).modify(link.fd, _events(link))

    def close(self) -> None:
        """Read nothing any more."""
        if self._tick is None:
            self._loop.remove_reader(self._ticked.fileno())
        else:
            self._tick.cancel()
        self._loop.remove_reader(self._prompt.fileno())
        self._prompt.close()
        self._ticked.close()

    # --- reading

    def _prompt_ready(self) -> None:
        self._read(self._prompt.poll(0, _MOST_READ))

    def _ticked_ready(self) -> None:
        """At low load ticked links are read at once; when it was twice in a tick, in ticks."""
        now = self._clock()
        self._read(self._ticked.poll(0, _MOST_READ))
        if now - self._woken_ns < TICK_S * 1e9:
            self._loop.remove_reader(self._ticked.fileno())
            self._tick = self._loop.call_later(TICK_S, self._tick_over)
        self._woken_ns = now

    def _tick_over(self) -> None:
        ready = self._ticked.poll(0, _MOST_READ)
        if len(ready) > 1:
            self._tick = self._loop.call_later(TICK_S, self._tick_over)
        else:
            self._tick = None
            self._woken_ns = 0
            self._loop.add_reader(self._ticked.fileno(), self._ticked_ready)
        self._read(ready)

    def _read(self, ready: list[tuple[int, int]]) -> None:
        """Take what has come and hand it on.

        Where there are streams it is taken first and then handed on, which takes longer by far.
        What comes meanwhile is taken every few milliseconds: of two pieces in one socket the first
        would get the time of the second.
        """
        if not self._streams:
            self._take(ready, None)
            return
        came: list[_Came] = []
        self._take(ready, came)
        clock = self._clock
        now = clock()
        due, end = now + _TAKE_AGAIN_NS, now + _LONGEST_READ_NS
        for number, (link, data, at, gap) in enumerate(came):  # it may become longer
            link.waits = False
            if not data:
                if link.fd >= 0:
                    link.lose(at if isinstance(at, OSError) else None)
                continue
            received = link.received
            link.later = later = received(data, at)
            if later is not None:
                self._pace(link, gap)
            elif link.in_ticks:
                link.short_gaps = 0
                self._move(link, in_ticks=False)
            if number & 15 == 15 and clock() > due:
                now = clock()
                if now < end:
                    self._take(self._prompt.poll(0, _MOST_READ), came)
                    self._take(self._ticked.poll(0, _MOST_READ), came)
                due = now + _TAKE_AGAIN_NS

    def _take(self, ready: list[tuple[int, int]], came: list[_Came] | None) -> None:
        """Read these sockets. What cannot be put off is appended to `came`; None: handed on."""
        clock = self.kernel_clock
        now = clock.check()
        offset_ns = clock.offset_ns
        trusted = not clock.stepped
        links, unpack, most, space = self._links, _TIMESPEC.unpack, _READ_BYTES, _SPACE
        for fd, events in ready:
            try:
                link = links[fd]
            except KeyError:  # it was closed meanwhile
                continue
            if link.waits:
                continue
            if events != _EPOLLIN and not self._writable(link, events):
                continue
            recvmsg = link.recvmsg
            try:
                data, stamps, _, _ = recvmsg(most, space)
            except BlockingIOError:
                continue
            except OSError as error:
                _end(link, error, came)
                continue
            if not data:
                _end(link, None, came)
                continue
            last = link.last_ns
            if stamps and trusted:
                seconds, nanoseconds = unpack(stamps[0][2])
                at = seconds * 1_000_000_000 + nanoseconds - offset_ns
                if at > now:
                    at = min(at, self._clock())
                if at < last:
                    at = last
            else:
                at = self._clock()
                link.receiver.unstamped()
            link.last_ns = at
            if came is None:
                received = link.received
                later = received(data, at)
                if later is not None:
                    link.later, self._streams = later, True
                continue
            later = link.later
            if later is None or not later.keeps(data, at):
                link.waits = link.is_slow
                came.append((link, data, at, at - last))
            elif not link.in_ticks or at - last < SHORT_GAP_NS:
                self._pace(link, at - last)

    def _pace(self, link: StampedLink, gap_ns: int) -> None:
        """Read a stream in ticks or at once, as it is after a piece that came so long after one."""
        if link.in_ticks:
            if gap_ns < SHORT_GAP_NS:
                link.short_gaps += 1
                if link.short_gaps >= _SHORT_GAPS:
                    self._move(link, in_ticks=False)
        elif gap_ns > LONG_GAP_NS and link.short_gaps < _SHORT_GAPS and link.fd >= 0:
            self._move(link, in_ticks=True)

    def _writable(self, link: StampedLink, events: int) -> bool:
        """Write what was held back, if it can be; whether there is something to read as well."""
        if events & select.EPOLLOUT:
            link.write_held()
        return events != select.EPOLLOUT and link.fd >= 0

    def _move(self, link: StampedLink, *, in_ticks: bool) -> None:
        """Read it in ticks, or at once."""
        before, after = self._prompt, self._ticked
        if not in_ticks:
            before, after = after, before
        before.unregister(link.fd)
        after.register(link.fd, _events(link))
        link.in_ticks = in_ticks


def _end(link: StampedLink, error: OSError | None, came: list[_Came] | None) -> None:
    """The link is over, now or behind what came of it."""
    if came is None:
        link.lose(error)
    else:
        came.append((link, b"", error, 0))


def _events(link: StampedLink) -> int:
    return select.EPOLLIN | select.EPOLLOUT if link.unsent else select.EPOLLIN
