"""Answers that were read in full in, what later ones look like around their text out.

A server says the same around each text. What equals an answer (or an event) that was parsed and
understood, byte for byte but for the text in its place, says the text that stands there; it need
not be parsed again. Whatever looks different in any byte is.
"""

from __future__ import annotations

import re

from kit.load.call import Call
from kit.load.traffic import between_digits, continuation

_ANSWERS_KEPT = 1024
#: What a JSON string cannot hold as it is, or what could end it.
_SPECIAL = re.compile(r'[\x00-\x1f"\\]')


class Frames:
    """What a worker has learned of its server's answers; shared by all of its connections."""

    def __init__(self) -> None:
        #: By the length of a whole HTTP answer: what stood before and after the text.
        self._answers: dict[int, tuple[bytes, bytes]] = {}
        self._event: tuple[str, str, str] | None = None  # before, after, and between two texts

    def is_answer(self, call: Call, answer: bytes) -> bool:
        """`answer` is a known one with the text that is right for `call`."""
        frame = self._answers.get(len(answer))
        if frame is None:
            return False
        tokens = call.digits.join(between_digits[call.output_tokens])
        return answer == b"".join((frame[0], call.prompt, tokens, frame[1]))

    def learn_answer(self, call: Call, answer: bytes) -> None:
        """Remember a right answer to `call`, from the first byte of its head to the last."""
        tokens = continuation(call.digits, call.output_tokens)
        before, found, after = answer.partition(call.prompt + tokens)
        if found:
            if len(self._answers) >= _ANSWERS_KEPT:
                self._answers.clear()
            self._answers[len(answer)] = before, after

    def texts(self, chunk: bytes) -> tuple[list[str], bytes] | None:
        """The texts of the known events that `chunk` begins with, and what follows them."""
        if self._event is None:
            return None
        before, after, between = self._event
        try:
            said = chunk.decode()
        except UnicodeDecodeError:
            return None
        end = said.rfind(after)
        if end < 0 or not said.startswith(before):
            return None
        texts = said[len(before) : end].split(between)
        if _SPECIAL.search("".join(texts)):
            return None
        return texts, said[end + len(after) :].encode()

    def learn_event(self, data: bytes, text: str) -> None:
        """Remember the data of an event, in which `text` was found, as servers write events."""
        try:
            before, found, after = data.decode().partition(f'"{text}"')
        except UnicodeDecodeError:
            return
        if not found or f'"{text}"' in after or _SPECIAL.search(text) or "\n" in before + after:
            return  # it cannot be told where the text stands
        before, after = f'data: {before}"', f'"{after}\n\n'
        self._event = before, after, after + before
