"""One worker's run: every request of its share is sent, ended and recorded once.

The pacer (closed or open loop) decides when a free channel gets its next call. This module keeps
the counts, holds back what may be the server's death, and ends the run by its stop rules. It has
the one clock that the worker's channels and pacer use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kit.load.answers import OK, Judgement
from kit.load.channel import Channel
from kit.load.link import Clock
from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.faults import as_intended, held_open
from kit.load.traffic.traffic import Traffic
from kit.load.worker.counters import STOPS, Counters, Elsewhere, Field
from kit.load.worker.health import ClientHealth
from kit.load.worker.pacer import Pacer
from kit.load.worker.recorder import Recorder
from kit.load.worker.stop_rules import RunState, StopRule
from kit.study.result import Outcome
from kit.study.spec import Workload

#: A lost connection waits so long for the notice that the server died before it is a reset.
HOLD_BACK_NS = 500_000_000
TICK_S = 0.05
#: Rows lie in memory no longer than this; with the tick it stays well under half a second.
FLUSH_NS = 250_000_000
#: A tick flushes one channel in so many, so that the loop is never away for long.
_FLUSH_PARTS = 5
#: Timeouts are looked for this often, as a share of themselves, but not more often than ticks.
_TIMEOUT_STEP = 0.01


class _Held(NamedTuple):
    call: Call
    judgement: Judgement
    until_ns: int


class WorkerRun:
    """One worker's part of a workload. `numbers` are given out by `take`, each once."""

    def __init__(
        self,
        workload: Workload,
        traffic: Traffic,
        recorder: Recorder,
        counters: Counters,
        health: ClientHealth,
        rules: Sequence[StopRule],
        *,
        worker: int,
        processes: int,
        elsewhere: Callable[[], Elsewhere],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.sent = 0
        self.ok = 0
        self.not_ok = 0
        self.errors = 0
        self.stopping: str | None = None  # a reason to send no more
        self.exhausted = False  # every conversation of this worker's share was given out
        self.done = asyncio.Event()
        self._traffic = traffic
        self._recorder = recorder
        self._add = recorder.add
        self._counters = counters
        self._health = health
        self._rules = rules
        self._elsewhere = elsewhere
        self.has_turns = traffic.has_turns
        self._limit = workload.requests if workload.requests is not None else 2**62
        self._timeout_ns = round(workload.timeout_s * 1e9)
        self._first_calls = traffic.first_calls(worker, processes, workload.requests)
        self._held: list[_Held] = []
        self._progress_ns = NEVER
        self._received = 0  # bytes of the requests that were open when last looked at
        self._waiting = 0  # of them, those that nothing but the server keeps open
        self._waiting_since_ns = NEVER
        self._start_ns = NEVER
        self._flush_due_ns = NEVER
        self._expire_due_ns = NEVER
        self._tick_due_ns = NEVER
        self._flush_part = 0
        self._timer: asyncio.TimerHandle | None = None
        self.pacer: Pacer

    # --- what pacers call

    def take(self) -> Call | None:
        """The first call of this worker's next conversation, to be sent now; None: no more."""
        call = next(self._first_calls, None)
        if call is None:
            self.exhausted = True
        else:
            self.sent += 1
        return call

    def next_turn(self, call: Call, answered: bytes | None) -> Call | None:
        """The turn after `call` of its conversation; None when it is over.

        It is to be sent at the time that `turn_due_ns` says.
        """
        number = call.number + 1
        if not self.has_turns or number >= self._limit or self.stopping is not None:
            return None
        if not self._traffic.continues(number):
            return None
        self.sent += 1
        return self._traffic.call(number, answered, call)

    def turn_due_ns(self, call: Call, answered_ns: int) -> int:
        """When a later turn is to be sent, if the turn before it was answered then."""
        return self._traffic.turn_due_ns(call.number, self._start_ns, answered_ns)

    def unsent(self) -> None:
        """A call that was taken is not sent after all."""
        self.sent -= 1
        self.check_end()

    def exhaust(self) -> None:
        """No more conversations are due."""
        self.exhausted = True
        self.check_end()

    def halt(self, why: str) -> None:
        """Send no more."""
        self.stopping = why
        self._first_calls = iter(())
        self.exhausted = True
        self.pacer.halt()

    @property
    def ended_count(self) -> int:
        """Requests that have their outcome."""
        return self.ok + self.not_ok

    def check_end(self) -> None:
        """The run is over when nothing is to be sent and nothing is open."""
        if self.sent == self.ended_count and (
            self.stopping is not None or (self.exhausted and not self.pacer.owes)
        ):
            self.done.set()

    # --- what channels call

    def ended(self, channel: Channel, call: Call, judgement: Judgement) -> None:
        if judgement is OK:
            self.ok += 1
            self._progress_ns = call.end_ns
            self._add(call)
        elif judgement.outcome is Outcome.RESET:
            self._held.append(_Held(call, judgement, call.end_ns + HOLD_BACK_NS))
        else:
            self._record(call, judgement)
        self.pacer.freed(channel, call, judgement)
        if self.exhausted:
            self.check_end()

    def _record(self, call: Call, judgement: Judgement) -> None:
        self.not_ok += 1
        outcome = judgement.outcome
        self._add(call, outcome, judgement.cause, judgement.evidence)
        intended = as_intended(call.fault, outcome)
        # That a client has waited long enough is nothing that the server did.
        gave_up = outcome is Outcome.IN_FLIGHT or (outcome is Outcome.TIMEOUT and not intended)
        if not gave_up:
            self._progress_ns = max(self._progress_ns, call.end_ns)
        if not intended:
            self.errors += 1
            self._apply_rules()

    def _apply_rules(self) -> None:
        if self.stopping is not None:
            return
        others = self._elsewhere()
        state = RunState(
            seconds=(self.clock() - self._start_ns) / 1e9,
            errors=self.errors + others.errors,
            ended=self.ended_count + others.ended,
        )
        why = next((why for rule in self._rules if (why := rule(state))), None)
        if why is not None:
            self._counters.words[Field.STOP] = 1 + STOPS.index(why)
            self.halt(why)

    # --- the run

    def begin(self, start_ns: int) -> None:
        """Start sending."""
        self._start_ns = start_ns
        self._counters.words[Field.STARTED_NS] = start_ns
        self._flush_due_ns = start_ns + FLUSH_NS
        self._schedule_tick(self.clock())
        self.pacer.begin(start_ns)
        self.check_end()

    def server_died(self, died_ns: int) -> None:
        """The server is dead since `died_ns`: what is open was cut short by that."""
        self.halt("server died")
        for held in self._held:
            self._cut_short(held.call, held.judgement._replace(outcome=Outcome.IN_FLIGHT))
        self._held.clear()
        self._abandon("the server died", died_ns)

    def stop(self, why: str = "stopped") -> None:
        """End soon: what is open is recorded as that."""
        self.halt(why)
        self._release_held(2**63)
        self._abandon(f"open when the load was {why}", self.clock())

    def _abandon(self, cause: str, at_ns: int) -> None:
        for channel in self.pacer.channels:
            call = channel.abandon()
            if call is None:
                continue
            if NEVER != call.sent_ns <= at_ns:
                call.end_ns = at_ns
            self._cut_short(call, Judgement(Outcome.IN_FLIGHT, cause))
        self.check_end()

    def _cut_short(self, call: Call, judgement: Judgement) -> None:
        """Record a request that was open. Requests never sent are not recorded."""
        if call.sent_ns == NEVER:
            self.sent -= 1
        else:
            self._record(call, judgement)

    def close(self) -> None:
        """Write everything that is not written; stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        for channel in self.pacer.channels:
            channel.abandon()
        self._look_at_open(self.clock())
        self._publish()
        self._recorder.flush()
        self._health.row(self, self._recorder.take_worst_dispatch_ns())

    # --- the clock

    def _schedule_tick(self, now_ns: int) -> None:
        self._tick_due_ns = now_ns + round(TICK_S * 1e9)
        self._timer = self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self.clock()
        self._health.late(now - self._tick_due_ns)
        if now >= self._expire_due_ns:
            self._expire(now)
        self._release_held(now)
        self._apply_rules()
        self.pacer.tick(now)
        self._publish()
        if now >= self._flush_due_ns:
            self._flush_due_ns = now + FLUSH_NS
            self._look_at_open(now)
            self._recorder.flush()
            self._health.row(self, self._recorder.take_worst_dispatch_ns())
        else:
            for channel in self.pacer.channels[self._flush_part :: _FLUSH_PARTS]:
                channel.flush()
            self._flush_part = (self._flush_part + 1) % _FLUSH_PARTS
        self.check_end()
        self._schedule_tick(self.clock())

    def _look_at_open(self, now_ns: int) -> None:
        """See whether anything has come for the open requests, and how many of them wait."""
        received = waiting = 0
        for channel in self.pacer.channels:
            call = channel.call
            if call is not None:
                received += call.received_bytes
                if call.fault is None or not held_open(call.fault, call.received_bytes):
                    waiting += 1
        if received > self._received:
            self._progress_ns = now_ns
        self._received = received
        self._waiting = waiting
        if not waiting:
            self._waiting_since_ns = NEVER
        elif self._waiting_since_ns == NEVER:
            self._waiting_since_ns = now_ns

    def _expire(self, now_ns: int) -> None:
        self._expire_due_ns = now_ns + round(_TIMEOUT_STEP * self._timeout_ns)
        for channel in self.pacer.channels:
            call = channel.call
            if call is not None:
                begun_ns = call.begun_ns if call.sent_ns == NEVER else call.sent_ns
                if now_ns - begun_ns >= self._timeout_ns:
                    channel.expire()

    def _release_held(self, now_ns: int) -> None:
        while self._held and self._held[0].until_ns <= now_ns:
            held = self._held.pop(0)
            self._record(held.call, held.judgement)

    def _publish(self) -> None:
        words = self._counters.words
        words[Field.SENT] = self.sent
        words[Field.ENDED] = self.ended_count
        words[Field.OK] = self.ok
        words[Field.ERRORS] = self.errors
        words[Field.IN_FLIGHT] = self.sent - self.ended_count
        words[Field.PROGRESS_NS] = self._progress_ns
        words[Field.WAITING] = self._waiting
        words[Field.WAITING_SINCE_NS] = self._waiting_since_ns
