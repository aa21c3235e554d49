"""Judges whether the text that came back is the answer to its call.

The check is by content, so a server that mixes answers up, or loses, doubles or reorders tokens,
is found although every status says success. Nothing here knows a protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from kit.load.traffic.call import Call
from kit.load.traffic.faults import MUST_BE_REFUSED
from kit.load.traffic.traffic import continuation
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck

#: Longest evidence on a record.
EVIDENCE_CHARACTERS = 500
_TOKEN = re.compile(r" ([0-9a-f]{8}):(\d+)")


class Judgement(NamedTuple):
    """How a request ended, and for what is not well: why, and what was seen."""

    outcome: Outcome
    cause: str | None = None
    evidence: str | None = None


OK = Judgement(Outcome.OK)


def clipped(text: str | bytes | None) -> str | None:
    """Text that fits on a record: the beginning and the end of what is too long."""
    if text is None:
        return None
    if isinstance(text, bytes):
        if len(text) > 4 * EVIDENCE_CHARACTERS:
            text = text[: 2 * EVIDENCE_CHARACTERS] + text[-2 * EVIDENCE_CHARACTERS :]
        text = text.decode("utf-8", "backslashreplace")
    if len(text) <= EVIDENCE_CHARACTERS:
        return text
    half = (EVIDENCE_CHARACTERS - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def judge_text(call: Call, got: str, check: AnswerCheck, *, echoes: bool = True) -> Judgement:
    """Whether the whole text `got` answers `call`.

    echoes: the server repeats the prompt, as Triton's vLLM backend does. An OpenAI server need
        not, so without it the continuation alone is right too.
    """
    if check is AnswerCheck.NONE:
        return OK
    if check is AnswerCheck.ECHO:
        return _judge_echo(call, got, echoes=echoes)
    tokens = continuation(call.digits, call.output_tokens).decode()
    expected = call.text.decode() + tokens
    if got == expected or (not echoes and got == tokens):
        return OK
    return Judgement(
        Outcome.WRONG_ANSWER,
        _explain(call, got, call.text.decode(), echoes=echoes),
        clipped(f"expected {clipped(expected)!r}; got {clipped(got)!r}"[:1200]),
    )


def whole_text(
    call: Call, pieces: Sequence[str], check: AnswerCheck, *, echoes: bool = True
) -> str | Judgement:
    """The text that a streamed answer's pieces make; a Judgement: they make none.

    They continue each other, or each repeats the whole text so far: Triton's vLLM backend did
    that until 24.05. A stream that is right when read in the first way is read so. In the second
    an event that is lost or doubled does not show in the last text, so each is looked at.
    """
    joined = "".join(pieces)
    if len(pieces) < 2 or not pieces[1].startswith(pieces[0]):
        return joined
    exact = check is AnswerCheck.EXACT
    if exact and judge_text(call, joined, check, echoes=echoes) is OK:
        return joined
    if not all(later.startswith(earlier) for earlier, later in pairwise(pieces)):
        return joined
    return _by_steps(call, pieces, echoes=echoes) if exact else pieces[-1]


def _by_steps(call: Call, pieces: Sequence[str], *, echoes: bool) -> str | Judgement:
    """The last of texts that repeat the text so far, if each was one token longer.

    A last text that is wrong says more about what is wrong than those before it.
    """
    prompt = call.text.decode()
    begin = prompt if echoes or pieces[0].startswith(prompt) else ""
    tokens = [f" {call.digits.decode()}:{index}" for index in range(call.output_tokens)]
    steps = [begin + step for step in accumulate(tokens)]
    if list(pieces) == steps or pieces[-1] != steps[-1]:
        return pieces[-1]
    at = next(i for i, piece in enumerate(pieces) if i >= len(steps) or piece != steps[i])
    if at and pieces[at] == pieces[at - 1]:
        cause = f"duplicated: event {at + 1} says the same as the one before it"
    else:
        cause = f"event {at + 1} does not say {at + 1} tokens: one was lost or cut"
    seen = "\n".join(pieces[max(0, at - 1) : at + 1])
    return Judgement(Outcome.WRONG_ANSWER, cause, clipped(seen))


def kept_bytes(call: Call) -> int:
    """How much of an answer to `call` is kept: far more than a right one can need."""
    return 65536 + 16 * len(call.prompt) + 1024 * call.output_tokens


def most_events(call: Call) -> int:
    """How many events of an answer to `call` are read."""
    return 256 + 4 * call.output_tokens


def too_much(call: Call, seen: bytes) -> Judgement:
    """An answer so large that it cannot be right; the rest is not read."""
    return Judgement(
        Outcome.WRONG_ANSWER,
        f"more than {kept_bytes(call)} bytes or {most_events(call)} events for "
        f"{call.output_tokens} tokens; reading stopped",
        clipped(seen),
    )


def refused_or_not(call: Call, judgement: Judgement) -> Judgement:
    """`judgement`, unless the server answered a request that it must refuse."""
    if call.fault is None or call.fault.kind not in MUST_BE_REFUSED:
        return judgement
    if judgement.outcome in (Outcome.OK, Outcome.WRONG_ANSWER):
        cause = "the server answered what it must refuse"
        return Judgement(Outcome.WRONG_ANSWER, cause, judgement.evidence)
    return judgement


def text_for_next_turn(call: Call, text: str) -> bytes:
    """An answer without its prompt, escaped for JSON: what the next turn quotes."""
    return json.dumps(text.removeprefix(call.text.decode()), ensure_ascii=False)[1:-1].encode()


def _judge_echo(call: Call, got: str, *, echoes: bool) -> Judgement:
    """A real engine's text cannot be known; its prompt must come back if the server echoes."""
    prompt = call.text.decode()
    if not echoes or got.startswith(prompt):
        if got and got != prompt:
            return OK
        return Judgement(Outcome.WRONG_ANSWER, "the answer says nothing", clipped(repr(got)))
    cause = "the answer does not begin with the prompt"
    other = re.search(r"\[n:([0-9a-f]{8})\]", got)
    own = re.search(r"\[n:([0-9a-f]{8})\]", prompt)
    if other and own and other.group(1) != own.group(1):
        cause = f"the answer belongs to another request (nonce {other.group(1)})"
    return Judgement(
        Outcome.WRONG_ANSWER,
        cause,
        clipped(f"expected {clipped(prompt)!r}; got {clipped(got)!r}"),
    )


