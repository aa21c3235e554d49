"""Decides which death a scanned log tells of, if any.

A crashed server outranks everything; then a kill for want of memory, a signal, a kill from
outside, a server that is said to be gone, a dead engine, a dead stub, a failed start. Handled
errors, warnings and a graceful stop are no deaths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kit.crash.log.backtrace import GAP, Backtrace
from kit.crash.log.notices import Notice
from kit.crash.log.phrases import Subject, Topic, subject_of
from kit.crash.log.scan import Scan
from kit.crash.log.shapes import Shape
from kit.crash.stack.signature import decisive, is_death
from kit.crash.stack.site import fault_frames

#: The topics that words alone can tell of, the most telling first.
_TOLD = (
    Topic.OUT_OF_MEMORY,
    Topic.SIGNAL,
    Topic.EXCEPTION,
    Topic.SANITIZER,
    Topic.EXIT,
    Topic.KILLED,
    Topic.CORE,
    Topic.SERVER_GONE,
    Topic.ENGINE,
    Topic.NCCL,
    Topic.STUB,
    Topic.START,
    Topic.ENDED,
)
#: Where a program begins: an exception that came from there ended it.
_PROGRAM = frozenset({"<module>", "_run_module_as_main", "_run_code", "spawn_main", "_bootstrap"})
_SERVERS = re.compile(
    r"/vllm/|/sglang/|/tensorrt_llm/|/lmdeploy/|/text_generation_server/|/(?:bin|Scripts)"
    r"/vllm\b|tritonserver"
    r"|triton_python_backend|/launch_triton_server"
    r"|/(?:\w{1,40}_)?serv(?:e|er|ing)/"  # where packages keep what serves
)
#: Programs that do nothing but start a server or its workers.
_LAUNCHERS = re.compile(
    r"/bin/(?:torchrun|accelerate|deepspeed|openllm|text-generation-server)\b"
    r"|/deepspeed/launcher/|/torch/distributed/(?:launch|run)\.py"
)
#: What somebody types is no program.
_TYPED = re.compile(r"<(?:stdin|ipython|console)")
#: Programs of their own, not vLLM's nor its like's.
_TENSORRT = re.compile(r"triton|/tensorrt_llm/|/trtllm-")
#: A file of a Python model or of the backend that runs it.
_MODEL = re.compile(r"(?:^|[/\\])model\.py|triton_python_backend|tritonserver")
#: Where in its source an engine wrote a line: "[core.py:591]".
_PLACE = re.compile(r"\[?[\w/\-]{1,120}\.py:\d{1,6}")
#: What a program says that lost, or never had, the server that it talks to.
_CONNECTION = re.compile(
    r"[\w.]{0,120}(?:Connect(?:ion)?\w{0,20}|HTTP\w{0,20}|URL|Timeout|Request\w{0,10}"
    r"|InferenceServer"
    r"|API\w{0,20}|Rpc|RemoteDisconnected|Protocol\w{0,10}|BrokenPipe|Assertion)(?:Error"
    r"|Exception)?\b"
)
_CLIENTS = re.compile(
    r"/tritonclient/|/client/|/openai/_|/requests/|/httpx/|/aiohttp/client|/locust/"
)
#: What follows from a death and does not explain it.
_CONSEQUENCES = re.compile(
    r"EngineDeadError|Engine core initialization failed|See root cause|EngineCore encountered"
    r"|Engine process|WorkerProc initialization failed|CancelledError|BrokenPipeError|EOFError"
    r"|ConnectionResetError|KeyboardInterrupt|SystemExit|Background loop has errored"
    r"|Task finished unexpectedly|already dead"
)


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
    topic: Topic | None  # that the words are of; None: a stack
    topics: frozenset[Topic]  # of everything that the log says about deaths
    words: tuple[str, ...]  # the decisive ones
    line: int
    count: int  # how many deaths the log tells of
    restarted: bool = False  # a model's process died, and the server started another
    starting: bool = False  # it did not come up
    reason: str | None = None  # the error that the log gives for it


def find_death(scan: Scan) -> Death | None:
    """The death to describe."""
    crash = decisive(_of_dead_processes(scan))
    if crash is not None:
        return Death(
            process=_process_of(crash, scan),
            signal=crash.signal,
            backtrace=crash,
            topic=None,
            topics=scan.topics,
            words=crash.messages,
            line=crash.line,
            count=_count(scan.backtraces),
        )
    for topic in _TOLD:
        if notices := [n for n in scan.notices.get(topic, []) if n.fatal and _is_told(n, scan)]:
            return _of_words(topic, notices, scan)
    return _of_exception(scan)


def _of_dead_processes(scan: Scan) -> list[Backtrace]:
    """Without the bare stacks of processes that somebody only looked into."""
    if Topic.DEBUGGER not in scan.topics or Topic.CORE in scan.topics:
        return scan.backtraces
    return [b for b in scan.backtraces if b.shape is not Shape.GDB or b.signal is not None]


def _is_told(notice: Notice, scan: Scan) -> bool:
    """Not by a frame of a process that somebody only looked into or interrupted, nor by the
    exception of a call that an engine only reports to its caller.
    """
    if 'File "' not in notice.text and "Traceback (most" not in notice.text:
        return True
    place = _PLACE.match(notice.text)
    if place and any(place[0] in n.text for n in scan.notices.get(Topic.CONTINUES, [])):
        return False
    return not {Topic.DEBUGGER, Topic.INTERRUPT} & scan.topics and not any(
        text.startswith("KeyboardInterrupt") for _, text in scan.raised
    )


def _restarted(notices: list[Notice]) -> bool:
    """Whether the last that is said of a stub is that it is started again; what its open requests
    were told stands just before or after that line.
    """
    last = max((n.line for n in notices if n.restarted), default=None)
    return last is not None and all(n.line - last <= GAP for n in notices)


def _of_words(topic: Topic, notices: list[Notice], scan: Scan) -> Death:
    told = next((n for n in notices if n.subject is not Subject.UNKNOWN), notices[0])
    signal = next((n.signal for n in notices if n.signal is not None), None)
    started = Topic.START in scan.topics
    process = Process(told.subject.value)
    if process is Process.UNKNOWN and topic is Topic.START:  # a loader names the program
        process = Process(subject_of(told.text.partition(": ")[0]).value)
    if process is Process.UNKNOWN:
        process = _process_named(scan)
    if process is Process.UNKNOWN and scan.engine and told.text.startswith("[rank"):
        process = Process.ENGINE
    return Death(
        process=process,
        signal=signal,
        backtrace=None,
        topic=topic,
        topics=scan.topics,
        words=(told.text,),
        line=notices[0].line,
        count=1,
        restarted=topic is Topic.STUB and _restarted(notices),
        starting=started and topic in (Topic.START, Topic.ENGINE, Topic.EXIT),
        reason=root_cause(scan.raised),
    )


def _process_named(scan: Scan) -> Process:
    """The process that a core dump or the kernel names, if it is one."""
    named = {
        notice.subject
        for topic in (Topic.CORE, Topic.SIGNAL, Topic.OUT_OF_MEMORY)
        for notice in scan.notices.get(topic, [])
    } - {Subject.UNKNOWN}
    if len(named) == 1:
        return Process(named.pop().value)
    return Process.ENGINE if _tells_of_engine(scan) and not named else Process.UNKNOWN


def _tells_of_engine(scan: Scan) -> bool:
    starts = scan.notices.get(Topic.START, [])
    return Topic.ENGINE in scan.topics or any(
        scan.engine or notice.subject is Subject.ENGINE for notice in starts
    )


def _of_exception(scan: Scan) -> Death | None:
    """A server's program that ended with an exception nobody caught."""
    if Topic.INTERRUPT in scan.topics:
        return None
    for backtrace in reversed(scan.backtraces):
        if backtrace.shape is not Shape.PYTHON or backtrace.quoted or backtrace.caught:
            continue
        if _TYPED.match(backtrace.frames[-1].source or ""):
            continue
        sources = [(frame.source or "").replace("\\", "/") for frame in backtrace.frames]
        raised = backtrace.messages or ("a Python exception",)
        ended = any(frame.symbol in _PROGRAM for frame in backtrace.frames[-3:])
        ours = any(_SERVERS.search(source) for source in sources) or (
            backtrace.frames[-1].symbol == "<module>" and not _CONNECTION.match(raised[0])
            if backtrace.messages
            else any(map(_LAUNCHERS.search, sources)) or _is_a_programs(backtrace)
        )
        if (
            ended
            and ours
            and not any(_CLIENTS.search(source) for source in sources)
            and not re.match(r"(?:KeyboardInterrupt|SystemExit)", raised[0])
        ):
            engine = any(
                not _TENSORRT.search(source) and _SERVERS.search(source) for source in sources
            )
            return Death(
                process=Process.ENGINE if engine else Process.SERVER,
                signal=None,
                backtrace=None,
                topic=Topic.ENGINE if engine else Topic.START,
                topics=scan.topics,
                words=raised,
                line=backtrace.line,
                count=1,
                starting=True,
                reason=root_cause(scan.raised) or raised[0],
            )
    return None


