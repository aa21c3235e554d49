"""OpenAI's `/v1/completions` and `/v1/chat/completions`: builds requests, reads texts.

vLLM's own server and Triton's OpenAI frontend both speak them. A streamed answer is over at the
event `[DONE]`; events without text (a role, a finish reason, usage) are no token events.
"""

from __future__ import annotations

import json

import msgspec

from kit.errors import SpecError
from kit.load.answers import Judgement
from kit.load.http.dialect import (
    DONE,
    NO_JSON,
    NOTHING,
    RequestTemplate,
    error_text,
    json_head,
    malformed,
    server_error,
)
from kit.load.http.target import HttpTarget
from kit.load.traffic.call import Call
from kit.study.spec import AnswerCheck, FaultKind


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    message: _Said | None = None
    delta: _Said | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw = NOTHING
    message: str | None = None  # vLLM's error objects before they were nested in `error`
    object: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAi:
    """Both OpenAI protocols, streamed or not.

    echo: ask the server to repeat the prompt; only completions can.
    """

    ends_with_done = True
    echoes = False

    def __init__(
        self,
        target: HttpTarget,
        model: str,
        *,
        chat: bool,
        streams: bool,
        check: AnswerCheck,
        extra: dict[str, object],
    ) -> None:
        if chat and check is AnswerCheck.ECHO:
            raise SpecError(
                "a chat whose answers are to repeat their prompts",
                "answer_check none, or exact with the simulated engine",
                "change answer_check, or use completions",
            )
        self.streams = streams
        self._chat = chat
        options: dict[str, object] = {"model": model, "stream": streams, **extra}
        if check is AnswerCheck.ECHO:
            options["echo"] = True
            self.echoes = True
        self._options = json.dumps(options, separators=(",", ":"))[1:-1].encode()
        before = b'{"messages":[{"role":"user","content":"' if chat else b'{"prompt":"'
        path = "/v1/chat/completions" if chat else "/v1/completions"
        self._template = RequestTemplate(json_head(target, path), before, self._after)

    def _after(self, tokens: int) -> bytes:
        end = b'"}]' if self._chat else b'"'
        return b'%b,"max_tokens":%d,%b}' % (end, tokens, self._options)

    def request(self, call: Call) -> bytes:
        if self._chat and len(call.dialogue) > 1:
            return self._template.with_body(self._messages(call))
        return self._template.request(call)

    def _messages(self, call: Call) -> bytes:
        """A chat of several turns, each with its speaker."""
        said = b",".join(
            b'{"role":"%b","content":"%b"}' % (b"assistant" if index % 2 else b"user", words)
            for index, words in enumerate(call.dialogue)
        )
        return b'{"messages":[%b],"max_tokens":%d,%b}' % (said, call.output_tokens, self._options)

    def faulty_request(self, call: Call) -> bytes:
        field = b"messages" if self._chat else b"prompt"
        if call.fault is not None and call.fault.kind is FaultKind.BAD_JSON:
            return self._template.with_body(b'{%b,"%b":' % (self._options, field))
        if call.fault is not None and call.fault.kind is FaultKind.WRONG_TYPE:
            return self._template.with_body(b'{%b,"%b":{"not":1}}' % (self._options, field))
        return self.request(call)

    def read_body(self, body: bytes) -> str | Judgement:
        read = self._read(body)
        return malformed("an answer without text", body) if read is None else read

    def read_event(self, data: bytes) -> str | Judgement | None:
        if data == b"[DONE]":
            return DONE
        return self._read(data)

    def _read(self, data: bytes) -> str | Judgement | None:
        try:
            answer = _decode(data)
        except NO_JSON as error:
            return malformed(f"not JSON of the OpenAI protocol: {error}", data)
        told = error_text(answer.error)
        if told:
            return server_error(told)
        if answer.object == "error":
            return server_error(answer.message or "an error without a message")
        if not answer.choices:
            return None
        choice = answer.choices[0]
        if self._chat:
            said = choice.delta or choice.message
            return None if said is None else said.content
        return choice.text
