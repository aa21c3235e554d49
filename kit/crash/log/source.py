"""Bytes of a log, whatever it is kept in: a file, compressed or not, a pipe, an endless device.

Time and memory are bounded on any input: devices are refused, a pipe that says nothing is left
after a while, and of anything only so much is unpacked and read.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import importlib
import lzma
import os
import select
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

from kit.errors import LogError

CHUNK = 1 << 20
#: Some log's worth of text; a small file can be made to unpack to any size.
MOST_UNPACKED = 16 << 30
#: A pipe may have no end.
MOST_PIPED = 4 << 30
#: So long a pipe may be silent before its first byte, and between two.
SILENCE_S = 60.0
#: A log that begins with so many zero bytes is none.
MOST_ZEROS = 256 << 20
_SAMPLE = 4096
#: A file of such a name that cannot be unpacked is broken, and no plain log.
_PACKED_NAMES = (".gz", ".bz2", ".xz", ".zst")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Unpacker(Protocol):
    """What the libraries of all these formats have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def chunks_of_file(path: Path) -> Iterator[str]:
    """The text of a file of any size and content, about a mebibyte at a time.

    Raises:
        OSError: the file cannot be read.
        LogError: it is a device, holds no text, or unpacks to too much.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            yield from chunks_of_stream(file, name=path.name)
    elif stat.S_ISFIFO(mode):
        yield from _text_of(_limited(_of_pipe(path), path.name), path.name)
    else:
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a socket"
        raise LogError(f"{path} is {kind}", "a log file", "name a file that holds a log")


def chunks_of_stream(file: BinaryIO, *, name: str = "the input") -> Iterator[str]:
    """The same of what is read from `file`, which need not be seekable.

    Raises:
        OSError: it cannot be read.
        LogError: it holds no text, or unpacks to too much.
    """
    raw = iter(lambda: file.read(CHUNK), b"")
    try:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        regular = True  # of memory
    yield from _text_of(raw if regular else _limited(raw, name), name)


def _of_pipe(path: Path) -> Iterator[bytes]:
    """What a named pipe gives, as long as somebody writes into it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        begun, until = False, time.monotonic() + SILENCE_S
        while True:
            ready, _, _ = select.select([descriptor], [], [], 0.2)
            try:
                data = os.read(descriptor, CHUNK) if ready else b""
            except BlockingIOError:
                data = b""
            if data:
                begun, until = True, time.monotonic() + SILENCE_S
                yield data
            elif begun and ready:
                return  # the last writer closed it
            elif time.monotonic() > until:
                raise LogError(
                    f"{path} is a pipe into which nothing was written for {SILENCE_S:.0f} s",
                    "a log that ends",
                    "write the log into a file, or give it on standard input",
                )
            elif ready:
                time.sleep(0.2)  # nobody has opened it yet
    finally:
        os.close(descriptor)


