"""Stands for vllm.engine.async_llm_engine of 0.3.2: cumulative answers, a scheduler, a log line."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs

BLOCKS = 64
LOG_S = 0.2


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[SimpleNamespace]
    finished: bool


@dataclass
class Scheduler:
    running: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    swapped: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.block_manager = SimpleNamespace(
            get_num_free_gpu_blocks=lambda: BLOCKS - 2 * len(self.running)
        )


class AsyncLLMEngine:
    def __init__(self, args: AsyncEngineArgs) -> None:
        if not os.path.isdir(args.model):
            raise ValueError(f"{args.model} is no folder")
        self._logs = not args.disable_log_stats
        self._logged = time.monotonic()
        self.engine = SimpleNamespace(
            scheduler=Scheduler(), cache_config=SimpleNamespace(num_gpu_blocks=BLOCKS)
        )

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs) -> AsyncLLMEngine:
        asyncio.get_running_loop()
        return cls(args)

    async def generate(
        self, prompt: str, sampling_params: SamplingParams, request_id: str
    ) -> AsyncIterator[RequestOutput]:
        running = self.engine.scheduler.running
        running.append(request_id)
        text, ids = "", []
        for number in range(sampling_params.max_tokens):
            await asyncio.sleep(0.002)
            if request_id not in running:
                return
            self._log()
            text, ids = f"{text} w{number}", [*ids, number]
            answer = SimpleNamespace(text=text, token_ids=list(ids))
            finished = number + 1 == sampling_params.max_tokens
            if finished:
                running.remove(request_id)
            yield RequestOutput(list(range(len(prompt.split()))), [answer], finished)

    async def abort(self, request_id: str) -> None:
        running = self.engine.scheduler.running
        if request_id in running:
            running.remove(request_id)

    def _log(self) -> None:
        now = time.monotonic()
        if not self._logs or now - self._logged < LOG_S:
            return
        self._logged = now
        running = len(self.engine.scheduler.running)
        print(
            "INFO 11-29 10:00:00 metrics.py:161] Avg prompt throughput: 1.0 tokens/s, "
            f"Avg generation throughput: 9.0 tokens/s, Running: {running} reqs, Swapped: 0 reqs, "
            f"Pending: 0 reqs, GPU KV cache usage: {200 * running / BLOCKS:.1f}%, "
            "CPU KV cache usage: 0.0%",
            flush=True,
        )
