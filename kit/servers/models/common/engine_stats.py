"""Writes engine statistics as vLLM V1 logs them, and as gauges on Triton's /metrics."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import triton_python_backend_utils as pb_utils

#: How old a gauge can be. Setting one is a round trip to the server, too dear for every step.
GAUGE_INTERVAL_S = 0.1


@dataclass(frozen=True)
class EngineStats:
    """What the engine knew after its last step; the last three count from its start."""

    kv_usage: float = 0.0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


def vllm_logger() -> logging.Logger:
    """A logger whose lines look like vLLM's: level, date, file and line, message; on stdout."""
    logger = logging.getLogger("engine")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        form = "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s"
        handler.setFormatter(logging.Formatter(form, datefmt="%m-%d %H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


class ThroughputLog:
    """Turns statistics into vLLM's line about the interval since the last call."""

    def __init__(self, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._at = clock()
        self._before = EngineStats()
        self._was_idle = True

    def line(self, stats: EngineStats) -> str | None:
        """vLLM's line; None where vLLM logs nothing, from the second idle interval on."""
        now, before = self._clock(), self._before
        elapsed_s = max(now - self._at, 1e-9)
        prompt_rate = (stats.prompt_tokens - before.prompt_tokens) / elapsed_s
        generation_rate = (stats.generated_tokens - before.generated_tokens) / elapsed_s
        idle = not (prompt_rate or generation_rate)
        silent = idle and self._was_idle
        self._at, self._before, self._was_idle = now, stats, idle
        if silent:
            return None
        return (
            f"Engine 000: Avg prompt throughput: {prompt_rate:.1f} tokens/s, "
            f"Avg generation throughput: {generation_rate:.1f} tokens/s, "
            f"Running: {stats.running} reqs, Waiting: {stats.waiting} reqs, "
            f"{self._device} KV cache usage: {stats.kv_usage * 100:.1f}%"
        )


class Gauges:
    """vLLM's metrics of the scheduler, on Triton's own /metrics.

    without: fields of EngineStats that the engine does not tell, of which there is no metric.
    """

    def __init__(self, labels: dict[str, str], without: Collection[str] = ()) -> None:
        gauge, counter = pb_utils.MetricFamily.GAUGE, pb_utils.MetricFamily.COUNTER
        rows = (
            ("kv_usage", "vllm:kv_cache_usage_perc", gauge, "KV-cache usage, 1 is full"),
            ("running", "vllm:num_requests_running", gauge, "Requests in the running batch"),
            ("waiting", "vllm:num_requests_waiting", gauge, "Requests waiting to be scheduled"),
            ("preemptions", "vllm:num_preemptions_total", counter, "Preemptions since the start"),
            # In the words of Triton's vLLM backend, which has these two: one name, one meaning.
            (
                "prompt_tokens",
                "vllm:prompt_tokens_total",
                counter,
                "Number of prefill tokens processed.",
            ),
            (
                "generated_tokens",
                "vllm:generation_tokens_total",
                counter,
                "Number of generation tokens processed.",
            ),
        )
        self._families = []  # they must live as long as their metrics
        self._metrics = {}
        self._counters = {field for field, _, kind, _ in rows if kind == counter}
        for field, name, kind, about in rows:
            if field in without:
                continue
            family = pb_utils.MetricFamily(name=name, description=about, kind=kind)
            self._families.append(family)
            self._metrics[field] = family.Metric(labels=labels)
        self._shown = EngineStats()

    def show(self, stats: EngineStats) -> None:
        for field, metric in self._metrics.items():
            before, value = getattr(self._shown, field), getattr(stats, field)
            if field in self._counters and value > before:
                metric.increment(value - before)
            elif value != before:
                metric.set(value)
        self._shown = stats

    def drop(self) -> None:
        """Let go of the metrics; alive at interpreter exit they crash the stub."""
        self._metrics.clear()
        self._families.clear()


class StatsReporter:
    """A thread that logs and exports what `read` returns; None switches either off."""

    def __init__(
        self,
        read: Callable[[], EngineStats],
        *,
        log: ThroughputLog | None,
        log_interval_s: float,
        gauges: Gauges | None,
    ) -> None:
        self._read = read
        self._log = log
        self._log_interval_s = log_interval_s
        self._gauges = gauges
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-stats", daemon=True)

    def start(self) -> None:
        if self._log or self._gauges:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._gauges:
            self._gauges.drop()

    def _run(self) -> None:
        tick_s = GAUGE_INTERVAL_S if self._gauges else self._log_interval_s
        log_due = time.monotonic() + self._log_interval_s
        while not self._stop.wait(min(tick_s, max(0.0, log_due - time.monotonic()))):
            stats = self._read()
            if self._gauges:
                self._gauges.show(stats)
            if time.monotonic() >= log_due:
                log_due += self._log_interval_s
                line = self._log.line(stats) if self._log else None
                if line:
                    vllm_logger().info(line)
