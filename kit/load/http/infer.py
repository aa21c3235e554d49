"""Triton's HTTP `infer`: builds requests with whole tensors, judges responses.

The inputs are those of Triton's vLLM backend: text_input, stream, sampling_parameters. Over HTTP
the body is made and read by `tritonclient.http`, over gRPC the message is `tritonclient.grpc`'s.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import numpy as np
import tritonclient.http as triton

from kit.load.answers import Judgement
from kit.load.http.dialect import WithoutUsage, malformed, server_error
from kit.load.http.generate import sampling_parameters
from kit.load.http.target import HttpTarget
from kit.load.traffic.call import Call
from kit.study.spec import FaultKind


class HttpInfer(WithoutUsage):
    """HTTP `infer`, for models that are not decoupled.

    Only the encoding is tritonclient's; the exchange is the kit's own. tritonclient's HTTP client
    must not be shared between threads, and stamps nothing.
    """

    streams = False
    ends_with_done = False
    echoes = True

    def __init__(self, target: HttpTarget, model: str, *, extra: dict[str, object]) -> None:
        self._extra = extra
        self._head = target.head(
            f"/v2/models/{quote(model)}/infer", {"Content-Type": "application/octet-stream"}
        )
        self._output = [triton.InferRequestedOutput("text_output", binary_data=False)]
        self._stream = _tensor("stream", "BOOL", np.array([False]))

    def request(self, call: Call) -> bytes:
        return self._with(_tensor("text_input", "BYTES", _text(call.text)), call)

    def faulty_request(self, call: Call) -> bytes:
        if call.fault is not None and call.fault.kind is FaultKind.WRONG_TYPE:
            return self._with(_tensor("text_input", "INT32", np.array([1], np.int32)), call)
        request = self.request(call)
        if call.fault is not None and call.fault.kind is FaultKind.BAD_JSON:
            head, _, body = request.partition(b"\r\n\r\n")
            return b"%b\r\n\r\n%b" % (head, body.replace(b"{", b"[", 1))
        return request

    def _with(self, text: Any, call: Call) -> bytes:
        parameters = sampling_parameters(call.output_tokens, self._extra).encode()
        body, json_size = triton.InferenceServerClient.generate_request_body(
            [text, self._stream, _tensor("sampling_parameters", "BYTES", _text(parameters))],
            outputs=self._output,
        )
        size = b"" if json_size is None else b"\r\nInference-Header-Content-Length: %d" % json_size
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, size, len(body), body)

    def read_body(self, body: bytes) -> str | Judgement:
        try:
            result = triton.InferenceServerClient.parse_response_body(body)
            error = result.get_response().get("error")
            if error is not None:
                return server_error(str(error))
            return _first_text(result.as_numpy("text_output"))
        except Exception as error:  # noqa: BLE001 - tritonclient does not say what it raises
            return malformed(f"not an infer response: {type(error).__name__}: {error}", body)

    def read_event(self, data: bytes) -> str | Judgement | None:
        return malformed("an event stream, which was not asked for", data)


def _text(text: bytes) -> np.ndarray:
    return np.array([text], dtype=np.object_)


def _tensor(name: str, kind: str, values: np.ndarray) -> Any:
    tensor = triton.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    return tensor


def _first_text(values: np.ndarray | None) -> str | Judgement:
    if values is None or not values.size:
        return malformed("an answer without text_output", b"")
    first = values.reshape(-1)[0]
    return first.decode() if isinstance(first, bytes) else str(first)