def _explain(call: Call, got: str, prompt: str, *, echoes: bool) -> str:
    """In what way a wrong answer is wrong, in a few words."""
    if echoes and not got.startswith(prompt):
        other = re.search(r"\[n:([0-9a-f]{8})\]", got)
        if other and other.group(1).encode() != call.digits and got.startswith(other.group(0)):
            return f"the answer belongs to another request (nonce {other.group(1)})"
        return "the answer does not begin with the prompt"
    rest = got.removeprefix(prompt)
    tokens = [(digits.encode(), int(index)) for digits, index in _TOKEN.findall(rest)]
    foreign = next((digits for digits, _ in tokens if digits != call.digits), None)
    if foreign is not None:
        return f"tokens of another request (nonce {foreign.decode()})"
    numbers = [index for _, index in tokens]
    asked = call.output_tokens
    if numbers == list(range(len(numbers))):
        if len(numbers) < asked:
            return f"truncated: {len(numbers)} of {asked} tokens"
        if len(numbers) > asked:
            return f"too long: {len(numbers)} tokens instead of {asked}"
        return "the right tokens with other text between them"
    if len(set(numbers)) < len(numbers):
        return "duplicated tokens"
    if numbers != sorted(numbers):
        return "tokens out of order"
    return f"missing tokens: {len(numbers)} of {asked}, with gaps"
