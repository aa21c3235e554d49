"""A worker's counts, shared with other processes without a system call.

One small memory-mapped file a worker in the trial folder, written by it alone a few dozen times
a second. Aligned 8-byte words are written whole, so a reader never sees half a number.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from kit.load.traffic.call import NEVER
from kit.load.worker.stop_rules import Stop


class Field(IntEnum):
    READY_NS = 0  # when the worker could have begun; NEVER before that
    SENT = 1
    ENDED = 2
    OK = 3
    ERRORS = 4
    IN_FLIGHT = 5
    PROGRESS_NS = 6
    STARTED_NS = 7
    WAITING = 8
    WAITING_SINCE_NS = 9
    BROKE_NS = 10  # when the worker began to fail, or to leave without its load being done
    STOP = 11  # 0: no rule has stopped it; else one more than the place of the rule in STOPS


STOPS = tuple(Stop)
_WORDS = len(Field)
_TIMES = (
    Field.READY_NS,
    Field.PROGRESS_NS,
    Field.STARTED_NS,
    Field.WAITING_SINCE_NS,
    Field.BROKE_NS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load worker has come. Times: CLOCK_MONOTONIC nanoseconds, None before that."""

    sent: int = 0
    ended: int = 0  # every request that has its outcome, whatever it is
    ok: int = 0
    in_flight: int = 0
    progress_ns: int | None = None  # a byte of any answer, or the end of a request, came then
    waiting: int = 0  # in flight, and not because we hold them open on purpose
    waiting_since_ns: int | None = None  # ever since then some request has been waiting
    started_ns: int | None = None
    broke_ns: int | None = None  # since then it is not whole: it fails, or was told to leave
    stop: Stop | None = None  # the rule that ended its load before the last request


def counters_path(folder: Path, worker: int) -> Path:
    return folder / f"load-{worker}.counters"


class Counters:
    """The mapped words; `words[Field.X]` reads and writes one."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(8 * _WORDS))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * _WORDS)
        self.words = memoryview(self._map).cast("q")
        if create:
            for field in _TIMES:
                self.words[field] = NEVER

    def broke(self, at_ns: int) -> None:
        """Note when this worker ceased to be whole; the first time counts."""
        if self.words[Field.BROKE_NS] == NEVER:
            self.words[Field.BROKE_NS] = at_ns

    def close(self) -> None:
        self.words.release()
        self._map.close()


def progress_of(
    words: Sequence[int] | memoryview, to_ours: Callable[[int], int] = int
) -> LoadProgress:
    """What counts say. to_ours: turns a time of the worker's clock into one of ours."""

    def time(field: Field) -> int | None:
        return None if words[field] == NEVER else to_ours(words[field])

    return LoadProgress(
        sent=words[Field.SENT],
        ended=words[Field.ENDED],
        ok=words[Field.OK],
        in_flight=words[Field.IN_FLIGHT],
        progress_ns=time(Field.PROGRESS_NS),
        waiting=words[Field.WAITING],
        waiting_since_ns=time(Field.WAITING_SINCE_NS),
        started_ns=time(Field.STARTED_NS),
        broke_ns=time(Field.BROKE_NS),
        stop=STOPS[words[Field.STOP] - 1] if words[Field.STOP] else None,
    )


class Elsewhere(NamedTuple):
    """What the other workers of a workload have counted so far."""

    errors: int = 0
    ended: int = 0


def sum_of(counts: Sequence[Sequence[int] | memoryview]) -> Elsewhere:
    """What workers have counted together."""
    return Elsewhere(sum(w[Field.ERRORS] for w in counts), sum(w[Field.ENDED] for w in counts))


class CountsElsewhere:
    """Reads the counts of the other workers."""

    def __init__(self, folder: Path, worker: int, processes: int) -> None:
        self._paths = [counters_path(folder, w) for w in range(processes) if w != worker]
        self._seen: dict[Path, Counters] = {}

    def __call__(self) -> Elsewhere:
        for path in self._paths:
            if path not in self._seen:
                try:
                    self._seen[path] = Counters(path)
                except (OSError, ValueError):
                    continue  # not there yet
        return sum_of([counters.words for counters in self._seen.values()])