def _is_a_programs(backtrace: Backtrace) -> bool:
    """Whether a cut traceback begins in a program's own file; a command may be a client's."""
    first = backtrace.frames[-1]
    return (
        first.symbol == "<module>"
        and ".py:" in (first.source or "")
        and len({frame.source for frame in backtrace.frames}) > 1
    )


def root_cause(raised: Sequence[tuple[int, str]]) -> str | None:
    """The first of the errors of a log that is no mere consequence of another."""
    return next((text for _, text in raised if not _CONSEQUENCES.search(text)), None)


def _process_of(crash: Backtrace, scan: Scan) -> Process:
    if crash.shape is Shape.TRITON:
        return Process.SERVER
    named = _process_named(scan)
    if named is Process.STUB:
        return named
    if crash.shape is Shape.FAULTHANDLER:
        if _runs_engine(scan):
            return Process.ENGINE
        return Process.STUB if _runs_model(scan) else named
    modules = " ".join(frame.module or "" for frame in fault_frames(crash))
    symbols = " ".join(frame.symbol or "" for frame in crash.frames)
    if "triton_python_backend_stub" in modules or "python::Stub::" in symbols:
        return Process.STUB
    if "triton" in modules or "triton::" in symbols or "tensorrt_llm" in symbols:
        return Process.SERVER
    if Topic.ENGINE in scan.topics or Topic.START in scan.topics or scan.engine:
        return Process.ENGINE
    return named


def _runs_engine(scan: Scan) -> bool:
    return scan.engine or any(
        "/vllm/" in (frame.source or "") for b in scan.backtraces for frame in b.frames
    )


def _runs_model(scan: Scan) -> bool:
    """Whether a Python model of Triton's is on a stack, or Triton wrote into the log."""
    return bool(scan.stated) or any(
        _MODEL.search(frame.source or "") for b in scan.backtraces for frame in b.frames
    )


def _count(backtraces: list[Backtrace]) -> int:
    """Deaths told of; what lies close together is one, printed by several."""
    lines = sorted(b.line for b in backtraces if is_death(b))
    return sum(1 for at, line in enumerate(lines) if at == 0 or line - lines[at - 1] > GAP)
