"""Collects the newest scheduler statistics of all of vLLM's engines.

vLLM runs several engines behind one model with data parallelism; each has its own KV cache.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engine_stats import EngineStats
from vllm.v1.metrics.loggers import StatLoggerBase


class SchedulerWatch:
    """Give `logger` to the engine as one of its `stat_loggers`, and read `stats` at any time."""

    def __init__(self) -> None:
        self._engines: dict[int, EngineStats] = {}

    @property
    def stats(self) -> EngineStats:
        return together(list(self._engines.values()))

    def logger(self, vllm_config: object, engine_index: int = 0) -> StatLoggerBase:
        """vLLM calls this as a class: it makes one logger an engine."""
        return _Logger(self, engine_index)

    def note(self, engine: int, scheduler: object | None, iteration: object | None) -> None:
        stats = self._engines.get(engine, EngineStats())
        if scheduler is not None:
            stats = replace(
                stats,
                kv_usage=scheduler.kv_cache_usage,
                running=scheduler.num_running_reqs,
                # A later vLLM counts requests that wait for something else than a place apart.
                waiting=scheduler.num_waiting_reqs
                + getattr(scheduler, "num_skipped_waiting_reqs", 0),
            )
        if iteration is not None:
            stats = replace(
                stats,
                preemptions=stats.preemptions + iteration.num_preempted_reqs,
                prompt_tokens=stats.prompt_tokens + iteration.num_prompt_tokens,
                generated_tokens=stats.generated_tokens + iteration.num_generation_tokens,
            )
        self._engines[engine] = stats  # one assignment: other threads see the old or the new


def together(engines: Collection[EngineStats]) -> EngineStats:
    """Usage of the fullest cache, since that one preempts first; the counts added up."""
    names = ("running", "waiting", "preemptions", "prompt_tokens", "generated_tokens")
    return EngineStats(
        kv_usage=max((stats.kv_usage for stats in engines), default=0.0),
        **{name: sum(getattr(stats, name) for stats in engines) for name in names},
    )


class _Logger(StatLoggerBase):
    def __init__(self, watch: SchedulerWatch, engine: int) -> None:
        self._watch = watch
        self._engine = engine

    def record(
        self,
        scheduler_stats: object | None = None,
        iteration_stats: object | None = None,
        *more: object,
        **named: object,
    ) -> None:
        self._watch.note(self._engine, scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say: vLLM's own logger does."""
