"""Event streams: however the bytes are cut, the same events come out as a plain reading gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.load.http.sse import SseParser


def plain_reading(stream: bytes) -> list[bytes]:
    """The events of a whole stream, read line by line as the HTML standard says it."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines, line = [], b""
    for at in range(len(stream)):
        byte = stream[at : at + 1]
        if byte == b"\n" and at and stream[at - 1 : at] == b"\r":
            continue
        if byte in (b"\r", b"\n"):
            lines.append(line)
            line = b""
        else:
            line += byte
    events, data = [], None
    for line in lines:  # the rest, without an end of line, is dropped
        if line == b"":
            if data is not None:
                events.append(data)
            data = None
        elif line.startswith(b"data:"):
            value = line[5:]
            value = value[1:] if value[:1] == b" " else value
            data = value if data is None else data + b"\n" + value
        elif line == b"data":
            data = b"" if data is None else data + b"\n"
    return events


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(edges)]


def fed(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
texts = st.text(max_size=12).map(lambda text: text.encode()) | st.binary(max_size=12)
lines = st.one_of(
    texts.map(lambda text: b"data: " + text),
    texts.map(lambda text: b"data:" + text),
    texts.map(lambda text: b": " + text),
    st.sampled_from([b"", b"", b"data", b"event: x", b"id: 1", b"retry: 5", b"nonsense", b":"]),
    texts,
)
streams = st.builds(
    lambda bom, given: bom + b"".join(line + end for line, end in given),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef"]),
    st.lists(st.tuples(lines, ends), max_size=20),
)
usual = st.lists(st.text(max_size=8), max_size=12).map(
    lambda words: b"".join(b"data: " + repr(word).encode() + b"\n\n" for word in words)
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(streams | usual, st.lists(st.integers(0, 400), max_size=12))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example(b"data: a\n\ndata: b\ndata: c\n\n", [])
@example(b"data: a\n\n: note\n\ndata: b\n\n", [3])
def test_the_events_do_not_depend_on_how_the_bytes_come(stream: bytes, places: list[int]) -> None:
    assert fed(cut(stream, places)) == plain_reading(stream)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(streams)
def test_one_byte_at_a_time_gives_the_same_events(stream: bytes) -> None:
    assert fed([stream[i : i + 1] for i in range(len(stream))]) == plain_reading(stream)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(usual, st.integers(0, 300), st.binary(min_size=1, max_size=3), st.integers(0, 300))
def test_a_damaged_stream_is_read_as_a_plain_reading_does(
    stream: bytes, at: int, damage: bytes, place: int
) -> None:
    at %= len(stream) + 1
    damaged = stream[:at] + damage + stream[at + 1 :]
    assert fed(cut(damaged, [place])) == plain_reading(damaged)


def test_an_unfinished_event_is_seen_and_dropped() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n\ndata: b\n") == [b"a"]
    assert parser.unfinished
    assert parser.rest == b"b\n"


def test_an_event_without_end_is_not_kept() -> None:
    parser = SseParser(largest_bytes=1000)
    for _ in range(500):
        assert parser.feed(b"data: " + 10 * b"x") == []
    assert parser.too_long
    assert parser.feed(b"\n\ndata: a\n\n") == []
