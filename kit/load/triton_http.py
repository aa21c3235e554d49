"""HTTP `generate` and `generate_stream` of Triton: calls in, request bytes and judgements out.

Errors come inside status 200, also in the middle of a stream; a stream ends with its body.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import msgspec

from kit.load.answers import OK, Judgement, judge_text
from kit.load.call import Call
from kit.load.dialect import RequestTemplate, json_head, malformed, server_error
from kit.load.target import HttpTarget
from kit.load.traffic import continuation
from kit.records import AnswerCheck, FaultKind


class _Answer(msgspec.Struct):
    text_output: str | None = None
    error: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def sampling_parameters(output_tokens: int, extra: dict[str, object]) -> str:
    """What Triton's vLLM backend takes as `sampling_parameters`: a JSON object as text."""
    return json.dumps({"max_tokens": output_tokens, **extra}, separators=(",", ":"))


class Generate:
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
        check: AnswerCheck,
        extra: dict[str, object],
    ) -> None:
        self.streams = streams
        self._check = check
        self._exact = check is AnswerCheck.EXACT
        verb = "generate_stream" if streams else "generate"
        self._stream_word = b"true" if streams else b"false"

        def after(tokens: int) -> bytes:
            parameters = json.dumps(sampling_parameters(tokens, extra)).encode()
            return b'","stream":%b,"sampling_parameters":%b}' % (self._stream_word, parameters)

        self._request = RequestTemplate(
            json_head(target, f"/v2/models/{quote(model)}/{verb}"), b'{"text_input":"', after
        )
        #: What stood around the text in the last good answer that was read in full.
        self._before, self._after = b"\0", b"\0"  # no answer yet: JSON has no such byte

    def encode(self, call: Call) -> bytes:
        if call.fault is not None:
            if call.fault.kind is FaultKind.BAD_JSON:
                return self._request.with_body(b'{"text_input":"%b","stream":' % call.prompt)
            if call.fault.kind is FaultKind.WRONG_TYPE:
                return self._request.with_body(
                    b'{"text_input":{"not":"text"},"stream":%b}' % self._stream_word
                )
        return self._request(call.prompt, call.output_tokens)

    def judge_body(self, call: Call, body: bytes) -> Judgement:
        if self._exact:
            # An answer equal, byte for byte, to one that was read in full, but for the text that
            # must differ, is as good as read.
            tokens = continuation(call.digits, call.output_tokens)
            if body == b"".join((self._before, call.prompt, tokens, self._after)):
                return OK
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return malformed(f"the answer is not JSON of the generate extension: {error}", body)
        if answer.error is not None:
            return server_error(answer.error)
        if answer.text_output is None:
            return malformed("an answer without text_output", body)
        judged = judge_text(call, answer.text_output, self._check)
        if judged is OK and self._exact:
            before, found, after = body.partition(call.prompt + tokens)
            if found:
                self._before, self._after = before, after
        return judged

    def read_event(self, data: bytes) -> str | Judgement | None:
        try:
            answer = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return malformed(f"an event is not JSON of the generate extension: {error}", data)
        if answer.error is not None:
            return server_error(answer.error)
        return answer.text_output
