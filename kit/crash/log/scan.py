"""A log of any size in, what matters of it out: stacks, notices, watched words, stated releases.

Memory is bounded whatever the log holds, and time grows with its length: stretches without any
telling word are counted and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kit.crash.log.backtrace import LogReader
from kit.crash.log.lines import split_lines, unwrap
from kit.crash.log.notices import Notice, needles
from kit.crash.log.phrases import Topic

#: Of each topic so many notices are kept, the first ones and the last; they repeat themselves.
_KEPT = 20
#: Literals of which every line that prints a frame has one.
_FRAME_MARKS = ("# ", "#0", "#1", "frame #", 'File "', "0x", " from /", "    at ", "signal handler")
_STRETCH = 1 << 16
_RELEASE_MARKS = ("erver_version", "NVIDIA Release", "Triton Server Version", "tritonserver:2",
                  "SERVER_VERSION")  # fmt: skip
_STATED = re.compile(
    r"NVIDIA Release (2\d\.\d\d)\b|tritonserver:(2\d\.\d\d)-"
    r"|(?:server_version\s{0,40}\|?\s{0,40}|Triton Server Version |SERVER_VERSION=)"
    r"\"?v?(2\.\d+\.\d+)"
)


class Scan:
    """Feed it the log's chunks, then `close` it."""

    def __init__(self, watched: Mapping[str, tuple[str, re.Pattern[str] | None]]) -> None:
        self._reader = LogReader()
        self._watched = dict(watched)
        words = [*_FRAME_MARKS, *_RELEASE_MARKS, *needles(), *(w for w, _ in watched.values())]
        self._telling = tuple(dict.fromkeys(words))
        self.notices: dict[Topic, list[Notice]] = {}
        self.said: dict[str, int] = {}  # watched key -> line of the first
        self.stated: dict[str, int] = {}  # releases or Triton versions -> line

    def read(self, chunks: Iterable[str]) -> Scan:
        """Read a whole log."""
        for chunk in chunks:
            self._feed(chunk)
        self._reader.close()
        self.backtraces = self._reader.backtraces
        return self

    @property
    def lines(self) -> int:
        return self._reader.lines

    @property
    def topics(self) -> frozenset[Topic]:
        return frozenset(self.notices)

    def _feed(self, chunk: str) -> None:
        start = 0
        while start < len(chunk):
            end = _line_end(chunk, min(start + _STRETCH, len(chunk)))
            stretch = chunk[start:end]
            if any(word in stretch for word in self._telling):
                for line in split_lines(stretch):
                    self._line(unwrap(line))
            else:
                self._reader.skip(stretch.count("\n") or 1)
            start = end

    def _line(self, line: str) -> None:
        for notice in self._reader.feed(line):
            kept = self.notices.setdefault(notice.topic, [])
            if len(kept) == _KEPT:
                kept.pop()
            kept.append(notice)
        number = self._reader.lines
        for key, (word, pattern) in self._watched.items():
            if word in line and key not in self.said and (not pattern or pattern.search(line)):
                self.said[key] = number
        if any(mark in line for mark in _RELEASE_MARKS) and (found := _STATED.search(line)):
            stated = next(group for group in found.groups() if group)
            if len(self.stated) < _KEPT:
                self.stated.setdefault(stated, number)


def _line_end(chunk: str, near: int) -> int:
    """The end of the line that `near` lies in; of the chunk where the line has no end in it."""
    newline = chunk.find("\n", near)
    return newline + 1 if newline >= 0 else len(chunk)
