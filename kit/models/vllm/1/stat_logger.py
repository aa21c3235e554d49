"""vLLM's scheduler statistics, step by step, in; the newest as an EngineStats out."""

from __future__ import annotations

from dataclasses import replace

from engine_stats import EngineStats
from vllm.v1.metrics.loggers import StatLoggerBase


class SchedulerWatch:
    """Give `logger` to the engine as one of its `stat_loggers`, and read `stats` at any time."""

    def __init__(self) -> None:
        self.stats = EngineStats()

    def logger(self, vllm_config: object, engine_index: int = 0) -> StatLoggerBase:
        """vLLM calls this as a class: it makes one logger an engine."""
        return _Logger(self)

    def note(self, scheduler: object | None, iteration: object | None) -> None:
        stats = self.stats
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
        self.stats = stats  # one assignment: other threads see the old or the new


class _Logger(StatLoggerBase):
    def __init__(self, watch: SchedulerWatch) -> None:
        self._watch = watch

    def record(
        self,
        scheduler_stats: object | None = None,
        iteration_stats: object | None = None,
        *more: object,
        **named: object,
    ) -> None:
        self._watch.note(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say: vLLM's own logger does."""
