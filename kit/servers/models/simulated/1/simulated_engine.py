"""Simulated engine: sends token events at the pace of an engine, without a model.

An asyncio task runs step after step while there is work. A step lasts

    step_ms + sequence_step_ms x sequences in it + its tokens / prefill_tokens_per_s

which is how the time of a transformer's step grows, and is what calibration against a real
engine fits. There is no model: the tokens are numbers, 0 up to max_tokens - 1.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from engine_stats import EngineStats
from kv_scheduler import CacheConfig, Scheduler, Sequence, StepPlan


@dataclass(frozen=True)
class Pace:
    """How long a step takes."""

    decode_step_ms: float = 4.0
    sequence_step_ms: float = 0.0
    prefill_tokens_per_s: float = 20_000.0

    def __post_init__(self) -> None:
        if self.decode_step_ms < 0 or self.sequence_step_ms < 0 or self.prefill_tokens_per_s <= 0:
            raise ValueError(f"a step cannot take less than no time: {self}")

    def step_s(self, plan: StepPlan) -> float:
        per_sequence_ms = self.sequence_step_ms * len(plan.scheduled)
        return (
            self.decode_step_ms + per_sequence_ms
        ) / 1e3 + plan.tokens / self.prefill_tokens_per_s


class SimulatedEngine:
    """Runs in one event loop; every method but `stats` is called from that loop."""

    def __init__(self, cache: CacheConfig, pace: Pace) -> None:
        self._scheduler = Scheduler(cache)
        self._pace = pace
        self._ids = itertools.count()
        self._tokens: dict[Sequence, asyncio.Queue[int]] = {}
        self._work: asyncio.Event | None = None  # the loop's own, so `run` makes it
        self.stats = EngineStats()

    async def generate(self, prompt_tokens: int, max_tokens: int) -> AsyncGenerator[int, None]:
        """Indices of the generated tokens as they come; leaving early aborts the sequence.

        Raises:
            DoesNotFitError: the sequence is too long for this engine.
        """
        sequence = Sequence(next(self._ids), prompt_tokens, max_tokens)
        self._scheduler.add(sequence)
        queue = self._tokens[sequence] = asyncio.Queue()
        self._work.set()
        try:
            for _ in range(max_tokens):
                yield await queue.get()
        finally:
            del self._tokens[sequence]
            self._scheduler.abort(sequence)

    async def run(self) -> None:
        """Step for ever; ends by being cancelled. Has to run before `generate` is called."""
        self._work = asyncio.Event()
        due = time.monotonic()
        while True:
            if not self._scheduler.has_work:
                self._work.clear()
                self._note(0, 0)
                await self._work.wait()
            plan = self._scheduler.schedule()
            step_s, now = self._pace.step_s(plan), time.monotonic()
            # The loop serves requests, too, and wakes late; a late step must not shift the next.
            due = (due if due > now - step_s else now) + step_s
            await asyncio.sleep(max(0.0, due - now))
            self._hand_out(self._scheduler.complete(plan))

    def _hand_out(self, got_token: list[Sequence]) -> None:
        prompt_tokens = 0
        for sequence in got_token:
            index = sequence.output_tokens - 1
            prompt_tokens += sequence.prompt_tokens if index == 0 else 0
            self._tokens[sequence].put_nowait(index)
        self._note(prompt_tokens, len(got_token))

    def _note(self, prompt_tokens: int, generated_tokens: int) -> None:
        scheduler = self._scheduler
        self.stats = EngineStats(
            kv_usage=scheduler.pool.usage,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            preemptions=scheduler.preemptions,
            prompt_tokens=self.stats.prompt_tokens + prompt_tokens,
            generated_tokens=self.stats.generated_tokens + generated_tokens,
        )
