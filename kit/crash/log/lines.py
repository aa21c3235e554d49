"""Log text or a log file in, its lines out one at a time: bounded memory whatever the log holds.

What loggers add around a line (colours, container and shell prefixes, JSON wrapping, table
borders) is taken off as far as it could hide what a line says.
"""

from __future__ import annotations

import codecs
import errno
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

#: A "line" of binary garbage may be the whole file; longer ones are cut into pieces.
LONGEST_LINE = 16_384
CHUNK = 1 << 20
#: Some log's worth of text; a small file can be made to unpack to any size.
MOST_UNPACKED = 16 << 30

_COLOUR = re.compile(r"(?:\x1b|\^\[)\[[0-9;]{0,16}[A-Za-z]")
_BOUNDARY = re.compile(r"\r\n|\r|\n")
_BORDER = " \t│┃|\x00"
_JSON_FIELDS = ("log", "message", "msg", "textPayload", "MESSAGE")
_GZIP = b"\x1f\x8b\x08"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def chunks_of_text(text: str) -> Iterator[str]:
    """Pieces of about a mebibyte that end at line ends where the text has any."""
    start = 0
    while start < len(text):
        end = min(start + CHUNK, len(text))
        if end < len(text):
            newline = text.rfind("\n", start, end)
            end = newline + 1 if newline >= 0 else end
        yield text[start:end]
        start = end


def chunks_of_file(path: Path) -> Iterator[str]:
    """The same for a file of any size and content; bytes that are no text are replaced.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        yield from chunks_of_stream(file)


def chunks_of_stream(file: BinaryIO) -> Iterator[str]:
    """The same for what is read from `file`, which need not be seekable: UTF-8, UTF-16 with its
    mark, and either of them compressed by gzip.

    Raises:
        OSError: it cannot be read, is no whole gzip member after all, or unpacks to too much.
    """
    pieces = _pieces(file)
    first = next(pieces, b"")
    encoding = _BYTE_ORDER_MARKS.get(first[:2], "utf-8-sig")
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    rest = ""
    for data in chain([first], pieces):
        text = rest + decoder.decode(data)
        newline = text.rfind("\n")
        cut = newline + 1 if newline >= 0 else len(text)
        yield text[:cut]
        rest = text[cut:]
    yield rest + decoder.decode(b"", final=True)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file, unpacked if they are packed, a mebibyte at most at a time."""
    first = file.read(CHUNK)
    raw = chain([first], iter(lambda: file.read(CHUNK), b"")) if first else iter(())
    return _unpacked(raw) if first.startswith(_GZIP) else raw


def _unpacked(raw: Iterable[bytes]) -> Iterator[bytes]:
    """gzip's members, one behind the other; the last may be cut short: it was still written."""
    total = 0
    unpack = zlib.decompressobj(_GZIP_WINDOW)
    for packed in raw:
        while packed:
            try:
                data = unpack.decompress(packed, CHUNK)
            except zlib.error as error:
                raise OSError(errno.EINVAL, f"broken gzip data ({error})") from error
            total += len(data)
            if total > MOST_UNPACKED:
                raise OSError(errno.EFBIG, f"it unpacks to more than {MOST_UNPACKED >> 30} GiB")
            if data:
                yield data
            packed = unpack.unconsumed_tail
            if unpack.eof:
                packed = unpack.unused_data.lstrip(b"\0")  # padding between members
                unpack = zlib.decompressobj(_GZIP_WINDOW)
    if last := unpack.flush():
        yield last


def split_lines(chunk: str) -> Iterator[str]:
    """The lines of a chunk without their ends. A carriage return ends a line too: progress bars
    write a crash's first line behind one.
    """
    for line in _BOUNDARY.split(chunk.removesuffix("\n").removesuffix("\r")):
        if len(line) > LONGEST_LINE and quotes_a_request(line[:LONGEST_LINE]):
            yield ""  # its later pieces would not show that they are quoted
            continue
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            yield line[start : start + LONGEST_LINE]


#: What a user sent, as vLLM and others log it. It may hold a whole crash, which is not this one.
_QUOTES = re.compile(
    r"\bReceived request\b.{0,400}?\bprompt|\bprompt[\"']?\s?[:=]\s?[rbu]?[\"'\[{]"
    r"|[\"']content[\"']\s?:\s?\\?[\"'\[]"
)


def quotes_a_request(line: str) -> bool:
    """Whether a log line repeats what a user sent."""
    return ("prompt" in line or "content" in line) and _QUOTES.search(line) is not None


def unwrap(line: str) -> str:
    """The line without colours, table borders and JSON wrapping; nothing of it if it only repeats
    what a user sent.
    """
    if "[" in line and ("\x1b" in line or "^[" in line):
        line = _COLOUR.sub("", line)
    if line.startswith("{") and line.rstrip().endswith("}"):
        line = _from_json(line)
    return "" if quotes_a_request(line) else line.rstrip(_BORDER)


def _from_json(line: str) -> str:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return line
    for name in _JSON_FIELDS:
        if isinstance(fields, dict) and isinstance(fields.get(name), str):
            # \r\n inside the field: one record is one line
            return " ".join(str(fields[name]).split("\n")).rstrip()
    return line
