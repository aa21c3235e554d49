"""Prompts of a given number of tokens, by the workload's tokenizer file.

The whole prompt set is tokenized once. A run of its words has as many tokens as its words have
there, and what is left of the number asked for, less than a word, is filled up with words of one
token. So a prompt costs no tokenizing of its own, and its length is right wherever a word's tokens
do not depend on the words before it: with every tokenizer that cuts a text at blanks first.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain, repeat
from pathlib import Path

import numpy as np

from kit.load.traffic.prompts import Corpus
from kit.study.tokenizer_file import tokenizer_of


class TokenCounter:
    """Counts tokens with a tokenizer file; the special ones that a model adds are not counted."""

    def __init__(self, tokenizer: str, within: Path | None = None) -> None:
        # The library would start a thread on each core, which the server needs.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer = tokenizer_of(tokenizer, within)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text. Other threads run meanwhile."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(one) for one in found]

    def count(self, text: str) -> int:
        return self.counts([text])[0]

    def of_words(self, words: Sequence[str]) -> list[int]:
        """Tokens of each word where all of them stand in one text, behind another word: each token
        is of the word that it ends in."""
        # A blank is of the word behind it.
        ends = list(accumulate((len(word) + 1 for word in words), initial=1))
        found = [0] * (len(words) + 1)
        text = " ".join(("x", *words))
        for begin, end in self._tokenizer.encode(text, add_special_tokens=False).offsets:
            if end > begin:
                found[bisect_right(ends, end - 1)] += 1
        return found[1:]


class TokenCorpus(Corpus):
    """A prompt set of which runs are so many tokens long, and not words."""

    def __init__(self, prompts: Sequence[str], counter: TokenCounter) -> None:
        self.counter = counter
        self._counts: list[int] = []
        self._totals: list[int] = [0]
        super().__init__(prompts)
        ends = self.starts + self.lengths
        self.lengths = np.array(self._totals)[ends] - np.array(self._totals)[self.starts]
        self._size_of_head = lru_cache(maxsize=4096)(self._sized)

    def _lay_out(self, length: int) -> None:
        super()._lay_out(length)
        if not self._counts:
            self._counts = self.counter.of_words(self._words)
            short = (w for w, n in zip(self._words, self._counts, strict=True) if n == 1)
            self._filler = max(filter(str.isalpha, short), key=len, default="").encode()
        rounds = chain.from_iterable(repeat(self._counts, self._length // len(self._words)))
        self._totals = list(accumulate(rounds, initial=0))

    def _cut(self, start: int, length: int) -> tuple[bytes, bytes]:
        """`length` tokens from word `start` on: (escaped for JSON, as they are)."""
        if length <= 0:
            return b"", b""
        while self._totals[-1] - self._totals[start] < length:
            self._lay_out(2 * self._length)
        wanted = self._totals[start] + length
        end = bisect_right(self._totals, wanted) - 1
        left = wanted - self._totals[end]
        if left and not self._filler:  # the nearest word's end
            end += 2 * left > self._counts[end % len(self._counts)]
            left = 0
        prompt, text = super()._cut(start, end - start)
        if left:
            more = [self._filler] * left
            plain = text
            text = b" ".join([text, *more] if text else more)
            prompt = text if prompt is plain else b" ".join([prompt, *more] if prompt else more)
        return prompt, text

    def size(self, text: bytes) -> int:
        return self.counter.count(text.decode())

    def nonce_sizes(self, digits: Sequence[bytes], *, follows: bool) -> list[int]:
        if not follows:
            return self.counter.counts([f"[n:{one.decode()}]" for one in digits])
        alone = self.counter.count("x")
        return [n - alone for n in self.counter.counts([f"x [n:{one.decode()}]" for one in digits])]

    def block(self, number: int, start: int, length: int) -> tuple[bytes, int]:
        head = b"b%x:" % number
        size = self._size_of_head(head)
        if size > length:
            return b"", 0
        rest, _ = self.run(start, length - size)
        return (b"%b %b" % (head, rest) if rest else head), length

    def _sized(self, head: bytes) -> int:
        """Of a block's first word, after a blank."""
        return self.counter.count(f"x {head.decode()}") - self.counter.count("x")

    def filler(self, length: int) -> bytes:
        return self.run(0, length)[0]
