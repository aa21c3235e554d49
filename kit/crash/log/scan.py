"""Scans a log of any size for stacks, notices, watched words and stated releases.

Memory is bounded whatever the log holds, and time grows with its length: stretches without any
telling word are counted and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kit.crash.log.backtrace import LogReader
from kit.crash.log.lines import LogText
from kit.crash.log.notices import Notice, needles
from kit.crash.log.phrases import Topic

#: Of each topic so many notices are kept, the first ones and the last; they repeat themselves.
_KEPT = 20
#: Literals of which every line that prints a frame has one.
_FRAME_MARKS = (
    "# ",
    "#0",
    "#1",
    "frame #",
    'File "',
    'File \\"',
    "0x",
    " from /",
    "    at ",
    "signal handler",
)
_STRETCH = 1 << 16
#: Who writes so is vLLM or a server of its kind: its processes name themselves in their lines.
_ENGINES = re.compile(
    r"\b(?:EngineCore\w{0,20}|APIServer\w{0,20}|VllmWorker\w{0,20}|Worker_[TDP]P\w{0,20}|RayWorkerWrapper"
    r"|RayWorkerVllm) pid=\d|/vllm/(?:v1|engine|entrypoints|worker|executor|model_executor)/"
    r"|\[(?:core|async_llm|multiproc_executor|gpu_worker|p2p_nccl_engine|parallel_state)\.py:\d"
    r"|\b(?:model_runner|llm_engine|async_llm_engine|multiproc_worker_utils|custom_all_reduce)\.py:\d"
)
_ENGINE_MARKS = ("pid=", "/vllm/", ".py:")
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
        self._text = LogText()
        self._watched = dict(watched)
        words = [*_FRAME_MARKS, *_RELEASE_MARKS, *needles(), *(w for w, _ in watched.values())]
        self._telling = tuple(dict.fromkeys(words))
        self.notices: dict[Topic, list[Notice]] = {}
        self.said: dict[str, int] = {}  # watched key -> line of the first
        self.stated: dict[str, int] = {}  # releases or Triton versions -> line
        self.engine = False  # whether vLLM, or a server of its kind, wrote into it

    def read(self, chunks: Iterable[str]) -> Scan:
        """Read a whole log."""
        for chunk in chunks:
            self._feed(chunk)
        for number, line in self._text.close():
            self._line(line, number)
        self._reader.close()
        self.backtraces = self._reader.backtraces
        return self

    @property
    def lines(self) -> int:
        return self._text.lines

    @property
    def raised(self) -> list[tuple[int, str]]:
        """What exceptions said, with their lines."""
        return self._reader.raised

    @property
    def topics(self) -> frozenset[Topic]:
        return frozenset(self.notices)

    def _feed(self, chunk: str) -> None:
        start = 0
        while start < len(chunk):
            end = _line_end(chunk, min(start + _STRETCH, len(chunk)))
            stretch = chunk[start:end]
            if any(word in stretch for word in self._telling):
                for number, line in self._text.read(stretch):
                    self._line(line, number)
            else:
                self._text.skip(stretch.count("\n") or 1)
                self._reader.skip(self._text.lines)
            start = end

    def _line(self, line: str, number: int) -> None:
        for notice in self._reader.feed(line, number):
            kept = self.notices.setdefault(notice.topic, [])
            if len(kept) == _KEPT:
                kept.pop()
            kept.append(notice)
        if not self.engine and any(mark in line for mark in _ENGINE_MARKS):
            self.engine = _ENGINES.search(line) is not None
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
