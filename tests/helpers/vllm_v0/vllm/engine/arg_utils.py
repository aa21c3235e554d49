"""Stands for vllm.engine.arg_utils of 0.3.2, which cannot be given the size of its cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class AsyncEngineArgs:
    model: str
    dtype: str = "auto"
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    block_size: int = 16
    gpu_memory_utilization: float = 0.90
    max_num_seqs: int = 256
    disable_log_stats: bool = False
    enforce_eager: bool = False
    disable_log_requests: bool = False
