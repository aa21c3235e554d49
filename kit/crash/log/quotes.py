"""Keeps out what a log only quotes: a user's request may hold a whole crash, which is not this one.

A request that is logged over several lines is quoted to its closing mark. Where none follows
soon, the mark that opened it was no quotation, and what stands behind it is read.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

#: What a user sent or was answered, as servers log it.
_QUOTES = re.compile(
    r"\bReceived request\b.{0,400}?\bprompt"
    r"|\b(?:prompt|text_input|generated_text|user_input|question|completion)s?[\"']?"
    r"\s?[:=]\s?[rbu]?[\"'\[{]"
    r"|[\"'](?:content|text|input|inputs|query)[\"']\s?:\s?\\?[\"'\[]"
)
_NEEDLES = ("prompt", "content", "text", "input", "question", "completion", "query")
_OPENED = re.compile(
    r"(?:prompt|content|text|input|inputs|question|completion|query|text_input|generated_text"
    r"|user_input)s?[\"']?\s?[:=]\s?[rbu]?([\"'])"
)
#: Behind a backslash, or an odd number of them, a quotation mark is a part of the text.
_UNESCAPED = r"(?<!\\)(?:\\\\)*+"
_MARKS = {mark: re.compile(_UNESCAPED + mark) for mark in "\"'"}
_CLOSED = re.compile(
    _UNESCAPED
    + r"([\"'])(?:, (?:sampling_)?params\b|, prompt_token_ids|, lora_request|\s?[}\]]|, \"|,?\s*$)"
)
#: So many lines of a request are waited for; a crash behind an open quotation mark is read then.
LONGEST_REQUEST = 400


def quotes_a_request(line: str) -> bool:
    """Whether a log line repeats what a user sent."""
    for word in _NEEDLES:
        if word in line:
            return _QUOTES.search(line) is not None
    return False


class Quotations:
    """Takes numbered lines, gives back those that are not part of a quotation."""

    def __init__(self) -> None:
        self._mark: str | None = None
        self._held: deque[tuple[int, str]] = deque()

    @property
    def is_open(self) -> bool:
        """A quotation was opened and is not closed."""
        return self._mark is not None

    def feed(self, number: int, line: str) -> Iterator[tuple[int, str]]:
        """The lines that are known to be the log's own now, in their order."""
        if self._mark is not None:
            self._held.append((number, line))
            if any(found[1] == self._mark for found in _CLOSED.finditer(line)):
                self._mark = None
                self._held.clear()
            elif len(self._held) >= LONGEST_REQUEST:
                yield from self.close()
            return
        if not quotes_a_request(line):
            yield number, line
            return
        opened = _OPENED.search(line)
        if opened and not _MARKS[opened[1]].search(line, opened.end()):
            self._mark = opened[1]
            self._held.append((number, ""))
        yield number, ""

    def close(self) -> Iterator[tuple[int, str]]:
        """The log is at its end, or the quotation too long: what was held back is read."""
        held, self._mark = list(self._held)[1:], None
        self._held.clear()
        yield from held

    def end_of_record(self) -> None:
        """A quotation that one record began ends with it."""
        self._mark = None
        self._held.clear()
