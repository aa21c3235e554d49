"""Reads a file of prompts and gives any run of its words, escaped for JSON.

A prompt set is a UTF-8 text file with one prompt a line; `data/prompts/<name>.txt`, or a path.
Words are what lies between blanks; a word is taken for a token, unless the workload has a
tokenizer (kit.load.traffic.token_corpus).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kit.errors import SpecError
from kit.study.paths import DATA

PROMPTS = DATA / "prompts"
DEFAULT_SET = "plain"
#: Short runs are asked for again and again; so many are kept.
_RUNS_KEPT = 8192
_WORDS_OF_KEPT_RUN = 128


class Corpus:
    """Words in a fixed order, cut in runs that go round at the end.

    Runs come twice: escaped for JSON (`prompt`), and as they are (`text`); where no word needs
    escaping both are the same.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        words: list[str] = []
        starts, lengths = [], []
        for prompt in prompts:
            own = prompt.split()
            if own:
                starts.append(len(words))
                lengths.append(len(own))
                words += own
        #: Of each prompt: its first word's index, and how many words it has.
        self.starts, self.lengths = np.array(starts), np.array(lengths)
        self.words = [word.encode() for word in words]
        self._words = words
        self._runs: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._lay_out(2 * len(words))

    def _lay_out(self, length: int) -> None:
        """Write at least `length` words, going round, into one text that runs are cut from."""
        rounds = -(-length // len(self._words))
        words = self._words * rounds
        escaped = [json.dumps(word, ensure_ascii=False)[1:-1].encode() for word in words]
        plain = [word.encode() for word in words]
        self._length = len(words)
        self._prompt, self._prompt_starts = _joined(escaped)
        if escaped == plain:
            self._text, self._text_starts = self._prompt, self._prompt_starts
        else:
            self._text, self._text_starts = _joined(plain)

    def run(self, start: int, words: int) -> tuple[bytes, bytes]:
        """`words` words from word `start` on: (escaped for JSON, as they are)."""
        kept = self._runs.get((start, words))
        if kept is not None:
            return kept
        cut = self._cut(start, words)
        if len(self._runs) < _RUNS_KEPT and words < _WORDS_OF_KEPT_RUN:
            self._runs[start, words] = cut
        return cut

    def _cut(self, start: int, words: int) -> tuple[bytes, bytes]:
        if words <= 0:
            return b"", b""
        end = start + words
        if end > self._length:
            self._lay_out(2 * end)
        begins = self._prompt_starts
        prompt = self._prompt[begins[start] : begins[end] - 1]
        if self._text is self._prompt:
            return prompt, prompt
        begins = self._text_starts
        return prompt, self._text[begins[start] : begins[end] - 1]

    def size(self, text: bytes) -> int:
        """The length of a text: its words."""
        return len(text.split())

    def nonce_sizes(self, digits: Sequence[bytes], *, follows: bool) -> list[int]:
        """The length of each word `[n:<digits>]`; follows: behind other words."""
        return [1] * len(digits)

    def block(self, number: int, start: int, length: int) -> tuple[bytes, int]:
        """Words that depend on a block's number alone, escaped for JSON, and their length.

        No other block begins with their first.
        """
        rest, _ = self.run(start, length - 1)
        return (b"b%x: %b" % (number, rest) if rest else b"b%x:" % number), length

    def filler(self, length: int) -> bytes:
        """Words behind the blocks of a prompt that has more than they have."""
        return b" ".join(b"w%d" % at for at in range(length))


def _joined(words: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """The words with one blank between, and where each begins (one more, past the end)."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + 1
    starts.append(position)
    return b" ".join(words), starts


def load_corpus(prompt_set: str | None, make: Callable[[Sequence[str]], Corpus] = Corpus) -> Corpus:
    """The prompt set of that name or path; None is the plain one.

    make: makes it of the prompts.

    Raises:
        SpecError: no such file, not UTF-8, or no prompt in it.
    """
    path = PROMPTS / f"{prompt_set or DEFAULT_SET}.txt"
    if prompt_set and not path.exists():
        path = Path(prompt_set)
    try:
        corpus = make(path.read_text(encoding="utf-8").splitlines())
    except ZeroDivisionError:
        raise SpecError(
            f"the prompt set {path} without a prompt", "one prompt a line", "fill it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(found.stem for found in PROMPTS.glob("*.txt")))
        raise SpecError(
            f"the prompt set {prompt_set!r}, which cannot be read ({error})",
            f"one of {known}, or a UTF-8 text file with one prompt a line",
            "correct the name or the path",
        ) from error
    return corpus
