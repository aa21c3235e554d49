"""OpenAI's `/v1/completions` and `/v1/chat/completions`: builds requests, reads texts.

vLLM's own server and Triton's OpenAI frontend both speak them. A streamed answer is over at the
event `[DONE]`; events without text (a role, a finish reason, usage) are no token events.

Streams are asked for their usage (`stream_options`). Some servers refuse a request that has a field
they do not know (HTTP 400 or 422, with the field's name): it is sent again without, and so are all
that follow.
"""

from __future__ import annotations

import json
import re

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
from kit.load.traffic.faults import MUST_BE_REFUSED
from kit.study.result import Outcome
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
#: So many requests are sent again without the question, if that does not help.
_TRIES = 8
_ASKS_USAGE = {"stream_options": {"include_usage": True}}
_REFUSES_USAGE = re.compile(r"HTTP 4\d\d:.*(stream_options|include_usage)", re.DOTALL)


def _inner(options: dict[str, object]) -> bytes:
    """The fields of a JSON object, without its braces."""
    return json.dumps(options, separators=(",", ":"))[1:-1].encode()


class OpenAi:
    """Both OpenAI protocols, streamed or not.

    echo: ask the server to repeat the prompt; only completions can.
    """

    ends_with_done = True
    has_usage = True
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
        self._plain_options = _inner(options)
        self._asking_options = _inner(options | _ASKS_USAGE)
        self._is_settled = not streams  # whether the server takes the question is known
        self._tries_left = _TRIES
        self._path = "/v1/chat/completions" if chat else "/v1/completions"
        self._target = target
        self._ask(streams)

    def _ask(self, asks: bool) -> None:
        """From now on ask for the usage, or do not."""
        self._options = self._asking_options if asks else self._plain_options
        before = b'{"messages":[{"role":"user","content":"' if self._chat else b'{"prompt":"'
        self._template = RequestTemplate(json_head(self._target, self._path), before, self._after)

    def refuses_usage(self, call: Call, judgement: Judgement) -> bool:
        if not self.streams or call.is_resent or judgement.outcome is not Outcome.HTTP_ERROR:
            return False
        if call.fault is not None and call.fault.kind in MUST_BE_REFUSED:
            return False
        if not _REFUSES_USAGE.match(judgement.cause or ""):
            return False
        if self._is_settled:  # what was sent before it was is sent again, if all others go without
            return self._options is self._plain_options
        self._ask(False)
        return True

    def answered_again(self, judgement: Judgement) -> None:
        if self._is_settled:
            return
        if judgement.outcome in (Outcome.OK, Outcome.WRONG_ANSWER):
            self._is_settled = True
        elif judgement.outcome is Outcome.HTTP_ERROR:
            # It may have been refused for something else, in words that quote the request.
            self._tries_left -= 1
            self._is_settled = self._tries_left == 0
            self._ask(True)

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
