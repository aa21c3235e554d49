"""Log text or a log file in, its lines out one at a time: bounded memory whatever the log holds.

What loggers add around a line (colours, container and shell prefixes, JSON wrapping, table
borders) is taken off as far as it could hide what a line says.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

#: A "line" of binary garbage may be the whole file; longer ones are cut into pieces.
LONGEST_LINE = 16_384
CHUNK = 1 << 20

_COLOUR = re.compile(r"(?:\x1b|\^\[)\[[0-9;]{0,16}[A-Za-z]")
_BOUNDARY = re.compile(r"\r\n|\r|\n")
_BORDER = " \t│┃|\x00"
_JSON_FIELDS = ("log", "message", "msg", "textPayload", "MESSAGE")
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
        mark = file.read(2)
        file.seek(0)
        encoding = _BYTE_ORDER_MARKS.get(mark, "utf-8")
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        rest = ""
        while data := file.read(CHUNK):
            text = rest + decoder.decode(data)
            newline = text.rfind("\n")
            cut = newline + 1 if newline >= 0 else len(text)
            yield text[:cut]
            rest = text[cut:]
        yield rest + decoder.decode(b"", final=True)


def split_lines(chunk: str) -> Iterator[str]:
    """The lines of a chunk without their ends. A carriage return ends a line too: progress bars
    write a crash's first line behind one.
    """
    for line in _BOUNDARY.split(chunk.removesuffix("\n").removesuffix("\r")):
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            yield line[start : start + LONGEST_LINE]


def unwrap(line: str) -> str:
    """The line without colours, table borders and JSON wrapping."""
    if "[" in line and ("\x1b" in line or "^[" in line):
        line = _COLOUR.sub("", line)
    if line.startswith("{") and line.rstrip().endswith("}"):
        line = _from_json(line)
    return line.rstrip(_BORDER)


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
