"""Later turns of conversations that wait after the answer before them, as a traffic file says."""

from __future__ import annotations

import asyncio

from kit.load.channel import Channel
from kit.load.traffic.call import Call
from kit.load.worker.run import WorkerRun


class Waits:
    """Sends each turn when it has waited; a channel is its conversation's while it waits."""

    def __init__(self, run: WorkerRun) -> None:
        self._run = run
        self._waiting: dict[int, asyncio.TimerHandle] = {}

    def send(self, channel: Channel, call: Call, answered_ns: int) -> None:
        """Send `call` over `channel`: at once, or when it is due."""
        call.scheduled_ns = self._run.turn_due_ns(call, answered_ns)
        if call.scheduled_ns == answered_ns:
            channel.send(call)
            return
        left_s = max(0.0, (call.scheduled_ns - self._run.clock()) / 1e9)
        timer = self._run.loop.call_later(left_s, self._go, channel, call)
        self._waiting[call.number] = timer

    def _go(self, channel: Channel, call: Call) -> None:
        del self._waiting[call.number]
        channel.send(call)

    def halt(self) -> None:
        """Send none of those that wait."""
        waiting, self._waiting = self._waiting, {}
        for timer in waiting.values():
            timer.cancel()
            self._run.unsent()
