"""One request of a traffic file, and what all readers of such files have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kit.errors import SpecError

#: Tokens of one block of a Mooncake trace: requests whose first ids are alike share so many.
MOONCAKE_BLOCK_TOKENS = 512


#: Of a prompt or an answer: what the records of requests can hold.
MOST_TOKENS = 2**31 - 1
#: Of a block's id.
MOST_ID = 2**63 - 1


class TraceRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One request. What a file does not give is None, and is then as the workload says."""

    due_s: float | None = None  # since the first request of the file
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    #: The prompt as it is: user and assistant in turn, the user's words last; (): no text.
    dialogue: tuple[str, ...] = ()
    #: The answer that the file has, of which `output_tokens` is the length in words; "": none.
    answer: str = ""
    #: Requests whose first ids are alike begin with the same `block_tokens` tokens for each.
    blocks: tuple[int, ...] = ()
    block_tokens: int = MOONCAKE_BLOCK_TOKENS
    conversation: int = 0  # rows of one conversation follow each other
    delay_s: float = 0.0  # after the answer to the row before it in its conversation


class Place:
    """Where in a file something stands; makes the error for what is wrong there."""

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        self._where = where

    def at(self, more: str) -> Place:
        """A part of this place."""
        return Place(self._path, f"{self._where}{more}")

    def wrong(self, field: str, value: Any, expected: str) -> SpecError:
        """The error for a field with a value that cannot be used."""
        try:
            shown = repr(value)
        except ValueError:  # Python prints no number of more than some thousand digits
            shown = "a number of thousands of digits"
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return SpecError(
            f"the traffic file {self._path}, {self._where}: {field} = {shown}",
            expected,
            "correct that entry of the file",
        )

    def missing(self, field: str, expected: str) -> SpecError:
        """The error for a field that is not there."""
        return SpecError(
            f"the traffic file {self._path}, {self._where}, without {field}",
            expected,
            "correct that entry of the file",
        )

    def number(self, field: str, value: Any) -> float:
        """A finite number.

        Raises:
            SpecError: it is none.
        """
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise self.wrong(field, value, "a number")
        return number

    def count(self, field: str, value: Any, most: int = MOST_TOKENS) -> int:
        """A whole number from 0 to `most` ("12", 12 and 12.0 are one).

        Raises:
            SpecError: it is none.
        """
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = value if whole else self.number(field, value)
        if not 0 <= number <= most or number != int(number):
            raise self.wrong(field, value, f"a whole number from 0 to {most:,}")
        return int(number)

    def text(self, field: str, value: Any) -> str:
        """A text that UTF-8 can hold.

        Raises:
            SpecError: it is no text.
        """
        if not isinstance(value, str):
            raise self.wrong(field, value, "text")
        return value.encode("utf-8", "replace").decode()


def words_of(texts: Sequence[str]) -> int:
    """The length of a text as the kit counts it: a word is a token."""
    return max(1, sum(len(text.split()) for text in texts))


def merged(said: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """(role, text) as user and assistant in turn; what is not the assistant's is the user's.

    So a system's words stand before the first user's, in the same message.

    >>> merged([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")])
    ('Be brief.\\nHi', 'Hello')
    """
    parts: list[str] = []
    for role, text in said:
        speaks_last = len(parts) % 2 == 0 if role == "assistant" else len(parts) % 2 == 1
        if parts and speaks_last:
            parts[-1] = f"{parts[-1]}\n{text}"
        else:
            parts += ([""] if role == "assistant" and not parts else []) + [text]
    return tuple(parts)


def in_order(rows: Sequence[TraceRow]) -> list[TraceRow]:
    """Conversations in the order of time, the turns of each together, the first one at 0 s."""
    first: dict[int, float] = {}
    for row in rows:
        first.setdefault(row.conversation, -math.inf if row.due_s is None else row.due_s)
    numbers = {c: n for n, c in enumerate(sorted(first, key=first.__getitem__))}
    begin = min((row.due_s for row in rows if row.due_s is not None), default=0.0)
    ordered = sorted(rows, key=lambda row: numbers[row.conversation])
    return [
        msgspec.structs.replace(
            row,
            due_s=None if row.due_s is None else row.due_s - begin,
            conversation=numbers[row.conversation],
        )
        for row in ordered
    ]
