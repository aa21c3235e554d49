"""Generates a workload's requests: request i is a pure function of the workload and i.

So the same workload is the same traffic, byte for byte, whoever makes it: a trial can be
replayed request by request, and worker w of P shares the traffic exactly by taking the
conversations c with c = w modulo P. Nothing here depends on the order of the questions.

Lengths are in words, or in tokens of the workload's tokenizer file.

A prompt starts with a nonce word `[n:<hex>]`, unique in its trial, and the answer to it is known
beforehand from the simulated engine's contract (kit/servers/models/common/answer.py): the prompt,
then the tokens ` <hex>:0`, ` <hex>:1`, ... A shared prefix comes before the nonce, or no prefix
cache could find it; the engine then makes the digits of the answer from the whole prompt's CRC-32.

In a conversation of several turns each prompt is the dialogue so far with new words at its end.
For the simulated engine the answers in it are known; for a real one the client that holds the
conversation hands them in (`answered`), and only the user's words are decided beforehand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from kit.load.traffic.arrivals import replay_of
from kit.load.traffic.call import Call
from kit.load.traffic.draws import BLOCK, Purpose, uniform_array, uniforms
from kit.load.traffic.faults import FaultPlan, check_faults, plan_faults
from kit.load.traffic.prompts import Corpus, load_corpus
from kit.load.traffic.quantiles import whole_quantiles
from kit.load.traffic.replay import Replay, escaped
from kit.study.spec import ArrivalKind, Distribution, FaultKind, Workload

if TYPE_CHECKING:
    from kit.load.traffic.token_corpus import TokenCounter

_BLOCKS_KEPT = 16
_PATTERNS_KEPT = 1024
#: Odd, so that multiplying by it modulo 2**32 gives every number another nonce.
_STRIDE = 0x9E3779B1


class _Patterns(dict[int, tuple[bytes, ...]]):
    """By a number of tokens: what stands before, between and after their digits."""

    def __missing__(self, tokens: int) -> tuple[bytes, ...]:
        inner = [b":%d " % index for index in range(tokens - 1)]
        pattern = (b" ", *inner, b":%d" % (tokens - 1)) if tokens > 0 else (b"",)
        if len(self) < _PATTERNS_KEPT:
            self[tokens] = pattern
        return pattern


between_digits = _Patterns()


def continuation(digits: bytes, tokens: int) -> bytes:
    """The tokens ` <hex>:<i>` that answer a prompt."""
    return digits.join(between_digits[tokens])


class _Block:
    """The decisions for requests block*BLOCK .. block*BLOCK + BLOCK - 1."""

    __slots__ = ("digits", "faults", "nonces", "output_tokens", "prompt_tokens", "rests", "starts")

    def __init__(
        self,
        workload: Workload,
        corpus: Corpus,
        block: int,
        mix: int,
        replay: Replay | None,
        *,
        has_prefix: bool,
    ) -> None:
        seed, turns = workload.seed, workload.turns
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.uint64)
        nonces = numbers // np.uint64(turns) * np.uint64(_STRIDE) + np.uint64(mix)
        digits = nonces.astype(">u4").tobytes().hex().encode()
        self.digits = [digits[at : at + 8] for at in range(0, 8 * BLOCK, 8)]
        draws = uniform_array(seed, Purpose.PROMPT_START, block)
        picked = (draws * len(corpus.starts)).astype(np.intp)
        self.starts: list[int] = corpus.starts[picked].tolist()
        self.nonces = corpus.nonce_sizes(self.digits, follows=has_prefix)
        self.prompt_tokens: list[int] = (  # a length of 0: the prompts as they are
            (corpus.lengths[picked] + self.nonces).tolist()
            if workload.prompt_tokens == Distribution()
            else _lengths(workload.prompt_tokens, seed, Purpose.PROMPT_TOKENS, block)
        )
        self.output_tokens = _lengths(workload.output_tokens, seed, Purpose.OUTPUT_TOKENS, block)
        for index in range(BLOCK if replay is not None else 0):
            assert replay is not None
            number = block * BLOCK + index
            self.prompt_tokens[index] = replay.prompt_tokens(number) or self.prompt_tokens[index]
            self.output_tokens[index] = replay.output_tokens(number) or self.output_tokens[index]
        #: Of each prompt: what the words behind its nonce are long.
        self.rests = [
            length - nonce for length, nonce in zip(self.prompt_tokens, self.nonces, strict=True)
        ]
        if min(self.rests) < 0:
            self.prompt_tokens = list(map(max, self.prompt_tokens, self.nonces))
        self.faults: list[FaultPlan | None] | None = None
        if workload.faults:
            self.faults = plan_faults(
                workload.faults,
                *(
                    uniform_array(seed, purpose, block)
                    for purpose in (Purpose.FAULT, Purpose.FAULT_AFTER, Purpose.DEADLINE)
                ),
            )


def _lengths(distribution: Distribution, seed: int, purpose: Purpose, block: int) -> list[int]:
    return whole_quantiles(distribution, uniform_array(seed, purpose, block), 1)


class Traffic:
    """The requests of one workload.

    longest_tokens: what the engine takes at most; a request that must be refused as over-long
        has a prompt longer than that.
    within: the folder of the trial, whose study keeps the requests of a traffic file.

    Raises:
        SpecError, StoreError: prompts or a traffic file that cannot be read.
    """

    def __init__(
        self, workload: Workload, *, longest_tokens: int = 2048, within: Path | None = None
    ) -> None:
        check_faults(workload.faults)
        self._workload = workload
        self._turns = workload.turns
        self._longest = longest_tokens
        #: Counts with the workload's tokenizer; None: it has none, and words are counted.
        self.counter: TokenCounter | None = None
        if workload.tokenizer is not None:
            from kit.load.traffic.token_corpus import TokenCorpus, TokenCounter

            self.counter = TokenCounter(workload.tokenizer, within)
            self._corpus = load_corpus(
                workload.prompt_set, partial(TokenCorpus, counter=self.counter)
            )
        else:
            self._corpus = load_corpus(workload.prompt_set)
        self._blocks: dict[int, _Block] = {}
        self._replay = None if workload.trace is None else replay_of(workload, within)
        self._mix = int(uniforms(workload.seed, Purpose.NONCE, 0)[0] * 2**32)
        self._prefix, self._prefix_text = self._shared_prefix(workload.shared_prefix_tokens)
        self._plain = (
            not self._prefix
            and self._turns == 1
            and (self._replay is None or self._replay.is_plain)
        )
        self._load(0)  # not between the first requests

    def _shared_prefix(self, words: int) -> tuple[bytes, bytes]:
        prompt, text = self._corpus.run(0, words)
        return (prompt + b" ", text + b" ") if words > 0 else (b"", b"")

    def call(self, number: int, answered: bytes | None = None, before: Call | None = None) -> Call:
        """Request `number`. For its later turns a real engine's answer has to be handed in:

        before: the call of the turn before; answered: the text that answered it, without its
            prompt. Without them the answer of the simulated engine is taken.
        """
        block = self._blocks.get(number // BLOCK) or self._load(number // BLOCK)
        index = number % BLOCK
        digits = block.digits[index]
        prompt_tokens, rest = block.prompt_tokens[index], block.rests[index]
        fault = None
        if block.faults is not None:
            fault = block.faults[index]
            if fault is not None and fault.kind is FaultKind.OVER_LONG:
                prompt_tokens += self._longest
                rest += self._longest
        if self._plain:
            words, plain = self._corpus.run(block.starts[index], rest)
            prompt = b"".join((b"[n:", digits, b"] ", words)) if words else b"[n:%b]" % digits
            text = prompt if plain is words else b"[n:%b] %b" % (digits, plain)
            output_tokens = block.output_tokens[index]
            return Call(
                number, number, 0, digits, prompt, text, prompt_tokens, output_tokens, fault
            )
        conversation, turn = self.place(number)
        output_tokens = block.output_tokens[index]
        if self._replay is not None and (said := self._said(number, digits, rest, fault)):
            prompt, text, dialogue = said
            digits = digits_of(text)
            answer = self._replay.known_answer(number)
            if self.counter is not None and answer:
                output_tokens = self._replay.scaled(self.counter.count(answer))
        else:
            words, plain = self._corpus.run(
                block.starts[index], rest if turn == 0 else prompt_tokens
            )
            if turn and before is None:
                before = self.call(number - 1)
            prompt, text, dialogue = self._in_dialogue(digits, words, plain, answered, before)
            if self._prefix:
                digits = b"%08x" % crc32(text)
            elif before is not None:
                digits = before.digits
        return Call(
            number,
            conversation,
            turn,
            digits,
            prompt,
            text,
            self._corpus.size(text),
            output_tokens,
            fault,
            dialogue,
        )

    def first_calls(self, worker: int, processes: int, limit: int | None) -> Iterator[Call]:
        """The first call of each conversation of one worker's share, below number `limit`."""
        end = 2**62 if limit is None else limit
        if not self._plain or self._workload.faults:
            for number in self._first_numbers(worker, processes):
                if number >= end:
                    return
                yield self.call(number)
        step = processes * self._turns
        number = worker * self._turns
        while number < end:
            # The same as `call`, for the most common traffic, at half its cost.
            block = self._blocks.get(number // BLOCK) or self._load(number // BLOCK)
            share = slice(number % BLOCK, min(BLOCK, end - number // BLOCK * BLOCK), step)
            run = self._corpus.run
            for digits, start, prompt_tokens, rest, output_tokens in zip(
                block.digits[share],
                block.starts[share],
                block.prompt_tokens[share],
                block.rests[share],
                block.output_tokens[share],
                strict=True,
            ):
                words, plain = run(start, rest)
                prompt = b"".join((b"[n:", digits, b"] ", words)) if words else b"[n:%b]" % digits
                text = prompt if plain is words else b"[n:%b] %b" % (digits, plain)
                yield Call(number, number, 0, digits, prompt, text, prompt_tokens, output_tokens)
                number += step

    def _first_numbers(self, worker: int, processes: int) -> Iterator[int]:
        if self._replay is not None:
            return self._replay.first_numbers(worker, processes)
        return count(worker * self._turns, processes * self._turns)

    def place(self, number: int) -> tuple[int, int]:
        """(conversation, turn) of request `number`."""
        if self._replay is not None:
            return self._replay.place(number)
        return divmod(number, self._turns)

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`place` of many requests at once."""
        if self._replay is not None:
            return self._replay.places(numbers)
        return numbers // self._turns, numbers % self._turns

    def continues(self, number: int) -> bool:
        """Whether request `number` is a later turn of the conversation of the one before it."""
        return self.place(number)[1] > 0 if self._replay is not None else number % self._turns > 0

    def turn_due_ns(self, number: int, start_ns: int, answered_ns: int) -> int:
        """When a later turn is due: after the answer before it, as long as the file says, and
        not before the file's own time for it where these are kept."""
        if self._replay is None:
            return answered_ns
        due_ns = answered_ns + round(1e9 * self._replay.wait_s(number))
        own_s = self._replay.row(number).due_s
        if own_s is None or self._workload.arrivals.kind is not ArrivalKind.TRACE:
            return due_ns
        return max(due_ns, start_ns + round(1e9 * own_s / self._workload.arrivals.trace_speed))

    @property
    def has_turns(self) -> bool:
        """Some conversation has a second turn."""
        return self._turns > 1 or (self._replay is not None and self._replay.has_turns)

    def _said(
        self, number: int, digits: bytes, rest: int, fault: FaultPlan | None
    ) -> tuple[bytes, bytes, tuple[bytes, ...]] | None:
        """(prompt for JSON, prompt as it is, dialogue) that a traffic file gives; None: none."""
        assert self._replay is not None
        if dialogue := self._replay.dialogue(number):
            over = b""
            if fault is not None and fault.kind is FaultKind.OVER_LONG:
                over = b" " + self._corpus.run(0, self._longest)[0]
            parts = tuple(map(escaped, dialogue))
            parts = (*parts[:-1], parts[-1] + over)
            prompt = self._prefix + b"\\n".join(parts)
            return prompt, unescaped(prompt), (self._prefix + parts[0], *parts[1:])
        texts, length = self._replay.blocks(number, self._corpus, rest)
        if not texts:
            return None
        texts += [self._corpus.filler(rest - length)] if length < rest else []
        prompt = self._prefix + b" ".join([*texts, b"[n:%b]" % digits])
        return prompt, unescaped(prompt), (prompt,)

    def _in_dialogue(
        self,
        digits: bytes,
        words: bytes,
        plain: bytes,
        answered: bytes | None,
        before: Call | None,
    ) -> tuple[bytes, bytes, tuple[bytes, ...]]:
        """(prompt for JSON, prompt as it is, dialogue) of a turn, or of a prompt with a prefix."""
        if before is None:
            prompt = b"%b[n:%b] %b" % (self._prefix, digits, words)
            text = b"%b[n:%b] %b" % (self._prefix_text, digits, plain)
            if not words:
                prompt, text = prompt[:-1], text[:-1]
            return prompt, text, (prompt,)
        if answered is None:
            answered = answered_text = continuation(before.digits, before.output_tokens)
        else:
            answered_text = unescaped(answered)
        prompt = b"%b%b %b" % (before.prompt, answered, words)
        text = b"%b%b %b" % (before.text, answered_text, plain)
        return prompt, text, (*before.dialogue, answered, words)

    def _load(self, block: int) -> _Block:
        if len(self._blocks) >= _BLOCKS_KEPT:
            del self._blocks[next(iter(self._blocks))]
        made = self._blocks[block] = _Block(
            self._workload,
            self._corpus,
            block,
            self._mix,
            self._replay,
            has_prefix=bool(self._prefix)
            or (self._replay is not None and not self._replay.is_plain),
        )
        return made


def unescaped(prompt: bytes) -> bytes:
    """The UTF-8 text that stands in a JSON string as `prompt`."""
    return str(json.loads(b'"%b"' % prompt)).encode() if b"\\" in prompt else prompt


#: A prompt that begins so is continued with these digits, any other with its checksum.
_NONCE = re.compile(rb"\[n:([0-9a-fA-F]+)\](?:\s|$)")


def digits_of(text: bytes) -> bytes:
    """The digits that every token of the simulated engine's answer to a prompt carries."""
    nonce = _NONCE.match(text)
    return nonce.group(1) if nonce else b"%08x" % crc32(text)
