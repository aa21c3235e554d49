"""What the client reads from an answer's bytes is what Python's own HTTP client reads from them."""

from __future__ import annotations

import http.client
import io
import re
from itertools import pairwise
from typing import NamedTuple

import pytest
from http_answers import VALID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.load.http.parser import HttpAnswer


class Read(NamedTuple):
    """What a client makes of the bytes of a connection that then ends."""

    status: int
    body: bytes


def by_reference(data: bytes) -> Read | None:
    """As http.client reads it; None: it takes it for broken or cut off."""

    # Empty lines before an answer are not forgiven by it, though RFC 9112 would have them skipped.
    data = re.sub(rb"(\A|\r\n\r\n)[\r\n]+(?=HTTP/)", rb"\1", data)

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(data)

    answer = http.client.HTTPResponse(Socket(), method="POST")  # type: ignore[arg-type]
    try:
        answer.begin()
        body = answer.read()
    except (http.client.HTTPException, ValueError, OSError):
        return None
    return Read(answer.status, body)


def by_kit(pieces: list[bytes]) -> Read | None:
    """As the load generator reads it; None: broken, cut off, or with more behind it."""
    status: list[int] = []
    body = b""
    answer = HttpAnswer(status.append)
    for piece in pieces:
        problem = answer.take(piece)
        body += b"".join(answer.pieces)
        answer.pieces.clear()
        if problem is not None:
            return None
    to_the_end = answer.headed and not answer.framed  # such a body ends with the connection
    if answer.overrun or not (answer.complete or to_the_end):
        return None
    return Read(status[-1], body)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("name", VALID)
def test_a_valid_answer_is_read_alike_wherever_it_is_cut(name: str) -> None:
    data = VALID[name]
    expected = by_reference(data)
    assert expected is not None
    for first in range(len(data)):
        for second in range(first, len(data), 5):
            assert by_kit(cut(data, [first, second])) == expected, (first, second)
    assert by_kit([data[i : i + 1] for i in range(len(data))]) == expected


@pytest.mark.parametrize("name", VALID)
def test_an_answer_that_is_cut_short_is_whole_where_the_reference_says_so(name: str) -> None:
    data = VALID[name]
    body_at = data.index(b"\r\n\r\n", data.rindex(b"HTTP/")) + 4
    # The reference forgives a missing end of the head and of the last chunk, which is empty.
    forgiven_at = data.rfind(b"\r\n0\r\n") + 3 if b"chunked" in data else len(data)
    for size in range(len(data)):
        read = by_kit([data[:size]]) if size else None
        if read is not None or body_at <= size < forgiven_at:
            assert read == by_reference(data[:size]), size


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from(sorted(VALID)),
    st.integers(0, 400),
    st.one_of(
        st.binary(max_size=4), st.sampled_from([b"\r\n", b"\n", b"0", b" ", b":", b";", b"-"])
    ),
    st.integers(0, 6),
    st.lists(st.integers(0, 400), max_size=6),
)
@example("length", 60, b"9", 0, [])
def test_of_a_damaged_answer_nothing_is_read_that_the_reference_does_not_read(
    name: str, at: int, damage: bytes, removed: int, places: list[int]
) -> None:
    good = VALID[name]
    at %= len(good) + 1
    bad = good[:at] + damage + good[at + removed :]
    whole, pieces = by_kit([bad]) if bad else None, by_kit(cut(bad, places))
    assert pieces == whole, "how it is cut makes no difference"
    if whole is not None:
        assert whole == by_reference(bad)
