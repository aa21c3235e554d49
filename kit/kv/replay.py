"""Computes what the simulated engine does with closed-loop traffic, without a server.

Runs the very scheduler that kit/servers/models/simulated serves, in its own time: a minute of
traffic takes a moment, and the same traffic always gives the same result. Pure.
"""

from __future__ import annotations

import heapq
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.study.paths import MODELS
from kit.study.spec import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """What a step of the simulated engine costs, and a request on its way to it and back."""

    decode_step_ms: float
    sequence_step_ms: float  # for each sequence in the step
    prefill_tokens_per_s: float  # for each token that the step computes
    per_request_ms: float = 0.0  # HTTP, tokenizer; no parameter of the engine

    def step_ms(self, sequences: int, tokens: int) -> float:
        return (
            self.decode_step_ms
            + self.sequence_step_ms * sequences
            + 1e3 * tokens / self.prefill_tokens_per_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReplay:
    """What happened; arrays by request in the order given, and by step."""

    sent_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    step_end_ms: NDArray[np.float64]
    kv_usage: NDArray[np.float64]  # share of the usable blocks in each step, 0-1
    held_back: NDArray[np.bool_]  # steps in which a sequence waited for blocks and nothing else
    preemptions: int


def replay(
    lengths: Sequence[tuple[int, int]], *, concurrency: int, engine: Engine, pace: StepCosts
) -> EngineReplay:
    """Serve requests of (prompt tokens, output tokens), `concurrency` at a time."""
    module = _scheduler()
    scheduler = module.Scheduler(
        module.CacheConfig(
            blocks=engine.blocks,
            block_size_tokens=engine.block_size_tokens,
            max_sequences=engine.max_sequences,
            max_model_tokens=engine.max_model_tokens,
        )
    )
    sent_ms, e2e_ms = np.zeros(len(lengths)), np.zeros(len(lengths))
    on_the_way: list[tuple[float, int]] = []
    ends: list[float] = []
    usage: list[float] = []
    held_back: list[bool] = []
    now_ms, next_request = 0.0, 0

    def send() -> None:
        nonlocal next_request
        if next_request < len(lengths):
            sent_ms[next_request] = now_ms
            heapq.heappush(on_the_way, (now_ms + pace.per_request_ms, next_request))
            next_request += 1

    for _ in range(concurrency):
        send()
    while scheduler.has_work or on_the_way:
        if not scheduler.has_work:
            now_ms = max(now_ms, on_the_way[0][0])
        while on_the_way and on_the_way[0][0] <= now_ms:
            _, number = heapq.heappop(on_the_way)
            scheduler.add(module.Sequence(number, *lengths[number]))
        plan = scheduler.schedule()
        usage.append(scheduler.pool.usage)
        held_back.append(_held_back(scheduler, plan.tokens))
        now_ms += pace.step_ms(len(plan.scheduled), plan.tokens)
        ends.append(now_ms)
        for sequence in scheduler.complete(plan):
            if sequence.finished:
                e2e_ms[sequence.request_id] = now_ms - sent_ms[sequence.request_id]
                send()
    return EngineReplay(
        sent_ms=sent_ms,
        e2e_ms=e2e_ms,
        step_end_ms=np.array(ends),
        kv_usage=np.array(usage),
        held_back=np.array(held_back),
        preemptions=scheduler.preemptions,
    )


def _held_back(scheduler: Any, tokens: int) -> bool:
    """Whether a sequence waits although the step had tokens and the batch places to spare."""
    config = scheduler.config
    places = config.max_sequences - len(scheduler.running)
    return bool(scheduler.waiting) and places > 0 and tokens < config.max_batched_tokens


@cache
def _scheduler() -> ModuleType:
    """The model's module; it lies where Triton's stub finds it, outside of the kit's packages."""
    path = MODELS / "simulated" / "1" / "kv_scheduler.py"
    spec = importlib.util.spec_from_file_location("kit_models_kv_scheduler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
