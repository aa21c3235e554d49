"""What a gRPC status says of a request.

Sources: gRPC's doc/statuscodes.md (codes) and doc/PROTOCOL-HTTP2.md (`grpc-message` is
percent-encoded UTF-8; the codes that HTTP/2's errors stand for).
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from kit.load.answers import Judgement, clipped
from kit.load.grpc.frames import Code, code_name
from kit.study.result import Outcome


class GrpcStatus(IntEnum):
    """The codes that gRPC defines."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_RESET: Final = {
    Code.REFUSED_STREAM: GrpcStatus.UNAVAILABLE,
    Code.CANCEL: GrpcStatus.CANCELLED,
    Code.ENHANCE_YOUR_CALM: GrpcStatus.RESOURCE_EXHAUSTED,
    Code.INADEQUATE_SECURITY: GrpcStatus.PERMISSION_DENIED,
}
#: UNAVAILABLE is what a server says that goes down: the call was cut off.
_OUTCOMES: Final[dict[int, Outcome]] = {
    GrpcStatus.DEADLINE_EXCEEDED: Outcome.TIMEOUT,
    GrpcStatus.UNAVAILABLE: Outcome.RESET,
}
_DIGITS = re.compile(rb"[0-9]{1,9}")


def message_of(value: bytes) -> str:
    """The text of a `grpc-message`, on one line.

    >>> message_of(b"not%20found:%0A%C3%A9 %zz")
    'not found: é %zz'
    """
    text = unquote_to_bytes(value).decode("utf-8", "backslashreplace")
    return " ".join(text.split())


def code_of(value: bytes) -> int | None:
    """The number of a `grpc-status`; None: it is none."""
    return int(value) if _DIGITS.fullmatch(value) else None


def name_of(code: int) -> str:
    """The name of a status code.

    >>> name_of(4), name_of(77)
    ('DEADLINE_EXCEEDED', 'status 77')
    """
    try:
        return GrpcStatus(code).name
    except ValueError:
        return f"status {code}"


def judge_status(code: int, text: str) -> Judgement | None:
    """What a server's status says of the request; None: it went well, as far as gRPC knows.

    >>> judge_status(12, "no streams").cause
    'UNIMPLEMENTED: no streams'
    """
    if code == GrpcStatus.OK:
        return None
    outcome = _OUTCOMES.get(code, Outcome.HTTP_ERROR)
    return Judgement(outcome, clipped(f"{name_of(code)}: {text}"))


def judge_reset(code: int) -> tuple[int, Judgement]:
    """The status that a server's RST_STREAM stands for, and what it says of the request."""
    known = code in set(Code)
    status = _OF_RESET.get(Code(code), GrpcStatus.INTERNAL) if known else GrpcStatus.UNKNOWN
    cause = f"{status.name}: the server reset the stream ({code_name(code)})"
    return status, Judgement(Outcome.RESET, cause)
