"""A run's clock: what it does between answers is cut small, and records are soon on disk."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from load_helpers import workload

from kit.load.answers import Judgement
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import Traffic
from kit.load.worker.counters import Counters, Elsewhere
from kit.load.worker.health import ClientHealth
from kit.load.worker.recorder import Recorder
from kit.load.worker.run import WorkerRun


class FakeLoop:
    """An event loop with one timer, whose time is ours."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self._due_ns = 0
        self._timer: Callable[[], None] | None = None

    def call_later(self, delay_s: float, timer: Callable[[], None]) -> None:
        self._due_ns = self.now_ns + round(delay_s * 1e9)
        self._timer = timer

    def advance(self) -> None:
        """Go to the time of the timer, and ring."""
        timer, self._timer, self.now_ns = self._timer, None, self._due_ns
        assert timer is not None
        timer()


class FlushNotes(Recorder):
    """A recorder that notes when it writes."""

    def __init__(self, loop: FakeLoop, folder: Path) -> None:
        super().__init__(folder, 0, workload())
        self.flushed: list[int] = []
        self._loop = loop

    def flush(self) -> None:
        self.flushed.append(self._loop.now_ns)
        super().flush()


class IdleChannel:
    """A channel without a call, which notes when it is flushed."""

    call: Call | None = None
    answered: bytes | None = None

    def __init__(self, index: int, loop: FakeLoop) -> None:
        self.index = index
        self.flushed: list[int] = []
        self._loop = loop

    def send(self, call: Call) -> None:
        raise AssertionError("nothing is sent here")

    def expire(self) -> None:
        raise AssertionError("nothing is open here")

    def flush(self) -> None:
        self.flushed.append(self._loop.now_ns)

    def abandon(self) -> Call | None:
        return None


class IdlePacer:
    """A pacer that sends nothing, and has not finished."""

    owes = True

    def __init__(self, channels: list[IdleChannel]) -> None:
        self.channels = channels

    def begin(self, start_ns: int) -> None:
        pass

    def freed(self, channel: Any, call: Call, judgement: Judgement) -> None:
        pass

    def tick(self, now_ns: int) -> None:
        pass

    def halt(self) -> None:
        pass


class Watched:
    """A run with a clock of ours; what it does at which time."""

    def __init__(self, channels: int, folder: Path) -> None:
        loop = self.loop = FakeLoop()
        self.recorder = FlushNotes(loop, folder)
        load = workload()
        run = WorkerRun(
            *(load, Traffic(load), self.recorder),
            *(Counters(folder / "counters", create=True), ClientHealth(folder, 0), ()),
            worker=0,
            processes=1,
            elsewhere=Elsewhere,
            loop=loop,  # type: ignore[arg-type]
            clock=lambda: loop.now_ns,
        )
        self.channels = [IdleChannel(index, loop) for index in range(channels)]
        run.pacer = IdlePacer(self.channels)
        self.begun_ns = loop.now_ns
        run.begin(loop.now_ns)
        for _ in range(60):
            loop.advance()


def test_a_tick_flushes_a_fifth_of_the_streams_or_writes_but_not_both(tmp_path: Path) -> None:
    watched = Watched(50, tmp_path)
    by_tick = [when for channel in watched.channels for when in channel.flushed]
    assert max(by_tick.count(when) for when in by_tick) == 10
    assert not set(by_tick) & set(watched.recorder.flushed)


def test_every_stream_is_read_and_every_row_written_well_within_half_a_second(
    tmp_path: Path,
) -> None:
    watched = Watched(7, tmp_path)
    for channel in watched.channels:
        times = [watched.begun_ns, *channel.flushed]
        assert len(times) > 5
        assert max(b - a for a, b in pairwise(times)) <= 350_000_000
    written = [watched.begun_ns, *watched.recorder.flushed]
    assert max(b - a for a, b in pairwise(written)) <= 300_000_000
