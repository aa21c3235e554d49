"""The clock of the open loop: it rings when it is set to, and costs little in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic_ns
from types import SimpleNamespace
from typing import Any

import uvloop

from kit.load.worker.open_loop import OpenLoop
from kit.load.worker.timer import Timer


def test_a_timer_rings_once_each_time_that_it_is_set() -> None:
    async def ring_three_times() -> list[int]:
        rung: list[int] = []

        def ring() -> None:
            rung.append(monotonic_ns())
            if len(rung) < len(due):
                timer.set(due[len(rung)])

        timer = Timer(asyncio.get_running_loop(), ring)
        begun = monotonic_ns()
        due = [begun + 10_000_000, begun + 15_000_000, begun]  # the last has passed by then
        timer.set(due[0])
        await asyncio.sleep(0.1)
        timer.close()
        return [when - at for when, at in zip(rung, due, strict=True)]

    assert min(uvloop.run(ring_three_times())) >= 0


def test_a_timer_that_rang_and_was_not_set_again_lets_the_loop_sleep() -> None:
    async def turns() -> int:
        loop = asyncio.get_running_loop()
        rung: list[int] = []
        timer = Timer(loop, lambda: rung.append(1))
        timer.set(monotonic_ns())
        await asyncio.sleep(0.05)
        timer.close()
        return len(rung)

    assert uvloop.run(turns()) == 1


def test_an_open_loop_knows_its_first_moment_before_it_begins() -> None:
    asked: list[str] = []

    def due() -> Iterator[float]:
        asked.append("first")
        yield 0.0

    async def made() -> None:
        run: Any = SimpleNamespace(loop=asyncio.get_running_loop())
        OpenLoop(run, due(), lambda: run, 1).halt()

    uvloop.run(made())
    assert asked == ["first"]
