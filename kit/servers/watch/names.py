"""Metric names in one place: what servers call a figure → what the kit calls it.

Units are in the kit's names. A figure that the kit has no name for keeps the server's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

# What the engine says about itself, from whichever source.
KV_USAGE: Final = "kv_usage_fraction"  # of the KV-cache blocks, 0-1
KV_SWAP_USAGE: Final = "kv_swap_usage_fraction"  # of the swap blocks of the V0 engine, 0-1
RUNNING: Final = "requests_running"
WAITING: Final = "requests_waiting"
SWAPPED: Final = "requests_swapped"
DEFERRED: Final = "requests_deferred"
PREEMPTIONS: Final = "preemptions_total"  # since the engine started
PROMPT_RATE: Final = "prompt_tokens_per_s"
GENERATION_RATE: Final = "generation_tokens_per_s"
PREFIX_HITS: Final = "prefix_cache_hit_fraction"

# What the engine says once, when it starts.
KV_BLOCKS: Final = "kv_blocks"
KV_SWAP_BLOCKS: Final = "kv_swap_blocks"
KV_CACHE_TOKENS: Final = "kv_cache_tokens"
MAX_CONCURRENCY: Final = "max_concurrency"  # label tokens_per_request

# What the operating system and the health endpoints say.
SERVER_RSS: Final = "server_rss_bytes"
SERVER_CPU: Final = "server_cpu_s"  # processor time used so far
SERVER_SHARED: Final = "server_shared_bytes"  # shared memory that the server has touched
OPEN_FILES: Final = "server_open_files"  # sockets and pipes too
STUB_RSS: Final = "stub_rss_bytes"  # all Python stubs and engine processes of the server
STUB_CPU: Final = "stub_cpu_s"
SERVER_READY: Final = "server_ready"  # 1 or 0
MODEL_READY: Final = "model_ready"

# What the GPUs' driver says; Triton's own names stay as they are (nv_gpu_utilization and others).
GPU_XID: Final = "gpu_xid"  # the number of an error, each time that there is one

# Where a sample came from.
ENGINE_LOG: Final = "engine_log"
TRITON_METRICS: Final = "triton_metrics"
VLLM_METRICS: Final = "vllm_metrics"
PROCESS: Final = "process"
NVML: Final = "nvml"
HEALTH: Final = "health"

#: What the log says of single engine steps: the engine's own word, not a sample of it. Its rows
#: have the source ENGINE_LOG and this label.
STEP: Final = "step"
ENGINE_STEPS: Final = "engine_steps"

#: Sources that can tell KV usage, the one nearest to the engine last.
KV_SOURCES: Final = (ENGINE_LOG, TRITON_METRICS, VLLM_METRICS)

#: Sources of KV usage, for people.
SOURCE_WORDS: Final = {
    ENGINE_LOG: "engine log",
    TRITON_METRICS: "Triton metrics",
    VLLM_METRICS: "vLLM metrics",
    ENGINE_STEPS: "engine's steps",
}

#: The label by which the kit's remedies name themselves (kit/servers/models/vllm/README.md).
VIA: Final = "via"
VIA_METRICS: Final = "kit_stat_logger"
VIA_HOOK: Final = "kit_log_hook"
VIA_MODEL: Final = "kit_model_log"  # the kit's model asks vLLM for its line; no hook is needed

#: What the log hook and the kit's model print once, so that the lines after it can be told from
#: those that vLLM writes by itself.
LOG_MARKS: Final = {
    "triton-crash-kit: engine statistics are logged every": VIA_HOOK,
    "triton-crash-kit: this model has its engine's statistics logged every": VIA_MODEL,
}

#: vLLM's metric names since 0.2.3 → the kit's. Where a server exports two names for one figure
#: (0.9.2: both KV gauges), the one that stands first here is taken. The figures have the kit's
#: units already: the "perc" gauges run from 0 to 1.
VLLM_NAMES: Final = {
    "vllm:kv_cache_usage_perc": KV_USAGE,
    "vllm:gpu_cache_usage_perc": KV_USAGE,
    "vllm:cpu_cache_usage_perc": KV_SWAP_USAGE,
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "vllm:num_requests_swapped": SWAPPED,
    "vllm:num_preemptions_total": PREEMPTIONS,
    "vllm:num_preemptions": PREEMPTIONS,
    "vllm:avg_prompt_throughput_toks_per_s": PROMPT_RATE,
    "vllm:avg_generation_throughput_toks_per_s": GENERATION_RATE,
    "vllm:gpu_prefix_cache_hit_rate": PREFIX_HITS,
}

#: Counters of tokens since the start → the rate that two scrapes of one tell. vLLM exported the
#: rates themselves up to 0.7; Triton's own vLLM backend has these counters from 24.08 on.
RATE_OF: Final = {
    "vllm:prompt_tokens_total": PROMPT_RATE,
    "vllm:generation_tokens_total": GENERATION_RATE,
}

#: Names that a scrape keeps; a histogram's buckets are left out, its _sum and _count stay.
WANTED_PREFIXES: Final = ("nv_", "vllm:")
UNWANTED_SUFFIXES: Final = ("_bucket", "_created")

NOT_EXPORTED: Final = "not exported"
#: What is said instead where the kit may not have looked.
WATCHER_FAILED: Final = "watcher failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value that was seen; a row of kit.study.folder.SAMPLES."""

    t_ns: int  # CLOCK_MONOTONIC, when the kit saw it
    source: str
    name: str
    value: float
    labels: str = ""  # JSON object, keys sorted; "" = none


@dataclass(frozen=True, slots=True, kw_only=True)
class KvState:
    """Which sources told KV usage; none is a state of its own and never a usage of 0."""

    sources: tuple[str, ...]

    @property
    def exported(self) -> bool:
        return bool(self.sources)

    def __str__(self) -> str:
        return ", ".join(self.sources) or NOT_EXPORTED


class Columns(Protocol):
    """A table of samples by column: a pyarrow Table or a pandas DataFrame."""

    def __getitem__(self, column: str, /) -> Iterable[object]: ...


def kv_state(samples: Columns) -> KvState:
    """Where these samples (columns source and name) have KV usage from, or "not exported"."""
    seen = {source for source, name in _sources_and_names(samples) if name == KV_USAGE}
    return KvState(sources=tuple(source for source in KV_SOURCES if source in seen))


def _sources_and_names(samples: Columns) -> Iterator[tuple[str, str]]:
    for source, name in zip(samples["source"], samples["name"], strict=True):
        yield str(source), str(name)
