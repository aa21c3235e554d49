"""A model that is not decoupled: a fixed time after a request comes its one response.

Inputs, output and text as in the simulated model (see `generate_request`, `answer`); `stream`
changes nothing. Each instance is a process of its own and serves one request at a time.
"""

from __future__ import annotations

import time

import answer
import numpy as np
import triton_python_backend_utils as pb_utils
from generate_request import BadRequestError, read_request
from settings import Settings


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._latency_s = Settings(args["model_config"]).number("latency_ms") / 1e3

    def execute(self, requests: list[object]) -> list[object]:
        return [self._respond(request) for request in requests]

    def _respond(self, triton_request: object) -> object:
        try:
            request = read_request(triton_request)
        except BadRequestError as error:
            return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(error)))
        time.sleep(self._latency_s)
        text = (request.prompt if request.echo else "") + answer.continuation(
            request.prompt, request.max_tokens
        )
        tensor = pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object))
        return pb_utils.InferenceResponse(output_tensors=[tensor])
