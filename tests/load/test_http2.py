"""The gRPC client's HTTP/2: windows and settings are kept, whatever a server sends is an event."""

from __future__ import annotations

import pytest
from http2_frames import GOOD_HEAD, HEAD, SETTINGS, Server, data_frame, sent_frames

from kit.load.grpc import frames
from kit.load.grpc.frames import Code, Setting
from kit.load.grpc.header_block import MOST_CONTINUATIONS
from kit.load.grpc.headers import HEADER_LIST_BYTES, RequestBlocks, RequestHead, ResponseFields
from kit.load.grpc.http2 import MOST_IDLE_FRAMES, Http2
from kit.load.grpc.http2_events import Broken, Data, Event, GoneAway, Head, Ready, Reset, Sent
from kit.load.grpc.sending import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES


def ready(*settings: tuple[int, int], streams: int = 1) -> Http2:
    """A connection on which so many streams are open, with nothing left to send."""
    http2 = Http2(HEAD)
    assert http2.feed(frames.settings(settings)) == [Ready()]
    for _ in range(streams):
        http2.open(b"")
    http2.out.clear()
    return http2


def broken(events: list[Event]) -> Broken:
    assert isinstance(events[-1], Broken), events
    return events[-1]


def test_a_connection_begins_with_the_preface_and_its_limits() -> None:
    http2 = Http2(HEAD)
    assert http2.out.startswith(frames.PREFACE)
    (kind, _, _, values), (_, _, _, window) = sent_frames(bytes(http2.out))
    assert kind == frames.SETTINGS
    limits = dict(frames.settings_of(values))
    assert limits[Setting.ENABLE_PUSH] == 0
    assert limits[Setting.INITIAL_WINDOW_SIZE] == STREAM_WINDOW_BYTES
    assert 65535 + frames.word(window) == CONNECTION_WINDOW_BYTES


def test_settings_and_pings_are_acknowledged() -> None:
    http2 = ready()
    assert http2.feed(SETTINGS + frames.frame(frames.PING, 0, 0, b"12345678")) == []
    assert sent_frames(bytes(http2.out)) == [
        (frames.SETTINGS, frames.ACK, 0, b""),
        (frames.PING, frames.ACK, 0, b"12345678"),
    ]


def test_what_the_window_has_no_room_for_waits_until_the_server_widens_it() -> None:
    http2 = ready((Setting.INITIAL_WINDOW_SIZE, 10))
    assert not http2.send(1, b"x" * 25, end=True)
    assert http2.feed(frames.window_update(1, 10)) == []
    assert http2.feed(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 20)])) == [Sent(1)]
    data = [f for f in sent_frames(bytes(http2.out)) if f[0] == frames.DATA]
    assert [len(payload) for _, _, _, payload in data] == [10, 10, 5]
    assert [flags for _, flags, _, _ in data] == [0, 0, frames.END_STREAM]


def test_the_connections_window_is_shared_by_its_streams() -> None:
    http2 = ready((Setting.INITIAL_WINDOW_SIZE, 1 << 20), streams=2)
    assert not http2.send(1, b"a" * 70_000)
    assert not http2.send(3, b"b")
    sent = b"".join(f[3] for f in sent_frames(bytes(http2.out)) if f[0] == frames.DATA)
    assert sent == b"a" * 65535
    assert http2.feed(frames.window_update(0, 10_000)) == [Sent(1), Sent(3)]


def test_frames_are_as_large_as_the_server_takes_and_no_larger() -> None:
    http2 = ready()
    http2.send(1, b"x" * 40_000)
    assert [len(f[3]) for f in sent_frames(bytes(http2.out))] == [16384, 16384, 7232]
    wide = ready((Setting.MAX_FRAME_SIZE, 50_000))
    wide.send(1, b"x" * 40_000)
    assert [len(f[3]) for f in sent_frames(bytes(wide.out))] == [40_000]


