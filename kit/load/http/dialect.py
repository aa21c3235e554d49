"""What differs between HTTP protocols: how a request is built, and an answer judged.

The exchange itself (kit.load.http.connection) knows only this interface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from kit.load.answers import Judgement, clipped
from kit.load.http.target import HttpTarget
from kit.load.traffic.call import Call
from kit.study.result import Outcome


class Dialect(Protocol):
    """One HTTP protocol of an LLM server."""

    #: The answer is an event stream.
    streams: bool
    #: The stream's last event is `[DONE]`.
    ends_with_done: bool
    #: The answer repeats the prompt.
    echoes: bool
    #: Answers may say in `usage` how many tokens they and their prompts have.
    has_usage: bool

    def request(self, call: Call) -> bytes:
        """The HTTP request, head and body, of a call without a fault."""

    def faulty_request(self, call: Call) -> bytes:
        """The HTTP request of a call with a fault."""

    def refuses_usage(self, call: Call, judgement: Judgement) -> bool:
        """Whether the server has refused `call` for the question of its usage alone, so that it is
        to be sent again without; asked of every call that did not end well."""

    def answered_again(self, judgement: Judgement) -> None:
        """How a call ended that was sent again."""

    def read_body(self, body: bytes) -> str | Judgement:
        """The text of a whole answer that came with status 200; a Judgement: it has none."""

    def read_event(self, data: bytes) -> str | Judgement | None:
        """The text of one event; None: it has none; a Judgement: the answer ends badly here."""


class WithoutUsage:
    """What a protocol without `usage` says of it."""

    has_usage = False

    def refuses_usage(self, call: Call, judgement: Judgement) -> bool:
        return False

    def answered_again(self, judgement: Judgement) -> None:
        """Never asked."""


#: What `read_event` gives for the event that ends a stream.
DONE = Judgement(Outcome.OK, "done")


_HEADS_KEPT = 65536


class RequestTemplate:
    """Request bytes with a place for the prompt, put together from parts that are kept.

    before, after: the body's text around the prompt; `after` depends on the tokens asked for.
    """

    def __init__(self, head: bytes, before: bytes, after: Callable[[int], bytes]) -> None:
        self._head = head
        self._before = before
        self._after = after
        self._heads: dict[int, bytes] = {}
        self._tails: dict[int, bytes] = {}

    def request(self, call: Call) -> bytes:
        """The request of a call without a fault."""
        prompt = call.prompt
        try:  # costs less than asking first, as long as they are there
            tail = self._tails[call.output_tokens]
            head = self._heads[len(prompt) + len(tail)]
        except KeyError:
            tail = self._tail_of(call.output_tokens)
            head = self._head_of(len(prompt) + len(tail))
        return b"".join((head, prompt, tail))

    def _tail_of(self, tokens: int) -> bytes:
        tail = self._tails[tokens] = self._after(tokens)
        return tail

    def _head_of(self, size: int) -> bytes:
        """The head of a request whose prompt and tail have so many bytes."""
        before = self._before
        head = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(before) + size, before)
        if len(self._heads) < _HEADS_KEPT:
            self._heads[size] = head
        return head

    def with_body(self, body: bytes) -> bytes:
        """A request with the same head and a body of its own."""
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)


JSON_HEADERS = {"Content-Type": "application/json"}


def json_head(target: HttpTarget, path: str) -> bytes:
    return target.head(path, JSON_HEADERS)


def malformed(cause: str, seen: bytes) -> Judgement:
    """An answer that does not follow its protocol."""
    return Judgement(Outcome.MALFORMED, cause, clipped(seen))


def server_error(text: str) -> Judgement:
    """An error that the server reports, whatever the status of the answer that carries it."""
    return Judgement(Outcome.HTTP_ERROR, clipped(" ".join(text.split())), None)


#: What msgspec raises for bytes that are not the JSON that was awaited; a server may nest deeper
#: than any parser follows.
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Message(msgspec.Struct):
    message: str


#: Where JSON had nothing.
NOTHING = msgspec.Raw(b"")


def error_text(raw: bytes | msgspec.Raw) -> str:
    """The text of an error that is a string, or an object with a message; "" if there is none."""
    text = bytes(raw)
    if text in (b"", b"null"):
        return ""
    try:
        read = msgspec.json.decode(text, type=str | _Message)
    except NO_JSON:
        return text.decode("utf-8", "backslashreplace")
    return read if isinstance(read, str) else read.message
