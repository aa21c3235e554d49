"""A run's clock: what it does between answers is cut small, and records are soon on disk."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from load_helpers import workload

from kit.load.traffic.traffic import Traffic
from kit.load.worker import run as run_module
from kit.load.worker.counters import Field
from kit.load.worker.run import TICK_S, Run


class Watched:
    """A run with a clock of ours; what it does in which tick."""

    def __init__(self, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_000_000_000
        self.settled: list[tuple[int, int]] = []  # (when, channel)
        self.flushed: list[int] = []
        monkeypatch.setattr(run_module, "monotonic_ns", lambda: self.now_ns)
        loop: Any = SimpleNamespace(call_later=lambda delay, tick: None)
        recorder: Any = SimpleNamespace(
            add=None,
            flush=lambda: self.flushed.append(self.now_ns),
            take_worst_dispatch_ns=lambda: None,
        )
        health: Any = SimpleNamespace(late=lambda lag: None, row=lambda counts, worst: None)
        counters: Any = SimpleNamespace(words=[0] * len(Field))
        load = workload()
        self.run = Run(
            *(load, Traffic(load), recorder, counters, health, ()),
            worker=0,
            processes=1,
            errors_elsewhere=lambda: 0,
            loop=loop,
        )
        made = [
            SimpleNamespace(call=None, settle=lambda index=index: self._settle(index))
            for index in range(channels)
        ]
        pacer: Any = SimpleNamespace(
            channels=made, owes=True, begin=lambda start: None, tick=lambda now: None
        )
        self.run.pacer = pacer
        self.run.begin(self.now_ns)

    def _settle(self, index: int) -> None:
        self.settled.append((self.now_ns, index))

    def tick(self, times: int) -> None:
        for _ in range(times):
            self.now_ns += round(TICK_S * 1e9)
            self.run._tick()


def test_a_tick_settles_a_fifth_of_the_streams_or_writes_but_not_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(50, monkeypatch)
    watched.tick(60)
    by_tick = [when for when, _ in watched.settled]
    assert max(by_tick.count(when) for when in by_tick) == 10
    assert not set(by_tick) & set(watched.flushed)


def test_every_stream_is_settled_and_every_row_written_well_within_half_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(7, monkeypatch)
    begun = watched.now_ns
    watched.tick(60)
    for index in range(7):
        times = [begun, *(when for when, which in watched.settled if which == index)]
        assert len(times) > 5
        assert max(b - a for a, b in pairwise(times)) <= 350_000_000
    assert max(b - a for a, b in pairwise([begun, *watched.flushed])) <= 300_000_000
