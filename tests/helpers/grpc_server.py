"""A gRPC server with Triton's interface that does what a test says: no model, no Triton.

`respond(prompt, tokens)` gives steps: text to send as a token, seconds to wait, an error to report
inside the stream, a status to end the call with, or SILENCE.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from scripted_server import SILENCE, right_text
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc


class Error(NamedTuple):
    """An error message inside a stream that goes on."""

    text: str


Step = str | float | Error | grpc.StatusCode


def tokens_of(prompt: str, tokens: int) -> Iterable[Step]:
    return right_text(prompt, tokens)


def _asked(request: Any) -> tuple[str, int]:
    inputs = {
        tensor.name: contents
        for tensor, contents in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    text = inputs["text_input"]
    assert int.from_bytes(text[:4], "little") == len(text) - 4
    parameters = json.loads(inputs["sampling_parameters"][4:])
    return text[4:].decode(), parameters["max_tokens"]


def _response(text: str | None, *, final: bool) -> Any:
    response = pb.ModelInferResponse(model_name="m")
    response.parameters["triton_final_response"].bool_param = final
    if text is not None:
        response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        data = text.encode()
        response.raw_output_contents.append(len(data).to_bytes(4, "little") + data)
    return response


class GrpcServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Use it as a context manager; `port` is where it listens."""

    def __init__(
        self,
        respond: Callable[[str, int], Iterable[Step]] = tokens_of,
        *,
        credentials: Any = None,
        empty_final: bool = True,
        ends_streams: bool = False,
    ) -> None:
        self._respond = respond
        self._empty_final = empty_final
        self._ends_streams = ends_streams  # after each request, in good order
        self._server = grpc.server(ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        address = "127.0.0.1:0"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        self.metadata: list[dict[str, str]] = []
        self.cancelled = 0
        self.streams = 0
        self._lock = threading.Lock()

    def __enter__(self) -> GrpcServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(10)

    def die(self) -> None:
        self._server.stop(None)

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        with self._lock:
            self.streams += 1
            self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(lambda: self._count(context))
        for request in requests:
            last = None
            for step in self._steps(request, context):
                if isinstance(step, Error):
                    yield pb.ModelStreamInferResponse(error_message=step.text)
                    last = None
                    break
                if last is not None:
                    yield pb.ModelStreamInferResponse(infer_response=_response(last, final=False))
                last = step
            else:
                final = _response(None if self._empty_final else last, final=True)
                if self._empty_final and last is not None:
                    yield pb.ModelStreamInferResponse(infer_response=_response(last, final=False))
                yield pb.ModelStreamInferResponse(infer_response=final)
            if self._ends_streams:
                return

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(lambda: self._count(context))
        texts = [step for step in self._steps(request, context) if isinstance(step, str)]
        return _response("".join(texts), final=True)

    def _steps(self, request: Any, context: Any) -> Iterator[str | Error]:
        gone = threading.Event()
        context.add_callback(gone.set)
        for step in self._respond(*_asked(request)):
            if isinstance(step, float):
                gone.wait(step)
            elif isinstance(step, grpc.StatusCode):
                context.abort(step, "as the test says")
            elif step == SILENCE:
                gone.wait(60)
            else:
                yield step

    def _count(self, context: Any) -> None:
        if context.code() is grpc.StatusCode.CANCELLED or context.code() is None:
            with self._lock:
                self.cancelled += 1
