"""Reads the body of an answer as it comes: stamps its tokens, collects its text, judges it.

What is kept is bounded by what was asked for: a server that sends without end, or a hundred
megabytes for ten tokens, costs this process neither its memory nor its time.
"""

from __future__ import annotations

import re

import msgspec

from kit.load.answers import (
    OK,
    Judgement,
    clipped,
    judge_text,
    kept_bytes,
    most_events,
    refused_or_not,
    too_much,
    whole_text,
)
from kit.load.http.dialect import DONE, NO_JSON, NOTHING, Dialect, error_text, malformed
from kit.load.http.layout import EventLayout
from kit.load.http.sse import SseParser
from kit.load.token_counts import usage_of, words_of_answer
from kit.load.traffic.call import NEVER, Call
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck

_ERROR_BYTES = 8192
_EVENTS_LIMITS = 16
_USAGE, _NO_USAGE = b'"usage"', b'"usage":null'
#: How many events of an answer are looked at for what the others will be like.
_LESSONS = 4


class AnswerBody:
    """Collects one answer at a time; used again for the next. `text` is what a good one says."""

    def __init__(self, dialect: Dialect, check: AnswerCheck) -> None:
        self._dialect = dialect
        self._check = check
        self._layout = EventLayout()
        self._sse = SseParser()
        self._parts: list[bytes] = []
        self._pieces: list[str] = []
        self._usage: bytes | None = None  # the last event, or the body, that has some

    def begin(self, call: Call, status: int) -> None:
        """An answer with this status begins."""
        self._call = call
        self._status = status
        self._streams = self._dialect.streams and status == 200
        self._limit = kept_bytes(call)
        self._most_events = most_events(call)
        self._size = 0
        self._events = 0
        self._lessons = _LESSONS
        self._done = False
        self._failure: Judgement | None = None
        self._usage = None
        self.text: str | None = None
        self._parts.clear()
        self._pieces.clear()
        self._sse.reset(self._limit)

    def feed(self, data: bytes, now_ns: int) -> Judgement | None:
        """Take the next bytes; a judgement means that no more are wanted."""
        self._size += len(data)
        if self._streams:
            return self._feed_stream(data, now_ns)
        call = self._call
        if call.first_ns == NEVER:
            call.first_ns = now_ns
        if self._status != 200:
            if self._size - len(data) < _ERROR_BYTES:
                self._parts.append(data[:_ERROR_BYTES])
            return None
        if self._size > self._limit:
            return too_much(call, b"".join(self._parts)[:_ERROR_BYTES] or data)
        self._parts.append(data)
        return None

    def feed_each(self, pieces: list[bytes], times_ns: list[int]) -> int:
        """Take those of the pieces that are one known event each, up to the first that is not,
        all at once; how many that were."""
        if self._failure is not None or self._sse.unfinished:
            return 0
        texts = self._layout.texts_of_each(pieces)
        count = len(texts)
        size, events = self._size + sum(map(len, pieces[:count])), self._events + count
        too_many = events > self._most_events or size > _EVENTS_LIMITS * self._limit
        if count == 0 or too_many or not all(texts):
            return 0
        self._lessons = 0
        self._sse.skipped()
        self._size, self._events = size, events
        self._pieces += texts
        call = self._call
        if call.first_ns == NEVER:
            call.first_ns = times_ns[0]
        call.stamp_each(times_ns[:count])
        return count

    def _feed_stream(self, data: bytes, now_ns: int) -> Judgement | None:
        call, pieces = self._call, self._pieces
        seen = len(pieces)
        data = self._read_known(data)
        # One by one, until the rest is known.
        for _ in range(self._lessons):
            end = data.find(b"\n\n") + 2
            if self._lessons == 0 or end < 2:
                break
            self._read_events(self._sse.feed(data[:end]))
            data = self._read_known(data[end:])
        if data:
            self._read_events(self._sse.feed(data))
        fresh = len(pieces) - seen
        if fresh:
            if call.first_ns == NEVER:
                call.first_ns = now_ns
            call.stamp(now_ns, fresh)
        # Texts may repeat all that came before, so a stream may be that much longer.
        too_large = self._size > _EVENTS_LIMITS * self._limit
        if self._sse.too_long and self._failure is None:
            return malformed(
                f"an event or a line of more than {self._limit} bytes", self._sse.beginning
            )
        if self._events > self._most_events or too_large or self._sse.too_long:
            return self._failure or too_much(call, "".join(pieces[:8]).encode())
        return None

    def _read_known(self, data: bytes) -> bytes:
        """Read the known events that `data` begins with; what follows them."""
        if self._failure is not None or self._sse.unfinished:
            return data
        known = self._layout.texts(data)
        if known is None:
            return data
        texts, rest = known
        self._lessons = 0
        self._sse.skipped()
        self._events += len(texts)
        self._pieces += texts if all(texts) else filter(None, texts)
        return rest

    def _read_events(self, events: list[bytes]) -> None:
        self._events += len(events)
        if self._failure is not None:
            return
        has_usage = self._dialect.has_usage
        for event in events:
            if has_usage and _USAGE in event and _NO_USAGE not in event:
                self._usage = event  # read once, when the answer is whole
            piece = self._dialect.read_event(event)
            if isinstance(piece, str):
                if piece:
                    self._pieces.append(piece)
                    if self._lessons:
                        self._layout.learn(event, piece)
            elif piece is DONE:
                self._done = True
            elif piece is not None:
                self._failure = piece
                break
            self._lessons = max(0, self._lessons - 1)

    def finish(self) -> Judgement:
        """The answer is whole as far as HTTP can tell."""
        call = self._call
        read = self._read(call)
        if isinstance(read, str):
            self.text = read
            read = judge_text(call, read, self._check, echoes=self._dialect.echoes)
            if read is OK:
                self._count(call)
        return refused_or_not(call, read)

    def _count(self, call: Call) -> None:
        """Note what is known of the tokens of a good answer."""
        assert self.text is not None
        usage = usage_of(call, self._usage)
        if usage is not None:
            call.usage_in, call.tokens_out = usage
        elif self._check is not AnswerCheck.EXACT:
            call.answer = self.text
            call.tokens_out = words_of_answer(call, self.text)

    def _read(self, call: Call) -> str | Judgement:
        """The answer's text, or what is wrong with it."""
        if self._status != 200:
            return _refusal(self._status, b"".join(self._parts))
        if not self._streams:
            body = b"".join(self._parts)
            if self._dialect.has_usage and _USAGE in body:
                self._usage = body
            return self._dialect.read_body(body)
        if self._failure is not None:
            return self._failure
        if self._sse.unfinished:
            return malformed("the stream ends inside an event", self._sse.rest)
        if self._dialect.ends_with_done and not self._done:
            return malformed("the stream ends without [DONE]", "".join(self._pieces).encode())
        if not self._pieces:
            return malformed("a stream without a token", b"")
        return whole_text(call, self._pieces, self._check, echoes=self._dialect.echoes)


class _Refusal(msgspec.Struct):
    error: msgspec.Raw = NOTHING
    message: msgspec.Raw = NOTHING


def _refusal(status: int, body: bytes) -> Judgement:
    """An answer with another status than 200, with the reason that it gives."""
    text = re.sub(rb"^data: ?", b"", body).strip()
    reason = clipped(text) or ""
    try:
        read = msgspec.json.decode(text, type=_Refusal)
    except NO_JSON:
        pass  # no JSON object: the text as it is
    else:
        reason = error_text(read.error) or error_text(read.message) or reason
    line = " ".join(reason.split())
    return Judgement(
        Outcome.HTTP_ERROR, clipped(f"HTTP {status}: {line}" if line else f"HTTP {status}"), None
    )