def test_no_more_streams_are_opened_than_the_server_takes() -> None:
    http2 = ready((Setting.MAX_CONCURRENT_STREAMS, 2), streams=1)
    assert http2.can_open
    http2.open(b"")
    assert not http2.can_open
    http2.feed(frames.rst_stream(1, Code.CANCEL))
    assert http2.can_open


def test_what_was_read_is_given_back_to_the_server() -> None:
    http2, server = ready(), Server()
    http2.feed(server.head(1))
    for _ in range(200):  # far more than a window
        http2.feed(data_frame(1, b"x" * 16384))
    given = {0: 0, 1: 0}
    for kind, _, stream, payload in sent_frames(bytes(http2.out)):
        assert kind == frames.WINDOW_UPDATE
        given[stream] += frames.word(payload)
    assert 200 * 16384 - given[0] <= CONNECTION_WINDOW_BYTES // 2
    assert 200 * 16384 - given[1] <= STREAM_WINDOW_BYTES // 2 + 16384


def test_a_held_stream_gets_no_more_than_its_window_until_it_is_read() -> None:
    http2, server = ready(), Server()
    http2.feed(server.head(1))
    http2.hold(1)
    for _ in range(STREAM_WINDOW_BYTES // 16384):
        assert isinstance(http2.feed(data_frame(1, b"x" * 16384))[-1], Data)
    http2.out.clear()
    http2.consumed(1, STREAM_WINDOW_BYTES)
    assert sent_frames(bytes(http2.out))[0][:3] == (frames.WINDOW_UPDATE, 0, 1)
    other, server = ready(), Server()
    other.feed(server.head(1))
    other.hold(1)
    flood = data_frame(1, b"x" * 16384) * (STREAM_WINDOW_BYTES // 16384 + 1)
    assert broken(other.feed(flood)).code == Code.FLOW_CONTROL_ERROR


def test_what_comes_for_a_stream_that_was_reset_is_dropped_but_counted() -> None:
    http2, server = ready(streams=2), Server()
    http2.reset(1, Code.CANCEL)
    assert sent_frames(bytes(http2.out)) == [(frames.RST_STREAM, 0, 1, bytes([0, 0, 0, 8]))]
    extra = (("x-new", "in the table"),)
    assert http2.feed(server.head(1, [*GOOD_HEAD, *extra]) + data_frame(1, b"late")) == []
    assert http2.feed(frames.rst_stream(1, 0) + frames.window_update(1, 5)) == []
    (head,) = http2.feed(server.head(3, extra))  # refers to the table
    assert isinstance(head, Head)
    assert head.fields == ((b"x-new", b"in the table"),)


def test_goaway_ends_the_streams_above_it_and_lets_the_others_go_on() -> None:
    http2 = ready(streams=3)
    payload = (1).to_bytes(4, "big") + (0).to_bytes(4, "big") + b"bye"
    assert http2.feed(frames.frame(frames.GOAWAY, 0, 0, payload)) == [GoneAway(1, 0, b"bye")]
    assert http2.is_going
    assert not http2.can_open
    assert http2.feed(data_frame(1, b"x")) == [Data(1, b"x", False)]
    assert http2.feed(data_frame(5, b"x")) == []


def test_padding_and_priority_are_skipped() -> None:
    http2, server = ready(), Server()
    block = b"\x02" + bytes(5) + server.block(GOOD_HEAD) + b"??"
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITISED
    (head,) = http2.feed(frames.frame(frames.HEADERS, flags, 1, block))
    assert isinstance(head, Head)
    assert dict(head.fields)[b":status"] == b"200"
    padded = frames.frame(frames.DATA, frames.PADDED, 1, b"\x03abc???")
    assert http2.feed(padded) == [Data(1, b"abc", False)]
    assert http2.feed(frames.frame(77, 0xFF, 12345, b"unknown")) == []


def goaway(size: int) -> bytes:
    return frames.frame(frames.GOAWAY, 0, 0, bytes(size))


#: What breaks the protocol on a connection with stream 1 open, and a word of the error.
WRONG = {
    "a frame too large": (b"\xff\xff\xff\x00\x00" + bytes(4), "16777215 bytes"),
    "data on stream 0": (data_frame(0, b"x"), "never opened"),
    "data on a stream of the future": (data_frame(99, b"x"), "never opened"),
    "data on an even stream": (data_frame(2, b"x"), "never opened"),
    "a head on a stream of the future": (frames.frame(frames.HEADERS, 4, 7, b""), "never opened"),
    "a reset of the future": (frames.rst_stream(9, 0), "never opened"),
    "more padding than data": (frames.frame(frames.DATA, 8, 1, b"\x09ab"), "padding"),
    "padding of nothing": (frames.frame(frames.DATA, 8, 1, b""), "padding"),
    "a priority that is cut off": (frames.frame(frames.HEADERS, 0x24, 1, b"abc"), "priority"),
    "a block that is none": (frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff"), "decoded"),
    "an index of nothing": (frames.frame(frames.HEADERS, 4, 1, b"\xbf"), "decoded"),
    "a continuation of nothing": (frames.frame(frames.CONTINUATION, 4, 1, b""), "without HEADERS"),
    "a block that is not continued": (
        frames.frame(frames.HEADERS, 0, 1, b"") + data_frame(1, b"x"),
        "within a header block",
    ),
    "a push": (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), "PUSH_PROMISE"),
    "settings on a stream": (frames.frame(frames.SETTINGS, 0, 1, b""), "expected stream 0"),
    "settings of 5 bytes": (frames.frame(frames.SETTINGS, 0, 0, bytes(5)), "SETTINGS of 5"),
    "an acknowledgement with settings": (
        frames.frame(frames.SETTINGS, 1, 0, bytes(6)),
        "acknowledgement",
    ),
    "a window too wide by settings": (frames.settings([(4, 2**31)]), "a window of"),
    "a frame size too small": (frames.settings([(5, 16383)]), "largest frame"),
    "a server that pushes": (frames.settings([(2, 1)]), "ENABLE_PUSH"),
    "a ping of 7 bytes": (frames.frame(frames.PING, 0, 0, bytes(7)), "7 bytes; expected 8"),
    "a reset of 3 bytes": (frames.frame(frames.RST_STREAM, 0, 1, bytes(3)), "expected 4"),
    "a goaway of 7 bytes": (goaway(7), "too short"),
    "an update of nothing": (frames.window_update(0, 0), "0 bytes"),
    "a window too wide": (frames.window_update(1, 2**31 - 1), "2^31"),
    "a connection's window too wide": (frames.window_update(0, 2**31 - 1), "2^31"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_the_protocol_ends_the_connection_and_names_why(name: str) -> None:
    data, word = WRONG[name]
    http2 = ready()
    event = broken(http2.feed(data))
    assert word in event.cause
    assert sent_frames(bytes(http2.out))[-1][0] == frames.GOAWAY
    assert http2.feed(SETTINGS) == []
    assert http2.is_going


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(9), data_frame(1, b""), b"SSH-2.0-OpenSSH"]
)
def test_what_does_not_begin_with_settings_is_not_http2(data: bytes) -> None:
    event = broken(Http2(HEAD).feed(data))
    assert event.cause.startswith("not HTTP/2")
    assert event.evidence == data


@pytest.mark.parametrize("together", [True, False])
def test_frames_after_the_end_of_a_stream_are_dropped_however_they_are_cut(together: bool) -> None:
    http2, server = ready(streams=2), Server()
    sent = [server.trailers(1), data_frame(1, b"x"), server.trailers(1), data_frame(3, b"y")]
    reads = [b"".join(sent)] if together else sent
    first, *others = [event for read in reads for event in http2.feed(read)]
    assert isinstance(first, Head)
    assert others == [Data(3, b"y", False)], "the other stream goes on"


ping = frames.frame(frames.PING, 0, 0, bytes(8))
FLOODS = {
    "pings": ping,
    "settings": SETTINGS,
    "empty data": data_frame(1, b""),
    "window updates": frames.window_update(0, 1),
    "unknown frames": frames.frame(99, 0, 0, b""),
    "data of a stream that is over": data_frame(3, b""),
    "heads": frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b""),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_that_carry_nothing_is_ended(name: str) -> None:
    http2 = ready(streams=2)
    http2.reset(3, Code.CANCEL)
    http2.out.clear()
    http2.feed(FLOODS[name] * (MOST_IDLE_FRAMES - 1))  # the first SETTINGS were one, too
    event = broken(http2.feed(FLOODS[name]))
    assert event.code == Code.ENHANCE_YOUR_CALM
    assert "flood" in event.cause
    assert len(http2.out) <= 17 * (MOST_IDLE_FRAMES + 1)


@pytest.mark.parametrize("size", [0, 8000])
def test_a_header_block_without_end_is_ended(size: int) -> None:
    http2 = ready()
    http2.feed(frames.frame(frames.HEADERS, 0, 1, b""))
    piece = frames.frame(frames.CONTINUATION, 0, 1, bytes(size))
    event = broken(http2.feed(piece * (MOST_CONTINUATIONS + 1)))
    assert event.code == Code.ENHANCE_YOUR_CALM


def test_a_header_list_that_grows_when_decoded_is_ended() -> None:
    http2, server = ready(), Server()
    http2.feed(server.head(1, [*GOOD_HEAD, ("x", "y" * 3000)]))
    bomb = server.block([("x", "y" * 3000)]) * (HEADER_LIST_BYTES // 3000 + 1)
    assert len(bomb) < 100
    event = broken(http2.feed(frames.frame(frames.HEADERS, 5, 1, bomb)))
    assert event.code == Code.COMPRESSION_ERROR


# --- header blocks


def test_every_request_after_the_first_refers_to_the_servers_table() -> None:
    secret = [("authorization", "Bearer sesame")]
    head = RequestHead([(":method", "POST"), (":path", "/a/B"), ("te", "trailers")], secret)
    blocks, decoder = RequestBlocks(head), ResponseFields()
    first, later = blocks.take(), blocks.take()
    assert decoder.decode(first) == decoder.decode(later) == decoder.decode(blocks.take())
    assert len(later) < len(first)
    assert b"sesame" in later or len(later) > 10, "what no table may keep is sent each time"


def test_a_server_without_a_table_gets_fields_that_need_none() -> None:
    for before in (0, 2):
        blocks, decoder = RequestBlocks(HEAD), ResponseFields()
        expected = ResponseFields().decode(HEAD.first)
        for _ in range(before):
            decoder.decode(blocks.take())
        blocks.limit_table(100)
        blocks.limit_table(0)
        assert [decoder.decode(blocks.take()) for _ in range(3)] == [expected] * 3


def test_fields_too_large_for_the_table_are_sent_without_it() -> None:
    head = RequestHead([("a", "x" * 3000), ("b", "y" * 3000)])
    decoder = ResponseFields()
    assert head.first == head.later
    assert len(decoder.decode(head.first)) == len(decoder.decode(head.later)) == 2


def test_a_known_block_is_decoded_anew_when_the_table_has_changed() -> None:
    server, fields = Server(), ResponseFields()
    fields.decode(server.block([("x", "1")]))
    block = server.block([("x", "1")])
    assert fields.decode(block) is fields.decode(block)
    fields.decode(server.block([("y", "2")]))
    assert fields.decode(block) == ((b"y", b"2"),), "the same index names another field now"


def test_reset_names_its_stream() -> None:
    assert ready().feed(frames.rst_stream(1, Code.REFUSED_STREAM)) == [Reset(1, 7)]
