"""Counts the tokens of prompts and answers: as the server says, by a tokenizer, or by words.

A count comes from one of these alone, the best that there is, for a request's prompt and answer
together; its record says which (`kit.study.result.TokensBy`).
"""

from __future__ import annotations

import msgspec

from kit.load.answers import kept_bytes, most_events
from kit.load.traffic.call import Call


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Told(msgspec.Struct):
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Told).decode


def usage_of(call: Call, data: bytes | None) -> tuple[int, int] | None:
    """(tokens of the prompt, of the answer) as `usage` in a JSON object says.

    None: it says nothing, or what cannot be: text, a negative number, more tokens than the answer
    could have events, or the prompt bytes.
    """
    if data is None:
        return None
    try:
        usage = _decode(data).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if usage is None:
        return None
    prompt, answer = usage.prompt_tokens, usage.completion_tokens
    if 0 <= prompt <= kept_bytes(call) and 0 <= answer <= most_events(call):
        return prompt, answer
    return None


def words_of_answer(call: Call, text: str) -> int:
    """How many words the text has, without the prompt where the server repeats it."""
    return len(text.removeprefix(call.text.decode()).split())
