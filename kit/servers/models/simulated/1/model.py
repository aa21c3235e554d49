"""The simulated engine as a Triton model: vLLM's backend in form, a scheduler in place of vLLM.

Decoupled. Inputs `text_input`, and optionally `stream`, `sampling_parameters` (JSON) and
`exclude_input_in_output`; output `text_output` (see `generate_request`). The text is the
contract in `answer`: the prompt echoed, then exactly `max_tokens` tokens that name their request
and their place. With `stream` there is one response a token, the first with the echo before it;
without, one response. FINAL comes with the last token, or after it when `final` is "empty".

Admission, batching, cache blocks and preemption are in `kv_scheduler`, time in
`simulated_engine`, log lines and gauges in `engine_stats`, the ways to ask for cancellation in
`cancellation`. All numbers come from the parameters in config.pbtxt.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import answer
import triton_python_backend_utils as pb_utils
from cancellation import CancelCheck
from decoupled import DecoupledModel, Piece
from engine_stats import Gauges, StatsReporter, ThroughputLog, vllm_logger
from generate_request import BadRequestError, GenerateRequest
from kv_scheduler import CacheConfig, DoesNotFitError
from settings import Settings
from simulated_engine import Pace, SimulatedEngine


class TritonPythonModel(DecoupledModel):
    def initialize(self, args: dict[str, str]) -> None:
        settings = Settings(args["model_config"])
        cache = CacheConfig(
            blocks=settings.whole("blocks"),
            block_size_tokens=settings.whole("block_size_tokens"),
            max_sequences=settings.whole("max_sequences"),
            max_model_tokens=settings.whole("max_model_tokens"),
            max_batched_tokens=settings.whole("max_batched_tokens"),
            watermark_fraction=settings.number("watermark_fraction"),
        )
        pace = Pace(
            decode_step_ms=settings.number("decode_step_ms"),
            sequence_step_ms=settings.number("sequence_step_ms"),
            prefill_tokens_per_s=settings.number("prefill_tokens_per_s"),
        )
        self._engine = SimulatedEngine(cache, pace)
        self._exit_at_request = settings.whole("exit_at_request")
        self._error_every = settings.whole("error_every")
        self._ends_at_error = settings.choice("after_error", "end", "go-on") == "end"
        self._requests = 0
        self._reporter = StatsReporter(
            lambda: self._engine.stats,
            log=ThroughputLog("CPU") if settings.flag("log_stats") else None,
            log_interval_s=settings.number("log_interval_s"),
            gauges=_gauges(args) if settings.flag("export_metrics") else None,
        )
        self.serve(
            CancelCheck(
                settings.text("cancel_check"), poll_s=settings.number("cancel_poll_ms") / 1e3
            ),
            final_with_last=settings.choice("final", "with-last", "empty") == "with-last",
        )
        self._reporter.start()
        _announce(cache)

    async def run_engine(self) -> None:
        await self._engine.run()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self._requests += 1
        if self._requests == self._exit_at_request:
            os._exit(137)  # as the kernel's out-of-memory killer would have it: no goodbye
        if self._error_every > 0 and self._requests % self._error_every == 0:
            yield Piece("an error that the answer begins with", self._ends_at_error, failed=True)
            if self._ends_at_error:
                return
        nonce, last = answer.nonce_of(request.prompt), request.max_tokens - 1
        tokens = self._engine.generate(answer.prompt_tokens(request.prompt), request.max_tokens)
        try:
            async for index in tokens:
                yield Piece(answer.token(nonce, index), finished=index == last)
        except DoesNotFitError as error:
            raise BadRequestError(str(error)) from None
        finally:
            await tokens.aclose()  # which takes the sequence out of the engine

    def finalize(self) -> None:
        self._reporter.stop()
        self.shut_down()


def _gauges(args: dict[str, str]) -> Gauges | None:
    """The gauges; None, said in the log, where this server has no metrics."""
    try:
        return Gauges({"model": args["model_name"], "version": args["model_version"]})
    except (pb_utils.TritonModelException, AttributeError) as error:
        vllm_logger().warning("No metrics on this server: %s", error)
        return None


def _announce(cache: CacheConfig) -> None:
    """vLLM's start-up line about the cache, after one that says what this is."""
    tokens = cache.usable_blocks * cache.block_size_tokens
    longest = cache.max_model_tokens
    vllm_logger().info(
        "Simulated engine: a scheduler with a paged KV cache, no model and no vLLM; the lines "
        "below follow vLLM's format"
    )
    vllm_logger().info("CPU KV cache size: %s tokens", f"{tokens:,}")
    vllm_logger().info(
        "Maximum concurrency for %s tokens per request: %.2fx",
        f"{longest:,}",
        tokens / (cache.blocks_for(longest) * cache.block_size_tokens),
    )
