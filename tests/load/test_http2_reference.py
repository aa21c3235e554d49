"""The gRPC client's HTTP/2 reads from a server's bytes what the library h2 reads from them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from effort import many
from http2_frames import HEAD, SETTINGS, Server, data_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.load.grpc import frames
from kit.load.grpc.http2 import Http2
from kit.load.grpc.http2_events import Broken, Data, GoneAway, Head, Reset
from kit.load.grpc.sending import STREAM_WINDOW_BYTES

STREAMS = 3
NAMES = st.sampled_from(["grpc-status", "grpc-message", "x-a", "x-b", "content-type"])
FIELDS = st.lists(st.tuples(NAMES, st.text("abc0%/ é", max_size=12)), max_size=5)
STREAM = st.sampled_from([1, 3, 5, 5, 3, 1, 7, 2, 0])


def by_reference(data: bytes) -> list[Any] | None:
    """What h2 reads; None: an error of the connection."""
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_inbound_headers=False,
        normalize_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.local_settings.update({4: STREAM_WINDOW_BYTES, 2: 0})
    connection.initiate_connection()
    request = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
    for number in range(STREAMS):
        connection.send_headers(2 * number + 1, request, end_stream=True)
    # h2 takes its own settings for made only when the server has acknowledged them.
    acknowledged = frames.frame(frames.SETTINGS, frames.ACK, 0, b"")
    try:
        connection.receive_data(SETTINGS + acknowledged)
        events = connection.receive_data(data)
    except (h2.exceptions.ProtocolError, ValueError):
        return None
    found: list[Any] = []
    for event in events:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                fields = tuple((bytes(n), bytes(v)) for n, v in event.headers)
                found.append((event.stream_id, fields, event.stream_ended is not None))
            case h2.events.DataReceived():
                found.append((event.stream_id, event.data, event.stream_ended is not None))
            case h2.events.StreamReset(remote_reset=True):
                found.append((event.stream_id, int(event.error_code)))
            case h2.events.ConnectionTerminated():
                found.append(("goaway", int(event.error_code)))
    return found


def by_kit(pieces: list[bytes]) -> list[Any] | None:
    """What the kit reads; None: an error of the connection."""
    http2 = Http2(HEAD)
    http2.feed(SETTINGS)
    for number in range(STREAMS):
        http2.open(b"")
        http2.send(2 * number + 1, b"", end=True)
    found: list[Any] = []
    for piece in pieces:
        for event in http2.feed(piece):
            match event:
                case Broken():
                    return None
                case Head(stream, fields, ended):
                    found.append((stream, fields, ended))
                case Data(stream, data, ended):
                    found.append((stream, data, ended))
                case Reset(stream, code):
                    found.append((stream, code))
                case GoneAway(_, code, _):
                    found.append(("goaway", code))
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def conversation(draw: st.DrawFn) -> bytes:
    """Whole answers on three streams, in any order, with what else a server may send between."""
    server, left = Server(), {1: 0, 3: 0, 5: 0}
    wire = b""
    for _ in range(draw(st.integers(0, 14))):
        stream = draw(st.sampled_from(sorted(left))) if left else 0
        what = draw(st.integers(0, 6))
        if stream and left[stream] == 0:
            fields = [(":status", "200"), *draw(FIELDS)]
            wire += server.head(stream, fields)
            left[stream] = 1
        elif stream and what < 3:
            wire += data_frame(stream, draw(st.binary(max_size=40)))
        elif stream and what == 3:
            wire += server.trailers(stream, draw(FIELDS))
            del left[stream]
        elif what == 4:
            wire += frames.frame(frames.PING, 0, 0, bytes(8))
        elif what == 5:
            wire += frames.window_update(0, draw(st.integers(1, 1000)))
        elif stream:
            wire += frames.rst_stream(stream, draw(st.integers(0, 13)))
            del left[stream]
    return wire


@pytest.mark.slow
@settings(deadline=None, max_examples=many(60, 20_000))
@given(st.data(), st.lists(st.integers(0, 2000), max_size=6))
def test_a_valid_conversation_is_read_alike_wherever_it_is_cut(
    data: st.DataObject, places: list[int]
) -> None:
    wire = conversation(data.draw)
    expected = by_reference(wire)
    assert expected is not None
    assert by_kit([wire]) == expected
    assert by_kit(cut(wire, places)) == expected


@pytest.mark.slow
@settings(deadline=None, max_examples=many(150, 60_000))
@given(
    st.data(),
    st.integers(0, 2000),
    st.one_of(st.binary(max_size=4), st.sampled_from([b"\0\0\0\4\0\0\0\0\0", b"\xff", b"\0"])),
    st.integers(0, 6),
    st.lists(st.integers(0, 2000), max_size=6),
)
def test_damaged_bytes_make_the_same_events_wherever_they_are_cut_and_no_exception(
    data: st.DataObject, at: int, damage: bytes, removed: int, places: list[int]
) -> None:
    good = conversation(data.draw)
    at %= len(good) + 1
    bad = good[:at] + damage + good[at + removed :]
    whole, pieces = by_kit([bad]), by_kit(cut(bad, places))
    assert pieces == whole, "how it is cut makes no difference"
    expected = by_reference(bad)
    if whole is not None and expected is not None:
        # h2 is stricter about what belongs to streams that are over: it may say less of them.
        assert [e for e in expected if e in whole] == expected


@settings(deadline=None, max_examples=many(60, 20_000))
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_noise_is_events_and_never_an_exception(noise: bytes, places: list[int]) -> None:
    assert by_kit(cut(noise, places)) == by_kit([noise])
    http2 = Http2(HEAD)
    http2.feed(noise)


@settings(deadline=None, max_examples=many(60, 20_000))
@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 255), STREAM, st.binary(max_size=30)),
        max_size=8,
    )
)
def test_frames_of_any_kind_are_events_or_a_named_error(
    drawn: list[tuple[int, int, int, bytes]],
) -> None:
    wire = b"".join(frames.frame(*one) for one in drawn)
    http2 = Http2(HEAD)
    http2.feed(SETTINGS)
    for _ in range(STREAMS):
        http2.open(b"")
    events = http2.feed(wire)
    broken = [event for event in events if isinstance(event, Broken)]
    assert broken == events[len(events) - len(broken) :]
    assert all(event.cause for event in broken)
