"""vLLM's V0 engine, which every version before 0.10 has: answers, statistics, end.

Read in the sources of 0.2.1.post1, 0.3.2, 0.5.5 and 0.9.2, as their packages have them. It needs a
GPU.
Its scheduler is looked at from outside, as the engine itself does for its log line.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import fields

from decoupled import Piece
from engine_stats import EngineStats

# Before vLLM is imported: from 0.8 to 0.9 V1 is the usual one, and cannot be watched.
os.environ.setdefault("VLLM_USE_V1", "0")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine

LOGS_BY_ITSELF = True

#: The arguments that this vLLM knows.
ARGUMENTS = frozenset(field.name for field in fields(AsyncEngineArgs))


class VllmEngine:
    """Make it in the event loop that it will belong to."""

    def __init__(self, arguments: dict[str, object]) -> None:
        self._engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**arguments))
        self._prompt_tokens = self._generated_tokens = 0

    async def generate(
        self, prompt: str, parameters: dict[str, object], request_id: str
    ) -> AsyncGenerator[Piece, None]:
        """The answer, a piece a token; closing the generator aborts.

        Raises:
            TypeError, ValueError: vLLM refuses the parameters or the prompt.
        """
        outputs = self._engine.generate(prompt, SamplingParams(**parameters), request_id)
        text, tokens, asked, finished = "", 0, 0, False
        try:
            async for output in outputs:  # each holds the whole answer so far
                answer = output.outputs[0]
                self._prompt_tokens += len(output.prompt_token_ids) - asked
                asked = len(output.prompt_token_ids)
                self._generated_tokens += len(answer.token_ids) - tokens
                piece, text, tokens = answer.text[len(text) :], answer.text, len(answer.token_ids)
                finished = output.finished
                yield Piece(piece, finished=finished)
        finally:
            if not finished:
                await self._engine.abort(request_id)

    def stats(self) -> EngineStats:
        """As the scheduler stands; usage as vLLM computes it for its log."""
        engine = self._engine.engine
        # One, and from 0.5 on one a stage of the pipeline.
        own = engine.scheduler
        schedulers = own if isinstance(own, list) else [own]
        blocks = engine.cache_config.num_gpu_blocks
        free = sum(s.block_manager.get_num_free_gpu_blocks() for s in schedulers)
        return EngineStats(
            kv_usage=1.0 - free / blocks if blocks else 0.0,
            running=sum(len(s.running) for s in schedulers),
            waiting=sum(len(s.waiting) for s in schedulers),
            preemptions=sum(getattr(s, "num_cumulative_preemption", 0) for s in schedulers),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
        )

    def untold(self) -> tuple[str, ...]:
        """Fields of EngineStats that this version cannot tell."""
        own = self._engine.engine.scheduler
        one = own[0] if isinstance(own, list) else own
        return () if hasattr(one, "num_cumulative_preemption") else ("preemptions",)

    async def log_stats(self) -> None:
        """Nothing: vLLM writes its line by itself."""

    def shut_down(self) -> None:
        """End the engine's loop; what it holds goes with this process."""
        stop = getattr(self._engine, "shutdown_background_loop", None)
        if stop is not None:
            stop()
