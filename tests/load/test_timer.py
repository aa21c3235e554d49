"""The clock of the open loop: it rings when it is set to, and costs little in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import uvloop
from load_helpers import workload

from kit.load.channel import Channel
from kit.load.traffic.traffic import Traffic
from kit.load.worker.counters import Counters, Elsewhere
from kit.load.worker.health import ClientHealth
from kit.load.worker.open_loop import OpenLoop
from kit.load.worker.recorder import Recorder
from kit.load.worker.run import WorkerRun
from kit.load.worker.timer import Timer


def test_a_timer_rings_once_each_time_that_it_is_set() -> None:
    async def ring_three_times() -> list[int]:
        rung: list[int] = []

        def ring() -> None:
            rung.append(monotonic_ns())
            if len(rung) < len(due):
                timer.set(due[len(rung)])

        timer = Timer(asyncio.get_running_loop(), monotonic_ns, ring)
        begun = monotonic_ns()
        due = [begun + 10_000_000, begun + 15_000_000, begun]  # the last has passed by then
        timer.set(due[0])
        async with asyncio.timeout(30):
            while len(rung) < len(due):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # time in which it could ring once too often
        timer.close()
        return [when - at for when, at in zip(rung, due, strict=True)]

    assert min(uvloop.run(ring_three_times())) >= 0


def test_a_timer_that_rang_and_was_not_set_again_lets_the_loop_sleep() -> None:
    async def turns() -> int:
        loop = asyncio.get_running_loop()
        rung: list[int] = []
        timer = Timer(loop, monotonic_ns, lambda: rung.append(1))
        timer.set(monotonic_ns())
        async with asyncio.timeout(30):
            while not rung:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        timer.close()
        return len(rung)

    assert uvloop.run(turns()) == 1


def test_an_open_loop_knows_its_first_moment_before_it_begins(tmp_path: Path) -> None:
    asked: list[str] = []

    def due() -> Iterator[float]:
        asked.append("first")
        yield 0.0

    async def made() -> None:
        load = workload()
        run = WorkerRun(
            *(load, Traffic(load), Recorder(tmp_path, 0, load)),
            *(Counters(tmp_path / "counters", create=True), ClientHealth(tmp_path, 0), ()),
            worker=0,
            processes=1,
            elsewhere=Elsewhere,
            loop=asyncio.get_running_loop(),
            clock=monotonic_ns,
        )
        OpenLoop(run, due(), no_channel, 1).halt()

    def no_channel() -> Channel:
        raise AssertionError("nothing is due yet")

    uvloop.run(made())
    assert asked == ["first"]
