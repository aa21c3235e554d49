"""Header blocks of gRPC over HTTP/2: requests encoded once, answers decoded once where possible.

HPACK itself is the library `hpack`'s. All requests of a connection have the same header fields but
for the deadline: the first block puts them into the server's table, each later one refers to them
there, and both are the same bytes on every connection. An answer's block that only refers to the
table means the same until a block changes the table.

Source: RFC 7541, sections 2.3.2 (the table), 6 (how fields are written).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

Fields = tuple[tuple[bytes, bytes], ...]

#: A header list of more than this is not read; names and values, and 32 bytes a field.
HEADER_LIST_BYTES: Final = 65536
#: The table's size until a peer says otherwise, and the largest that is used.
TABLE_BYTES: Final = 4096
_NO_TABLE: Final = b"\x20"  # from now on the table has no room
_KNOWN_BLOCKS = 64
#: Literal fields that no table keeps begin so.
_TIMEOUT: Final = b"\x10\x0cgrpc-timeout"


class HeaderError(ValueError):
    """A header block that cannot be decoded, or is too large."""


def timeout_field(timeout_ms: int) -> bytes:
    """The encoded field `grpc-timeout`, to be put behind a request's block.

    At most eight digits are allowed, so long deadlines are said in seconds.

    >>> timeout_field(250)
    b'\\x10\\x0cgrpc-timeout\\x04250m'
    """
    is_short = timeout_ms < 10**8
    value = b"%dm" % timeout_ms if is_short else b"%dS" % min(timeout_ms // 1000, 10**8 - 1)
    return b"%b%c%b" % (_TIMEOUT, len(value), value)


class RequestHead:
    """The header block of every request of a connection.

    fields: names and values, pseudo-headers first.
    secret: more of them, which no table may keep.

    >>> head = RequestHead([(":method", "POST"), ("te", "trailers")])
    >>> len(head.first), len(head.later)
    (12, 2)
    """

    def __init__(
        self, fields: Iterable[tuple[str, str]], secret: Iterable[tuple[str, str]] = ()
    ) -> None:
        plain = [(n.encode(), v.encode("utf-8", "surrogateescape")) for n, v in fields]
        hidden = [(n.encode(), v.encode("utf-8", "surrogateescape")) for n, v in secret]
        never = [NeverIndexedHeaderTuple(*pair) for pair in hidden]
        encoder = Encoder()
        blocks = [encoder.encode([*plain, *never]) for _ in range(3)]
        #: For a server that keeps no table.
        self.alone: bytes = Encoder().encode(
            [NeverIndexedHeaderTuple(*pair) for pair in (*plain, *hidden)]
        )
        fits = blocks[1] == blocks[2]  # else the fields push each other out of the table
        self.first: bytes = blocks[0] if fits else self.alone
        self.later: bytes = blocks[1] if fits else self.alone


class RequestBlocks:
    """The blocks of one connection's requests, in turn."""

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._next = head.first
        self._later = head.later

    def take(self) -> bytes:
        """The block of the next request."""
        block = self._next
        self._next = self._later
        return block

    def limit_table(self, size: int) -> None:
        """The server's table is to be no larger than this."""
        if size < TABLE_BYTES and self._later is not self._head.alone:
            self._next = _NO_TABLE + self._head.alone
            self._later = self._head.alone


class ResponseFields:
    """Decodes the header blocks of one connection's answers, in turn."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES)
        self._decoder.max_allowed_table_size = TABLE_BYTES
        self._known: dict[bytes, Fields] = {}
        #: The fields of a block that means what it meant before; None: it has to be decoded.
        self.known = self._known.get

    def block_of(self, fields: Fields) -> bytes:
        """The known block of these very fields; empty: there is none."""
        return next((block for block, known in self._known.items() if known is fields), b"")

    def decode(self, block: bytes) -> Fields:
        """The fields of the next block.

        Raises:
            HeaderError: it is none, or larger than HEADER_LIST_BYTES when decoded.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields = tuple((bytes(n), bytes(v)) for n, v in self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise HeaderError(str(error) or type(error).__name__) from error
        if not all(128 < byte < 255 for byte in block):
            self._known.clear()  # it may have changed the table
        elif len(self._known) < _KNOWN_BLOCKS:
            self._known[block] = fields
        return fields
