"""What a scan of a log found in, the one Death that it tells of out, or None.

A crashed server outranks everything; then a kill for want of memory, a server that is said to be
gone, a dead engine, a dead stub. Handled errors, warnings and a graceful stop are no deaths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from kit.crash.log.backtrace import GAP, Backtrace
from kit.crash.log.notices import Notice
from kit.crash.log.phrases import Subject, Topic
from kit.crash.log.scan import Scan
from kit.crash.log.shapes import Shape
from kit.crash.stack.signature import decisive, is_death
from kit.crash.stack.site import fault_frames

_KILLED = 9


class Process(StrEnum):
    SERVER = "server"
    STUB = "stub"
    ENGINE = "engine"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The last death that a log tells of."""

    process: Process
    signal: int | None
    backtrace: Backtrace | None  # None: words only
    topics: frozenset[Topic]  # of everything that the log says about deaths
    words: tuple[str, ...]  # the decisive ones
    line: int
    count: int  # how many deaths the log tells of
    restarted: bool = False  # a model's process died, and the server started another


def find_death(scan: Scan) -> Death | None:
    """The death to describe."""
    crash = decisive(scan.backtraces)
    if crash is not None:
        return Death(
            process=_process_of(crash, scan),
            signal=crash.signal,
            backtrace=crash,
            topics=scan.topics,
            words=crash.messages,
            line=crash.line,
            count=_count(scan.backtraces),
        )
    for topic in (Topic.OUT_OF_MEMORY, Topic.SIGNAL, Topic.EXIT):
        if notices := [n for n in scan.notices.get(topic, []) if n.fatal]:
            return _of_words(notices, scan)
    for topic in (Topic.SERVER_GONE, Topic.ENGINE, Topic.STUB):
        if notices := scan.notices.get(topic, []):
            death = _of_words(notices, scan)
            return replace(death, restarted=topic is Topic.STUB and _restarted(notices))
    return None


def _restarted(notices: list[Notice]) -> bool:
    """Whether the last that is said of a stub is that it is started again; what its open requests
    were told stands just before or after that line.
    """
    last = max((n.line for n in notices if n.restarted), default=None)
    return last is not None and all(n.line - last <= GAP for n in notices)


def _of_words(notices: list[Notice], scan: Scan) -> Death:
    told = next((n for n in notices if n.subject is not Subject.UNKNOWN), notices[0])
    return Death(
        process=Process(told.subject.value),
        signal=told.signal,
        backtrace=None,
        topics=scan.topics,
        words=(told.text,),
        line=notices[0].line,
        count=1,
    )


def _process_of(crash: Backtrace, scan: Scan) -> Process:
    if crash.shape is Shape.TRITON:
        return Process.SERVER
    if crash.shape is Shape.FAULTHANDLER:
        vllm = any("/vllm/" in (frame.source or "") for frame in crash.frames)
        return Process.ENGINE if vllm else Process.STUB
    modules = " ".join(frame.module or "" for frame in fault_frames(crash))
    symbols = " ".join(frame.symbol or "" for frame in crash.frames)
    if "triton_python_backend_stub" in modules or "python::Stub::" in symbols:
        return Process.STUB
    if "triton" in modules or "triton::" in symbols or "tensorrt_llm" in symbols:
        return Process.SERVER
    if Topic.ENGINE in scan.topics:
        return Process.ENGINE
    subjects = {n.subject for n in scan.notices.get(Topic.SIGNAL, [])} - {Subject.UNKNOWN}
    return Process(subjects.pop().value) if len(subjects) == 1 else Process.UNKNOWN


def _count(backtraces: list[Backtrace]) -> int:
    """Deaths told of; what lies close together is one, printed by several."""
    lines = sorted(b.line for b in backtraces if is_death(b))
    return sum(1 for at, line in enumerate(lines) if at == 0 or line - lines[at - 1] > GAP)
