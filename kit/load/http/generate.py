"""Triton's HTTP `generate` and `generate_stream`: builds requests, judges responses.

Errors come inside status 200, also in the middle of a stream; a stream ends with its body.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import msgspec

from kit.load.answers import Judgement
from kit.load.http.dialect import (
    NO_JSON,
    RequestTemplate,
    WithoutUsage,
    json_head,
    malformed,
    server_error,
)
from kit.load.http.target import HttpTarget
from kit.load.traffic.call import Call
from kit.study.spec import FaultKind


class _Answer(msgspec.Struct):
    text_output: str | None = None
    error: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def sampling_parameters(output_tokens: int, extra: dict[str, object]) -> str:
    """What Triton's vLLM backend takes as `sampling_parameters`: a JSON object as text."""
    return json.dumps({"max_tokens": output_tokens, **extra}, separators=(",", ":"))


class Generate(WithoutUsage):
    """The generate extension, streamed or not.

    extra: more sampling parameters; a real engine is asked for exactly the tokens wanted.
    """

    echoes = True
    ends_with_done = False

    def __init__(
        self,
        target: HttpTarget,
        model: str,
        *,
        streams: bool,
        extra: dict[str, object],
    ) -> None:
        self.streams = streams
        verb = "generate_stream" if streams else "generate"
        self._stream_word = b"true" if streams else b"false"

        def after(tokens: int) -> bytes:
            parameters = json.dumps(sampling_parameters(tokens, extra)).encode()
            return b'","stream":%b,"sampling_parameters":%b}' % (self._stream_word, parameters)

        self._template = RequestTemplate(
            json_head(target, f"/v2/models/{quote(model)}/{verb}"), b'{"text_input":"', after
        )
        self.request = self._template.request

    def faulty_request(self, call: Call) -> bytes:
        if call.fault is not None and call.fault.kind is FaultKind.BAD_JSON:
            return self._template.with_body(b'{"text_input":"%b","stream":' % call.prompt)
        if call.fault is not None and call.fault.kind is FaultKind.WRONG_TYPE:
            return self._template.with_body(
                b'{"text_input":{"not":"text"},"stream":%b}' % self._stream_word
            )
        return self._template.request(call)

    def read_body(self, body: bytes) -> str | Judgement:
        try:
            answer = _decode(body)
        except NO_JSON as error:
            return malformed(f"the answer is not JSON of the generate extension: {error}", body)
        if answer.error is not None:
            return server_error(answer.error)
        if answer.text_output is None:
            return malformed("an answer without text_output", body)
        return answer.text_output

    def read_event(self, data: bytes) -> str | Judgement | None:
        try:
            answer = _decode(data)
        except NO_JSON as error:
            return malformed(f"an event is not JSON of the generate extension: {error}", data)
        if answer.error is not None:
            return server_error(answer.error)
        return answer.text_output
