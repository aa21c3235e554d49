"""Reads what a request asks of the engine, from the inputs of Triton's vLLM backend.

`text_input`, and optionally `stream`, `sampling_parameters` (a JSON object) and
`exclude_input_in_output`. Sampling parameters may come as request parameters instead, which is
how HTTP generate sends them. Read are `max_tokens` (vLLM's default: 16) and `min_tokens`;
`ignore_eos` and everything about sampling is accepted and changes nothing, since these engines
have no end-of-text token and no choice to make.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import triton_python_backend_utils as pb_utils

DEFAULT_MAX_TOKENS = 16


class BadRequestError(Exception):
    """The request cannot be served as it is; the text goes to the client."""


@dataclass(frozen=True)
class GenerateRequest:
    prompt: str
    stream: bool
    max_tokens: int
    echo: bool  # the answer begins with the prompt
    parameters: dict[str, object] = field(default_factory=dict)  # all of them, as they came


def read_request(request: object) -> GenerateRequest:
    """What a Triton request asks for.

    Raises:
        BadRequestError: an input is missing or cannot be read.
    """
    text = _input(request, "text_input")
    if text is None:
        raise BadRequestError("the input text_input is missing")
    parameters = _sampling_parameters(request)
    return GenerateRequest(
        prompt=_text(text, "text_input"),
        stream=bool(_input(request, "stream")),
        max_tokens=_max_tokens(parameters),
        echo=not _input(request, "exclude_input_in_output"),
        parameters=parameters,
    )


def _input(request: object, name: str) -> object | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise BadRequestError(f"the input {name} has {len(values)} elements; one is expected")
    return values[0]


def _text(value: object, name: str) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise BadRequestError(f"the input {name} is not UTF-8: {error}") from None


def _sampling_parameters(request: object) -> dict[str, object]:
    given = _input(request, "sampling_parameters")
    text = request.parameters() if given is None else _text(given, "sampling_parameters")
    try:
        parameters = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise BadRequestError(f"sampling_parameters is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise BadRequestError("sampling_parameters is not a JSON object")
    return parameters


def _max_tokens(parameters: dict[str, object]) -> int:
    most = _count(parameters, "max_tokens", DEFAULT_MAX_TOKENS, least=1)
    least = _count(parameters, "min_tokens", 0, least=0)
    if least > most:
        raise BadRequestError(f"min_tokens ({least}) is greater than max_tokens ({most})")
    return most


def _count(parameters: dict[str, object], name: str, default: int, *, least: int) -> int:
    value = parameters.get(name, default)
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRequestError(f"{name} is {value!r}; a whole number from {least} up is expected")
    return value
