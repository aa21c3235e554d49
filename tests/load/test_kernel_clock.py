"""The kernel's time of what came: right however late it is read, on the clock of the run."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest
import uvloop
from load_helpers import run_load, workload
from scripted_server import ScriptedServer

from kit.load.kernel_clock import KernelClock
from kit.load.link import PutOff
from kit.load.links import Links
from kit.load.poller import LONG_GAP_NS, SHORT_GAP_NS, Poller, StampedLink
from kit.study.spec import Protocol

MS = 1_000_000


class Clocks:
    """A monotonic clock and a wall clock of ours."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.offset_ns = 10**18

    def clock(self) -> int:
        return self.now_ns

    def wall(self) -> int:
        return self.now_ns + self.offset_ns


def test_a_wall_clock_that_drifts_is_followed_and_one_that_is_set_is_noticed() -> None:
    clocks = Clocks()
    kernel = KernelClock(clocks.clock, clocks.wall)
    assert (kernel.check(), kernel.offset_ns) == (clocks.now_ns, 10**18)
    clocks.offset_ns += 300_000  # slewed
    kernel.check()
    assert (kernel.offset_ns, kernel.stepped, kernel.steps) == (10**18 + 300_000, False, 0)
    clocks.offset_ns -= 5 * 10**9  # set
    kernel.check()
    assert (kernel.offset_ns, kernel.stepped, kernel.steps) == (clocks.offset_ns, True, 1)
    kernel.check()
    assert not kernel.stepped


class Receiver:
    """Notes what it is told."""

    def __init__(self, *, mid_stream: bool = True) -> None:
        self.mid_stream = mid_stream
        self.came: list[tuple[bytes, int]] = []
        self.without_stamp = 0
        self.times_written = 0
        self.end: list[Exception | None] = []

    def received(self, data: bytes, now_ns: int) -> PutOff | None:
        self.came.append((data, now_ns))
        return PutOff() if self.mid_stream else None

    def unstamped(self) -> None:
        self.without_stamp += 1

    def written(self) -> None:
        self.times_written += 1

    def lost(self, error: Exception | None) -> None:
        self.end.append(error)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.alone
def test_what_waits_in_a_socket_has_the_time_at_which_it_came() -> None:
    came: list[tuple[int, int]] = []  # before and after each send, by the server

    def serve(listener: socket.socket, go: threading.Event) -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(6):
                go.wait()
                go.clear()
                before = monotonic_ns()
                connection.sendall(b"piece")
                came.append((before, monotonic_ns()))
            go.wait()

    async def read(listener: socket.socket, go: threading.Event) -> list[tuple[int, int]]:
        receiver = Receiver()
        links = Links(asyncio.get_running_loop(), monotonic_ns)
        link = await links.open(receiver, *listener.getsockname(), None)
        assert link.has_kernel_clock
        times = []
        for number in range(6):
            go.set()
            while len(came) <= number:
                time.sleep(0.001)
            time.sleep(0.03)  # the whole process is busy with something else
            read_ns = monotonic_ns()
            await until(lambda number=number: len(receiver.came) > number)
            times.append((receiver.came[number][1], read_ns))
            if number == 0:  # Linux begins to stamp some time after the first socket asks for it
                receiver.without_stamp = 0
        go.set()
        link.abort()
        links.close()
        assert receiver.without_stamp == 0
        return times

    with socket.create_server(("127.0.0.1", 0)) as listener:
        go = threading.Event()
        thread = threading.Thread(target=serve, args=(listener, go))
        thread.start()
        times = uvloop.run(read(listener, go))
        thread.join()
    for (at, read_ns), (before, after) in zip(times[1:], came[1:], strict=True):
        assert before - MS < at < after + MS
        assert at < read_ns - 20 * MS


