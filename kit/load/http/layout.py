"""Learns the byte layout of valid responses, to recognise later ones without parsing.

A server writes the same bytes around each text. A response (or an event) that equals one that was
parsed and found valid, byte for byte except for the text in its place, has the text that stands
there; it need not be parsed again. Whatever differs in any other byte is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import takewhile

import msgspec

from kit.load.http.dialect import NO_JSON
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import between_digits, continuation

_ANSWERS_KEPT = 1024
#: What a JSON string cannot hold as it is, or what could end it.
_SPECIAL = bytes(range(0x20)) + b'"\\'


class ResponseLayout:
    """What a worker has learned of its server's whole answers; shared by its connections."""

    def __init__(self) -> None:
        #: By the length of a whole HTTP answer: what stood before the text,
        self._befores: dict[int, bytes] = {}
        self._after = b""  # and after it: the same in all of them.
        #: Of each: usage_in and tokens_out of its call.
        self._usages: dict[int, tuple[int, int]] = {}
        #: By a number of tokens: what stands around their digits, the end of the answer included.
        self._around_digits: dict[int, tuple[bytes, ...]] = {}

    def is_answer(self, call: Call, answer: bytes) -> bool:
        """`answer` is a known one with the text that is right for `call`."""
        try:
            before = self._befores[len(answer)]
            around = self._around_digits[call.output_tokens]
        except KeyError:
            if len(answer) not in self._befores:
                return False
            before = self._befores[len(answer)]
            around = self._around(call.output_tokens)
        return answer == b"".join((before, call.prompt, call.digits.join(around)))

    def usage(self, answer: bytes) -> tuple[int, int]:
        """What the call of a known answer used: tokens in and out, or NEVER."""
        return self._usages[len(answer)]

    def _around(self, tokens: int) -> tuple[bytes, ...]:
        *inner, last = between_digits[tokens]
        around = (*inner, last + self._after)
        if len(self._around_digits) < _ANSWERS_KEPT:
            self._around_digits[tokens] = around
        return around

    def learn_answer(self, call: Call, answer: bytes) -> None:
        """Remember a right answer to `call`, from the first byte of its head to the last."""
        tokens = continuation(call.digits, call.output_tokens)
        before, found, after = answer.partition(call.prompt + tokens)
        if not found:
            return
        if after != self._after or len(self._befores) >= _ANSWERS_KEPT:
            self._befores.clear()
            self._usages.clear()
            self._around_digits.clear()
            self._after = after
        self._befores[len(answer)] = before
        self._usages[len(answer)] = call.usage_in, call.tokens_out


class EventLayout:
    """What the events of one stream look like around their texts.

    Every connection has its own: servers write an id into each event that is the same for one
    answer, and another for the next.
    """

    __slots__ = ("_after", "_before", "_between", "_find")

    def __init__(self) -> None:
        self._before = self._after = self._between = b""

    def texts(self, chunk: bytes) -> tuple[list[str], bytes] | None:
        """The texts of the known events that `chunk` begins with, and what follows them."""
        end = chunk.rfind(self._after) + len(self._after)
        found = self._cut_out(chunk[:end])
        texts = _read(found) if found else None
        return None if texts is None else (texts, chunk[end:])

    def texts_of_each(self, pieces: list[bytes]) -> list[str]:
        """The texts of the pieces that are one known event each, up to the first that is not."""
        before, after = self._before, self._after
        if not before or not pieces[0].startswith(before):
            return []
        texts = self._text_of_each(pieces)
        if texts is None:
            # An answer's last events say why it ends and what it used, as no other does.
            like = [*takewhile(lambda p: p.startswith(before) and p.endswith(after), pieces)]
            texts = self._text_of_each(like) if len(like) < len(pieces) else None
        return texts or []

    def _text_of_each(self, pieces: list[bytes]) -> list[str] | None:
        """The texts of the pieces, if each is one known event."""
        found = self._cut_out(b"".join(pieces))
        around = len(self._between)
        if found and [*map(len, pieces)] == [around + len(text) for text in found]:
            return _read(found)
        return None

    def _cut_out(self, events: bytes) -> list[bytes] | None:
        """The texts, as they stand there, if `events` are known ones and nothing else."""
        before = self._before
        if not before or not events.startswith(before):
            return None
        found = self._find(events[len(before) :] + before)
        # However these were found: if they give the same bytes, they are the texts.
        same = b"".join((before, self._between.join(found), self._after)) == events
        return found if same else None

    def learn(self, data: bytes, text: str) -> None:
        """Remember the data of an event, in which `text` was found, as servers write events."""
        said = text.encode()
        before, found, after = data.partition(b'"%b"' % said)
        if not found or found in after or b"\n" in data or said.translate(None, _SPECIAL) != said:
            return  # it cannot be told where the text stands
        self._before, self._after = b'data: %b"' % before, b'"%b\n\n' % after
        self._between = self._after + self._before
        self._find = _finder(len(self._between))


@lru_cache
def _finder(around: int) -> Callable[[bytes], list[bytes]]:
    """Cuts texts without a quote out of what has `around` bytes between them."""
    return re.compile(b'([^"]*).{%d}' % around, re.DOTALL).findall


def _read(found: list[bytes]) -> list[str] | None:
    """The texts that stand in JSON strings as these; None: it is no JSON."""
    said = b"\n".join(found)
    try:
        if len(said.translate(None, _SPECIAL)) == len(said) - len(found) + 1:
            return said.decode().split("\n")
        return [msgspec.json.decode(b'"%b"' % text, type=str) for text in found]
    except NO_JSON:
        return None
