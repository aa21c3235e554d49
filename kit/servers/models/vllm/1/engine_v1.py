"""vLLM's V1 engine (0.10 and later): answers, statistics, end.

Run with 0.32.0 for the CPU; read in the source of 0.10.0, as its package has it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from dataclasses import fields

from decoupled import Piece
from engine_stats import EngineStats
from stat_logger import SchedulerWatch

# Before vLLM is imported: 0.10 still has both engines, and reads this then.
os.environ.setdefault("VLLM_USE_V1", "1")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

#: Whether vLLM logs its statistics without being asked.
LOGS_BY_ITSELF = False

#: The arguments that this vLLM knows.
ARGUMENTS = frozenset(field.name for field in fields(AsyncEngineArgs))


class VllmEngine:
    """Make it in the event loop that it will belong to."""

    def __init__(self, arguments: dict[str, object]) -> None:
        self._watch = SchedulerWatch()
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), stat_loggers=[self._watch.logger]
        )

    async def generate(
        self, prompt: str, parameters: dict[str, object], request_id: str
    ) -> AsyncGenerator[Piece, None]:
        """The answer, a piece a token; closing the generator aborts.

        Raises:
            TypeError, ValueError: vLLM refuses the parameters or the prompt.
        """
        sampling = SamplingParams(**parameters, output_kind=RequestOutputKind.DELTA)
        outputs = self._engine.generate(prompt, sampling, request_id)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                yield Piece(output.outputs[0].text, finished=output.finished)

    def stats(self) -> EngineStats:
        """What the engine said after its last step."""
        return self._watch.stats

    def untold(self) -> tuple[str, ...]:
        """Fields of EngineStats that this version cannot tell: none."""
        return ()

    async def log_stats(self) -> None:
        """Have vLLM write its line."""
        await self._engine.do_log_stats()

    def shut_down(self) -> None:
        """End the engine and its processes."""
        self._engine.shutdown()
