"""The requests of a traffic file: which conversation, when it is due, what is asked.

A workload with more requests than the file goes through it again, except at the file's own times.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from kit.load.traffic.prompts import Corpus
from kit.study.spec import Arrivals
from kit.study.traces.rows import TraceRow

#: Odd, so that blocks of one trace begin at words far from each other.
_BLOCK_STRIDE = 0x9E3779B1


class Replay:
    """The rows of a trace, with the times and lengths that the workload makes of them."""

    def __init__(self, rows: Sequence[TraceRow], arrivals: Arrivals) -> None:
        self._rows = rows
        self._speed = arrivals.trace_speed
        self._lengths = arrivals.trace_lengths
        self._starts = [
            index
            for index, row in enumerate(rows)
            if index == 0 or row.conversation != rows[index - 1].conversation
        ]
        #: True if every request is a conversation of its own and only its lengths are given.
        self.is_plain = len(self._starts) == len(rows) and not any(
            row.dialogue or row.blocks for row in rows
        )

    @property
    def has_turns(self) -> bool:
        """Some conversation has a second turn."""
        return len(self._starts) < len(self._rows)

    def row(self, number: int) -> TraceRow:
        """The row of request `number`."""
        return self._rows[number % len(self._rows)]

    def place(self, number: int) -> tuple[int, int]:
        """(conversation, turn) of request `number`."""
        rounds, index = divmod(number, len(self._rows))
        conversation = bisect_right(self._starts, index) - 1
        turn = index - self._starts[conversation]
        return rounds * len(self._starts) + conversation, turn

    def continues(self, number: int) -> bool:
        """Whether request `number` is a later turn of the conversation of the one before it."""
        index = number % len(self._rows)
        return index > 0 and self._rows[index].conversation == self._rows[index - 1].conversation

    def first_numbers(self, worker: int, processes: int) -> Iterator[int]:
        """The first request of each conversation of one worker's share."""
        for conversation in count(worker, processes):
            rounds, index = divmod(conversation, len(self._starts))
            yield rounds * len(self._rows) + self._starts[index]

    def due_s(self) -> list[float]:
        """When each conversation is due, seconds since the start."""
        return [(self._rows[index].due_s or 0.0) / self._speed for index in self._starts]

    def wait_s(self, number: int) -> float:
        """How long request `number` waits after the answer before it in its conversation."""
        return self.row(number).delay_s / self._speed

    def prompt_tokens(self, number: int) -> int | None:
        """Of the prompt, or of its new words where later turns quote answers; None: not given."""
        return self._scaled(self.row(number).prompt_tokens)

    def output_tokens(self, number: int) -> int | None:
        """To ask for; None: not given."""
        return self._scaled(self.row(number).output_tokens)

    def known_answer(self, number: int) -> str:
        """The answer that the file has, of which the length is asked for; "": it has none."""
        return self.row(number).answer

    def scaled(self, tokens: int) -> int:
        """A length as `trace_lengths` has it."""
        return max(1, round(tokens * self._lengths))

    def _scaled(self, tokens: int | None) -> int | None:
        return None if tokens is None else self.scaled(tokens)

    def dialogue(self, number: int) -> tuple[str, ...]:
        """What is said, user and assistant in turn; (): the file does not say."""
        said = self.row(number).dialogue
        return tuple(map(self._cut, said)) if self._lengths != 1.0 else said

    def _cut(self, text: str) -> str:
        """The first words of a text, or the text over and over, as `trace_lengths` asks."""
        words = text.split()
        wanted = round(len(words) * self._lengths)
        rounds = -(-wanted // len(words)) if words else 0
        return " ".join((words * rounds)[:wanted])

    def blocks(self, number: int, corpus: Corpus, most: int) -> tuple[list[bytes], int]:
        """The texts of the blocks that the prompt is made of, escaped for JSON, and their length:
        `most` at most."""
        row = self.row(number)
        size = self.scaled(row.block_tokens)
        texts: list[bytes] = []
        length = 0
        for block in row.blocks:
            left = min(size, most - length)
            if left <= 0:
                break
            start = block * _BLOCK_STRIDE % len(corpus.words)
            text, own = corpus.block(block, start, left)
            texts += [text] if own else []
            length += own
        return texts, length

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`place` of many requests at once."""
        rounds, index = np.divmod(numbers, len(self._rows))
        starts = np.array(self._starts)
        conversation = np.searchsorted(starts, index, side="right") - 1
        return rounds * len(starts) + conversation, index - starts[conversation]


def escaped(text: str) -> bytes:
    """The text as it stands between the quotes of a JSON string, in UTF-8."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