def scripted_link(poller: Poller, receiver: Receiver, stamps_ns: list[int | None]) -> Any:
    """A link whose next reads give a byte with each of these stamps of the wall clock."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(b"x" * len(stamps_ns))  # so that it is ready to be read
    link = StampedLink(ours, poller, receiver)
    following = iter(stamps_ns)

    def recvmsg(size: int, space: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        ours.recv(1)
        at = next(following)
        stamp = [] if at is None else [(1, 35, struct.pack("@ll", at // 10**9, at % 10**9))]
        return b"x", stamp, 0, None

    link.recvmsg = recvmsg  # type: ignore[method-assign, assignment]
    link.far_end = theirs  # type: ignore[attr-defined]
    return link


def read_all(stamps_ns: list[int | None], *, mid_stream: bool) -> tuple[list[int], Receiver, Any]:
    """(times that the receiver got, receiver, link) when the clocks stand at Clocks()."""

    async def go() -> tuple[list[int], Receiver, Any]:
        clocks = Clocks()
        clocks.now_ns += 10**12
        poller = Poller(
            asyncio.get_running_loop(), clocks.clock, KernelClock(clocks.clock, clocks.wall)
        )
        receiver = Receiver(mid_stream=mid_stream)
        link = scripted_link(poller, receiver, stamps_ns)
        await until(lambda: len(receiver.came) == len(stamps_ns))
        in_ticks = link.in_ticks
        link.far_end.close()
        link.abort()
        poller.close()
        return [at for _, at in receiver.came], receiver, in_ticks

    return uvloop.run(go())


def wall(times_ns: list[int]) -> list[int | None]:
    """These times as the kernel would stamp them with the wall clock of Clocks()."""
    return [10**18 + at for at in times_ns]


def test_stamps_become_times_of_the_run_that_never_go_back_or_ahead() -> None:
    start = 10**12
    times, receiver, _ = read_all(wall([start, start - 5, start + 10**13]), mid_stream=False)
    assert times == [start, start, 2 * 10**12]  # the last is not later than it was read
    assert receiver.without_stamp == 0


def test_what_the_kernel_has_no_time_for_has_that_of_the_client() -> None:
    times, receiver, _ = read_all([10**18 + 10**12, None], mid_stream=False)
    assert times == [10**12, 2 * 10**12]
    assert receiver.without_stamp == 1


def test_a_stream_is_read_in_ticks_if_its_pieces_are_far_apart() -> None:
    def after(gap_ns: int, count: int = 8) -> list[int | None]:
        return wall([10**12 + number * gap_ns for number in range(count)])

    assert read_all(after(LONG_GAP_NS + 1), mid_stream=True)[2]
    assert not read_all(after(LONG_GAP_NS + 1), mid_stream=False)[2], "something waits for it"
    assert not read_all(after(SHORT_GAP_NS - 1), mid_stream=True)[2]
    close = [*after(LONG_GAP_NS + 1), *wall([2 * 10**12 - 9 + i for i in range(9)])]
    assert not read_all(close, mid_stream=True)[2], "two pieces would have one time"


def test_many_streams_in_ticks_and_their_ends_are_all_read() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop, monotonic_ns)
        receivers = [Receiver() for _ in range(20)]
        pairs = [socket.socketpair() for _ in receivers]
        for (ours, _), receiver in zip(pairs, receivers, strict=True):
            ours.setblocking(False)
            link = StampedLink(ours, poller, receiver)
            link.last_ns = 1
            poller._move(link, in_ticks=True)
        for _ in range(10):
            for _, theirs in pairs:
                theirs.send(b"x")
            await asyncio.sleep(0.001)
        await until(lambda: all(len(b"".join(d for d, _ in r.came)) == 10 for r in receivers))
        for _, theirs in pairs:
            theirs.close()
        await until(lambda: all(receiver.end == [None] for receiver in receivers))
        poller.close()

    uvloop.run(go())


class BusyReceiver(Receiver):
    """Takes a millisecond for each piece, and does something meanwhile."""

    def __init__(self, meanwhile: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def received(self, data: bytes, now_ns: int) -> PutOff | None:
        time.sleep(0.001)
        self.meanwhile()
        return super().received(data, now_ns)


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("is_slow", [False, True])
def test_sockets_are_read_again_while_what_came_is_handed_on(place: int, is_slow: bool) -> None:
    """40 pieces take 40 ms; of two more in one socket each has a time of its own.

    A slow reader's socket is left alone meanwhile.
    """

    async def go() -> None:
        poller = Poller(asyncio.get_running_loop(), monotonic_ns)
        pairs = [socket.socketpair() for _ in range(40)]
        ours, theirs = pairs[place]
        receivers = [BusyReceiver() for _ in pairs]
        poller._streams = True
        watched = receivers[place]
        receivers[5].meanwhile = lambda: theirs.send(b"second")
        receivers[25].meanwhile = lambda: theirs.send(b"third")
        unread: list[bytes] = []
        watched.meanwhile = lambda: unread.append(peeked(ours))
        for (one, other), receiver in zip(pairs, receivers, strict=True):
            one.setblocking(False)
            link = StampedLink(one, poller, receiver)
            if is_slow and receiver is watched:
                link.narrow(4096)
            other.send(b"first")
        await until(lambda: b"third" in b"".join(data for data, _ in watched.came))
        pieces = [data for data, _ in watched.came]
        if not is_slow:
            assert pieces == [b"first", b"second", b"third"]
        elif place:
            assert pieces[0] == b"first"
            assert unread[0] == b"secondthird", "read before the first was handed on"
        for one, other in pairs:
            one.close()
            other.close()
        poller.close()

    uvloop.run(go())


def peeked(sock: socket.socket) -> bytes:
    """What waits in a socket."""
    try:
        return sock.recv(100, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def test_what_the_kernel_does_not_take_is_sent_when_it_does() -> None:
    async def go() -> None:
        poller = Poller(asyncio.get_running_loop(), monotonic_ns)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        receiver = Receiver()
        link = StampedLink(ours, poller, receiver)
        data = bytes(range(256)) * 20_000
        link.send(data)
        link.send(b"end")
        assert link.unsent
        got = bytearray()
        while len(got) < len(data) + 3:
            try:
                got += theirs.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert bytes(got) == data + b"end"
        await until(lambda: receiver.times_written)
        assert not link.unsent
        theirs.close()
        await until(lambda: receiver.end)
        poller.close()

    uvloop.run(go())


def test_a_link_that_pauses_or_is_aborted_hears_nothing() -> None:
    async def go() -> None:
        poller = Poller(asyncio.get_running_loop(), monotonic_ns)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        receiver = Receiver()
        link = StampedLink(ours, poller, receiver)
        link.pause()
        theirs.send(b"x")
        await asyncio.sleep(0.02)
        assert receiver.came == []
        link.resume()
        await until(lambda: receiver.came)
        link.abort()
        theirs.close()
        await asyncio.sleep(0.02)
        assert receiver.end == []
        poller.close()

    uvloop.run(go())


@pytest.mark.slow
def test_every_record_says_whose_clock_it_has(tmp_path: Path) -> None:
    for protocol in (Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM):
        with ScriptedServer() as server:
            rows = run_load(workload(protocol=protocol), server.port, tmp_path / protocol.value)
        assert [row["outcome"] for row in rows] == list(repeat("ok", 40))
        assert {row["clock"] for row in rows} == {"kernel"}
        for row in rows:
            assert row["sent_ns"] <= row["first_ns"] <= row["end_ns"]
