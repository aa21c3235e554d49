"""Finds which of many words stand in which lines: one fast pass a word over all lines at once.

Logs are long and telling words are rare, so asking every line for every word is what reading a
log would cost most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Lines:
    """Lines put together, to be searched as one text."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.text = "\n".join(lines)
        self.starts = [0, *accumulate(len(line) + 1 for line in lines)]


class Words(Generic[T]):
    """Words, and what each of them stands for; several may stand for the same.

    >>> Words([("ab", 1), ("c", 2)]).in_lines(Lines(["xabc", "", "c"]))
    {0: [1, 2], 2: [2]}
    """

    def __init__(self, meanings: Iterable[tuple[str, T]]) -> None:
        self._ranks: dict[str, list[int]] = {}
        order: dict[T, int] = {}
        for word, meaning in meanings:
            rank = order.setdefault(meaning, len(order))
            self._ranks.setdefault(word, []).append(rank)
        self._meanings = list(order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranks)

    def in_lines(self, lines: Lines) -> dict[int, list[T]]:
        """By the index of each line that has a word: what its words stand for, in their order."""
        text, starts = lines.text, lines.starts
        ranks: dict[int, set[int]] = {}
        for word, own in self._ranks.items():
            at = text.find(word)
            while at >= 0:
                line = bisect_right(starts, at) - 1
                ranks.setdefault(line, set()).update(own)
                at = text.find(word, starts[line + 1])
        return {line: [self._meanings[r] for r in sorted(ranks[line])] for line in sorted(ranks)}
