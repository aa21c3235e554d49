"""A front model: each request becomes a decoupled BLS call of the simulated model.

As a pipeline in front of an LLM does it, with tokenisation, guard rails or routing left out: a
thread a request iterates over the responses of the call and sends each on as it comes.
Inputs, output and text are those of the simulated model.
"""

from __future__ import annotations

import json
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils
from generate_request import BadRequestError, GenerateRequest, read_request
from settings import Settings

ENGINE = "simulated"
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        threads = Settings(args["model_config"]).whole("bls_threads")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bls")

    def execute(self, requests: list[object]) -> None:
        for request in requests:
            self._pool.submit(_answer, request, request.get_response_sender())

    def finalize(self) -> None:
        self._pool.shutdown()


def _answer(triton_request: object, sender: object) -> None:
    try:
        _pass_on(read_request(triton_request), sender)
        sender.send(flags=FINAL)
    except BadRequestError as error:
        _refuse(sender, str(error))
    except Exception:  # noqa: BLE001  the client must get an end whatever went wrong here
        pb_utils.Logger.log_error(traceback.format_exc())
        _refuse(sender, traceback.format_exc())


def _pass_on(request: GenerateRequest, sender: object) -> None:
    call = pb_utils.InferenceRequest(
        model_name=ENGINE,
        requested_output_names=["text_output"],
        inputs=[
            _tensor("text_input", request.prompt),
            _tensor("sampling_parameters", json.dumps({"max_tokens": request.max_tokens})),
            pb_utils.Tensor("stream", np.array([request.stream])),
            pb_utils.Tensor("exclude_input_in_output", np.array([not request.echo])),
        ],
    )
    for response in call.exec(decoupled=True):
        if response.has_error():
            raise BadRequestError(response.error().message())
        if response.output_tensors():  # the last one may carry the flag alone
            text = pb_utils.get_output_tensor_by_name(response, "text_output")
            sender.send(pb_utils.InferenceResponse([_tensor("text_output", text.as_numpy()[0])]))


def _tensor(name: str, text: str | bytes) -> object:
    value = text if isinstance(text, bytes) else text.encode()
    return pb_utils.Tensor(name, np.array([value], dtype=object))


def _refuse(sender: object, text: str) -> None:
    error = pb_utils.TritonError(text)
    sender.send(pb_utils.InferenceResponse(output_tensors=[], error=error), flags=FINAL)
