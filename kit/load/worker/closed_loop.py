"""The closed loop: so many clients, each sending when its last request has ended.

Client c of the workload belongs to worker c modulo P. With steps the number of active clients
follows the clock; the others rest between two requests, never in the middle of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kit.load.answers import OK, Judgement
from kit.load.channel import Channel
from kit.load.traffic.call import Call
from kit.load.worker.run import WorkerRun
from kit.load.worker.waits import Waits
from kit.study.result import Outcome

#: After a refused connection a client waits, twice as long each time in a row.
FIRST_BACKOFF_S = 0.01
LONGEST_BACKOFF_S = 0.5
#: A client whose connection was lost waits until it would be known that the server has died:
#: what is sent to a dying server would count as more requests in flight than there are clients.
LOST_S = 0.25


class ClosedLoop:
    """The pacer of a closed loop.

    clients: the numbers of this worker's clients over the whole workload; active: how many of
        all clients are to be sending, by seconds since the start.
    """

    def __init__(
        self,
        run: WorkerRun,
        clients: Sequence[int],
        make_channel: Callable[[], Channel],
        active: Callable[[float], int],
        *,
        varies: bool,
        conversations: bool,
    ) -> None:
        self._run = run
        self._take = run.take
        self._active = active
        self._varies = varies
        self._conversations = conversations
        self._simple = not (varies or conversations)  # after an answer comes the next request
        self._start_ns = 0
        self._resting: list[Channel] = []
        self._backoff_s: dict[int, float] = {}  # by client: the next wait after a refusal
        self._pausing: set[int] = set()
        self._waits = Waits(run)
        self._most = 0
        self.channels: list[Channel] = []
        for client in clients:
            channel = make_channel()
            channel.index = client
            self.channels.append(channel)

    def begin(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._most = self._active(0.0)
        for channel in self.channels:
            self._next(channel, start_ns)

    def freed(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        if self._simple and judgement is OK:
            if self._backoff_s:
                self._backoff_s.pop(channel.index, None)
            following = self._take()
            if following is not None:
                following.client = call.client
                following.scheduled_ns = call.end_ns
                channel.send(following)
        elif judgement.outcome is Outcome.REFUSED:
            self._back_off(channel, call)
        elif judgement.outcome is Outcome.RESET:
            self._pause(channel, call, LOST_S)
        else:
            self._backoff_s.pop(channel.index, None)
            self._go_on(channel, call, call.end_ns)

    def tick(self, now_ns: int) -> None:
        if not self._varies:
            return
        self._most = self._active((now_ns - self._start_ns) / 1e9)
        for channel in [c for c in self._resting if c.index < self._most]:
            self._resting.remove(channel)
            self._next(channel, now_ns)

    def halt(self) -> None:
        self._resting.clear()
        self._waits.halt()

    @property
    def owes(self) -> bool:
        return bool(self._pausing)

    def _go_on(self, channel: Channel, call: Call, free_ns: int) -> None:
        """The next turn of the conversation, or else a new one."""
        following = self._run.next_turn(call, channel.answered) if self._conversations else None
        if following is None:
            self._next(channel, free_ns)
        else:
            following.client = channel.index
            self._waits.send(channel, following, free_ns)

    def _next(self, channel: Channel, free_ns: int) -> None:
        if channel.index >= self._most:
            self._resting.append(channel)
            return
        call = self._take()
        if call is not None:
            call.client = channel.index
            call.scheduled_ns = free_ns
            channel.send(call)

    def _back_off(self, channel: Channel, call: Call) -> None:
        wait = self._backoff_s.get(channel.index, FIRST_BACKOFF_S)
        self._backoff_s[channel.index] = min(2 * wait, LONGEST_BACKOFF_S)
        self._pause(channel, call, wait)

    def _pause(self, channel: Channel, call: Call, wait_s: float) -> None:
        self._pausing.add(channel.index)
        self._run.loop.call_later(wait_s, self._again, channel, call)

    def _again(self, channel: Channel, call: Call) -> None:
        self._pausing.discard(channel.index)
        if self._run.stopping is None:
            self._go_on(channel, call, self._run.clock())
        self._run.check_end()
