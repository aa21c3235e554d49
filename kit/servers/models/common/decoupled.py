"""Life of a decoupled model: passes requests to an asynchronous engine, sends answers.

Built like Triton's vLLM backend. `execute` hands every request to an event loop that runs in a
thread of its own; there a coroutine takes the request's tokens from the engine, and another
thread sends the responses, so that a slow client does not hold up the engine. What generates the
tokens is a subclass's business, when cancellation is asked for is `cancellation`'s.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import traceback
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import triton_python_backend_utils as pb_utils
from cancellation import CancelCheck, LiveRequest
from generate_request import BadRequestError, GenerateRequest, read_request

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


@dataclass(frozen=True)
class Piece:
    """One token's text."""

    text: str
    finished: bool  # it is the last one
    failed: bool = False  # the text is of an error, which a response tells; the answer goes on


@dataclass(frozen=True)
class Outgoing:
    """A response on its way to the response thread; None sends the flags alone."""

    request: LiveRequest
    response: object | None
    final: bool


class DecoupledModel:
    """Base of a TritonPythonModel: call `serve` in `initialize`, implement `generate`."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """The continuation, one piece a token; closing the generator aborts.

        Raises:
            BadRequestError: the engine will not serve this request.
        """
        raise NotImplementedError

    async def run_engine(self) -> None:
        """Runs beside the requests until it is cancelled."""

    def serve(self, cancel_check: CancelCheck, *, final_with_last: bool) -> None:
        """Start the event loop and the response thread."""
        self._cancel_check = cancel_check
        self._final_with_last = final_with_last
        self._outgoing: queue.SimpleQueue[Outgoing | None] = queue.SimpleQueue()
        self._response_thread = threading.Thread(target=self._send_responses, name="responses")
        self._response_thread.start()
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._run_loop, name="engine-loop")
        self._loop_thread.start()

    def execute(self, requests: list[object]) -> None:
        for request in requests:
            asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)

    def shut_down(self) -> None:
        """Stop everything that `serve` started; Triton has no open request by now."""
        self._cancel_check.stop()
        self._loop.call_soon_threadsafe(self._engine_task.cancel)
        self._loop_thread.join()
        self._outgoing.put(None)
        self._response_thread.join()
        gc.collect()  # what still refers to a sender would keep the stub from exiting

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._engine_task = self._loop.create_task(self.run_engine())
        try:
            self._loop.run_until_complete(self._engine_task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _answer(self, triton_request: object) -> None:
        live = self._cancel_check.begin(triton_request.get_response_sender())
        try:
            await self._stream(read_request(triton_request), live)
        except BadRequestError as error:
            self._refuse(live, str(error))
        except Exception:  # noqa: BLE001  the client must get an end whatever went wrong here
            text = traceback.format_exc()
            pb_utils.Logger.log_error(text)
            self._refuse(live, text)
        await live.final_sent.wait()
        self._cancel_check.end(live)

    async def _stream(self, request: GenerateRequest, live: LiveRequest) -> None:
        """Send the answer, token by token or at once; stop early if the client went away."""
        pieces = self.generate(request)
        held = request.prompt if request.echo else ""
        async for piece in pieces:
            if self._cancel_check.cancelled(live):
                await pieces.aclose()
                self._refuse(live, "the request was cancelled", pb_utils.TritonError.CANCELLED)
                return
            if piece.failed:
                self._fail(live, piece.text, final=piece.finished)
                if piece.finished:
                    return
                continue
            held += piece.text
            if request.stream or piece.finished:
                self._put(live, held, final=piece.finished)
                held = ""

    def _put(self, live: LiveRequest, text: str, *, final: bool) -> None:
        tensor = pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object))
        response = pb_utils.InferenceResponse(output_tensors=[tensor])
        if final and not self._final_with_last:
            self._outgoing.put(Outgoing(live, response, final=False))
            response = None
        self._outgoing.put(Outgoing(live, response, final=final))

    def _refuse(self, live: LiveRequest, text: str, *code: int) -> None:
        self._fail(live, text, *code, final=True)

    def _fail(self, live: LiveRequest, text: str, *code: int, final: bool) -> None:
        error = pb_utils.TritonError(text, *code)
        response = pb_utils.InferenceResponse(output_tensors=[], error=error)
        self._outgoing.put(Outgoing(live, response, final=final))

    def _send_responses(self) -> None:
        while (out := self._outgoing.get()) is not None:
            self._send(out)
            del out  # 23.12 to 24.07 cannot unload a model that still holds a sender

    def _send(self, out: Outgoing) -> None:
        flags = FINAL if out.final else 0
        try:
            if out.response is None:
                out.request.sender.send(flags=flags)
            else:
                out.request.sender.send(out.response, flags=flags)
        except Exception:  # noqa: BLE001  one request's trouble must not end the others
            pb_utils.Logger.log_error(traceback.format_exc())
        if out.final:
            self._loop.call_soon_threadsafe(out.request.final_sent.set)
