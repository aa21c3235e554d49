"""The open loop: requests are sent when they are due, whatever became of those before them.

With a cap, a request that is due while as many as allowed are open waits for one to end: its
scheduled time stays, so the wait is in the record. Later turns of a conversation are due when the
turn before has ended, or so much later as a traffic file says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kit.load.answers import Judgement
from kit.load.channel import Channel
from kit.load.traffic.call import Call
from kit.load.worker.run import WorkerRun
from kit.load.worker.timer import Timer
from kit.load.worker.waits import Waits

#: What is due as soon as this is waited for: the way through the event loop takes as long.
_SOON_NS = 20_000
#: So long at most before answers get their turn again.
_PUMP_NS = 1_000_000


class OpenLoop:
    """The pacer of an open loop.

    due_s: when this worker's conversations are due, seconds since the start; cap: the most
        requests that it has open at a time.
    """

    def __init__(
        self, run: WorkerRun, due_s: Iterator[float], make_channel: Callable[[], Channel], cap: int
    ) -> None:
        self._run = run
        self._due_s = due_s
        self._make_channel = make_channel
        self._cap = cap
        self._free: list[Channel] = []
        self._waits = Waits(run)
        self._start_ns = 0
        self._next_ns: int | None = None
        self._clock = run.clock
        self._timer = Timer(run.loop, run.clock, self._pump)
        self.channels: list[Channel] = []
        # The first may take long to find: it is not to be late because of that.
        self._first_s = next(due_s, None)

    def begin(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._next_ns = self._at(self._first_s)
        self._pump()

    def freed(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        following = self._run.next_turn(call, channel.answered)
        if following is not None:
            self._waits.send(channel, following, call.end_ns)
            return
        waiting = not self._free and len(self.channels) >= self._cap
        self._free.append(channel)
        if waiting:
            self._pump()

    def tick(self, now_ns: int) -> None:
        """Nothing depends on the tick."""

    def halt(self) -> None:
        self._next_ns = None
        self._timer.close()
        self._waits.halt()

    @property
    def owes(self) -> bool:
        return self._next_ns is not None

    def _advance(self) -> None:
        self._next_ns = self._at(next(self._due_s, None))

    def _at(self, due_s: float | None) -> int | None:
        return None if due_s is None else self._start_ns + round(due_s * 1e9)

    def _pump(self) -> None:
        """Send everything that is due and has room; then wait for what is due next."""
        now = self._clock()
        until = now + _PUMP_NS
        while self._next_ns is not None and self._next_ns - now < _SOON_NS and now < until:
            while now < self._next_ns:
                now = self._clock()
            channel = self._channel()
            if channel is None:
                return  # the end of a request brings us back
            call = self._run.take()
            if call is None:
                self._next_ns = None
                break
            call.scheduled_ns = self._next_ns
            self._advance()
            channel.send(call)
            now = self._clock()
        if self._next_ns is not None:
            self._timer.set(self._next_ns)
        else:
            self._run.exhaust()

    def _channel(self) -> Channel | None:
        """A free one, used last before the others; a new one while there is room."""
        if self._free:
            return self._free.pop()
        if len(self.channels) >= self._cap:
            return None
        channel = self._make_channel()
        self.channels.append(channel)
        return channel
