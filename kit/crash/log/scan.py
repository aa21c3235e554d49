"""Scans a log of any size for stacks, notices, watched words and stated releases.

Memory is bounded whatever the log holds, and time grows with its length: stretches without any
telling word are counted and passed over.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from kit.crash.log.backtrace import LogReader, shows_stack
from kit.crash.log.lines import LogText
from kit.crash.log.notices import Notice, needles, phrases_in
from kit.crash.log.phrases import Topic
from kit.crash.log.quotes import LONGEST_REQUEST
from kit.crash.log.words import Lines, Words

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
#: Characters that are kept of stretches without a telling word.
_MOST_PASSED = 1 << 18
#: Who writes so is vLLM or a server of its kind: its processes name themselves in their lines.
_ENGINES = re.compile(
    r"\b(?:EngineCore\w{0,20}|APIServer\w{0,20}|VllmWorker\w{0,20}|Worker_[TDP]P\w{0,20}|RayWorkerWrapper"
    r"|RayWorkerVllm) pid=\d|/vllm/(?:v1|engine|entrypoints|worker|executor|model_executor)/"
    r"|\[(?:core|async_llm|multiproc_executor|gpu_worker|p2p_nccl_engine|parallel_state)\.py:\d"
    r"|\b(?:model_runner|llm_engine|async_llm_engine|multiproc_worker_utils|custom_all_reduce)\.py:\d"
)
_ENGINE_WORDS = Words((word, None) for word in ("pid=", "/vllm/", ".py:"))
_RELEASE_MARKS = ("erver_version", "NVIDIA Release", "Triton Server Version", "tritonserver:2",
                  "SERVER_VERSION", "tritonfrontend ")  # fmt: skip
_RELEASE_WORDS = Words((word, None) for word in _RELEASE_MARKS)
_STATED = re.compile(
    r"NVIDIA Release (2\d\.\d\d)\b|tritonserver:(2\d\.\d\d)-"
    r"|(?:server_version\s{0,40}\|?\s{0,40}|Triton Server Version |SERVER_VERSION=|tritonfrontend )"
    r"\"?v?(2\.\d+\.\d+)"
)


class Scan:
    """Feed it the log's chunks, then `close` it."""

    def __init__(self, watched: Mapping[str, tuple[str, re.Pattern[str] | None]]) -> None:
        self._reader = LogReader()
        self._text = LogText()
        self._passed: deque[str] = deque()  # the last stretches without a telling word
        self._watched = dict(watched)
        self._watched_words = Words((word, key) for key, (word, _) in watched.items())
        words = [*_FRAME_MARKS, *_RELEASE_MARKS, *needles(), *self._watched_words]
        self._telling = tuple(dict.fromkeys(words))
        self.notices: dict[Topic, list[Notice]] = {}
        self.said: dict[str, int] = {}  # watched key -> line of the first
        self.stated: dict[str, int] = {}  # releases or Triton versions -> line
        self.engine = False  # whether vLLM, or a server of its kind, wrote into it

    def read(self, chunks: Iterable[str]) -> Scan:
        """Read a whole log."""
        for chunk in chunks:
            self._feed(chunk)
        for stretch in self._passed:
            self._skip(stretch)
        self._lines(list(self._text.close()))
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
            # What a stack or a quotation goes on with need not be telling by itself.
            goes_on = self._reader.within_stack or self._text.within_quotation
            if goes_on or any(word in stretch for word in self._telling):
                self._go_back()
                self._lines(list(self._text.read(stretch)))
            else:
                self._pass(stretch)
            start = end

    def _pass(self, stretch: str) -> None:
        """Nothing in it is telling; the last ones are kept for `_go_back`."""
        self._passed.append(stretch)
        while sum(map(len, self._passed)) > _MOST_PASSED:
            self._skip(self._passed.popleft())

    def _skip(self, text: str) -> None:
        self._text.skip(text.count("\n") + (not text.endswith("\n")))
        self._reader.skip(self._text.lines)

    def _go_back(self) -> None:
        """Read the lines before a telling one as well: a quotation may have begun in them."""
        if not self._passed:
            return
        before, *rest = "".join(self._passed).rsplit("\n", LONGEST_REQUEST + 1)
        self._passed.clear()
        if len(rest) > LONGEST_REQUEST:
            self._skip(f"{before}\n")
        else:
            rest.insert(0, before)
        self._lines(list(self._text.read("\n".join(rest))))

    def _lines(self, numbered: Sequence[tuple[int, str]]) -> None:
        lines = [line for _, line in numbered]
        text = Lines(lines)
        phrases = phrases_in(text)
        for at, (number, line) in enumerate(numbered):
            if at in phrases or self._reader.within_stack or shows_stack(line):
                for notice in self._reader.feed(line, number, phrases.get(at, ())):
                    self._keep(notice)
        if numbered:
            self._reader.skip(numbered[-1][0])
        if not self.engine:
            self.engine = any(_ENGINES.search(lines[at]) for at in _ENGINE_WORDS.in_lines(text))
        for at, keys in self._watched_words.in_lines(text).items():
            for key in keys:
                pattern = self._watched[key][1]
                if key not in self.said and (not pattern or pattern.search(lines[at])):
                    self.said[key] = numbered[at][0]
        for at in _RELEASE_WORDS.in_lines(text):
            if (found := _STATED.search(lines[at])) and len(self.stated) < _KEPT:
                stated = next(group for group in found.groups() if group)
                self.stated.setdefault(stated, numbered[at][0])

    def _keep(self, notice: Notice) -> None:
        kept = self.notices.setdefault(notice.topic, [])
        if len(kept) == _KEPT:
            kept.pop()
        kept.append(notice)


def _line_end(chunk: str, near: int) -> int:
    """The end of the line that `near` lies in; of the chunk where the line has no end in it."""
    newline = chunk.find("\n", near)
    return newline + 1 if newline >= 0 else len(chunk)