def _limited(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    total = 0
    for data in pieces:
        total += len(data)
        if total > MOST_PIPED:
            raise LogError(
                f"{name} gave more than {MOST_PIPED >> 30} GiB and no end",
                "a log that ends",
                "cut the log around its crash (tail -c, journalctl --since)",
            )
        yield data


def _text_of(raw: Iterable[bytes], name: str) -> Iterator[str]:
    """Bytes decoded; cut at line ends where there are any. Zero bytes of files with holes go."""
    pieces = _unpacked(iter(raw), name)
    first = next(pieces, b"")
    decoder = codecs.getincrementaldecoder(_encoding(first))(errors="replace")
    rest, zeros, seen = "", 0, False
    for data in chain([first], pieces):
        if not seen and not data.strip(b"\0"):
            zeros += len(data)
            if zeros > MOST_ZEROS:
                break
            continue
        seen = True
        text = rest + decoder.decode(data)
        if "\0" in text:
            text = text.replace("\0", "")
        newline = text.rfind("\n")
        cut = newline + 1 if newline >= 0 else len(text)
        yield text[:cut]
        rest = text[cut:]
    if zeros and not seen:
        raise LogError(
            f"{name} holds nothing but zero bytes ({zeros >> 20} MiB of them read)",
            "a log of text",
            "look for the log elsewhere: a file whose writer died may be all holes",
        )
    yield rest + decoder.decode(b"", final=True)


def _encoding(first: bytes) -> str:
    """UTF-8, or what a mark or the place of the zero bytes says."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if first.startswith(mark):
            return encoding
    sample = first[:_SAMPLE]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if half >= 8 and max(even, odd) > 0.6 * half and min(even, odd) < 0.1 * half:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def _unpacked(raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The bytes of a log, unpacked where they are packed. What only looks packed stays as it is."""
    first = next(raw, b"")
    make = _unpacker_of(first, name)
    if make is None:
        yield first
        yield from raw
        return
    total = 0
    unpack: _Unpacker = make()
    for packed in chain([first], raw):
        rest = packed
        while rest:
            try:
                data = _step(unpack, rest)
            except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as error:
                if total == 0 and packed is first and not name.endswith(_PACKED_NAMES):
                    yield first  # its first bytes are a mark by chance
                    yield from raw
                    return
                raise OSError(errno.EINVAL, f"broken packed data ({error})") from error
            total += len(data)
            if total > MOST_UNPACKED:
                raise OSError(errno.EFBIG, f"it unpacks to more than {MOST_UNPACKED >> 30} GiB")
            if data:
                yield data
            rest = _left(unpack)
            if unpack.eof and rest:
                unpack = make()
    if last := getattr(unpack, "flush", bytes)():
        yield last  # it was still being written


def _step(unpack: _Unpacker, data: bytes) -> bytes:
    """A mebibyte at most, as far as the library can limit it."""
    try:
        return unpack.decompress(data, CHUNK)  # type: ignore[call-arg]
    except TypeError:
        return unpack.decompress(data)


def _left(unpack: _Unpacker) -> bytes:
    """What is still to be unpacked of the bytes given: of this member, or the next one's."""
    if unpack.eof:
        return bytes(getattr(unpack, "unused_data", b"")).lstrip(b"\0")  # padding between members
    return bytes(getattr(unpack, "unconsumed_tail", b""))


class _Stepwise:
    """bz2's and lzma's unpackers keep what is still to be unpacked; zlib's hand it back."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, limit: int = CHUNK) -> bytes:
        given = b"" if data is _MORE else data
        unpacked = self._inner.decompress(given, limit)
        self.unconsumed_tail = b"" if self._inner.eof or self._inner.needs_input else _MORE
        return unpacked


#: Stands for "nothing new, go on with what you have".
_MORE = b"more"


def _unpacker_of(first: bytes, name: str) -> Callable[[], _Unpacker] | None:
    """Makes the unpacker of a format by its first bytes; None: it is not packed."""
    if first.startswith(b"\x1f\x8b\x08"):
        return lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)
    if first.startswith(b"BZh"):
        return lambda: _Stepwise(bz2.BZ2Decompressor())
    if first.startswith(b"\xfd7zXZ\0"):
        return lambda: _Stepwise(lzma.LZMADecompressor(memlimit=256 << 20))
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstandard(name)
    return None


def _zstandard(name: str) -> Callable[[], _Unpacker]:
    for module in ("compression.zstd", "zstandard", "pyzstd"):
        try:
            library = importlib.import_module(module)
        except ImportError:
            continue
        if module == "zstandard":
            return lambda: library.ZstdDecompressor().decompressobj()
        return lambda: _Stepwise(library.ZstdDecompressor())
    raise LogError(
        f"{name} is packed by zstd, and there is no library for it here",
        "a log that is plain or packed by gzip, bzip2 or xz",
        "unpack it (zstd -d), or install the package zstandard",
    )
