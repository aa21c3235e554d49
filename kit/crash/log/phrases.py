"""What a phrase is by which logs tell of a death; the tables of them are in `wording` and
`engine_wording`, reading them is `kit.crash.log.notices`.

A phrase holds literals of which the line must have one (tried first, they are fast), a pattern,
the topic, whether the process cannot live on after it, whose process it is, and the signal where
the pattern does not capture one (`signal`, `status` for an exit status as a shell or Python gives
it, `name` of the process).

Logs quote, too: what a user asked, what a manual says. So what a dying process or its supervisor
prints has to stand where they print it, see `Where`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kit.crash.log.prose import can_lead, goes_on_as_prose, is_persons, names_a_process


class Subject(StrEnum):
    """Which process a phrase speaks of."""

    SERVER = "server"
    STUB = "stub"
    ENGINE = "engine"
    UNKNOWN = "unknown"  # the line does not say; a stack beside it may


class Topic(StrEnum):
    SIGNAL = "signal"  # a process got a signal
    STOP = "stop"  # SIGTERM or SIGINT: somebody stopped the server
    INTERRUPT = "interrupt"  # somebody pressed Ctrl-C
    EXCEPTION = "exception"  # C++ exception that nobody caught
    HEAP = "heap"  # glibc found the heap damaged
    ASSERTION = "assertion"
    CORE = "core"  # a core dump was written, or is being read
    DEBUGGER = "debugger"  # somebody looked into a living process
    SANITIZER = "sanitizer"
    OUT_OF_MEMORY = "out_of_memory"  # the kernel, Ray or the container's limit killed a process
    GPU_MEMORY = "gpu_memory"  # CUDA had none left; the process decides what to do about it
    CUDA = "cuda"  # the GPU faulted
    CONTINUES = "continues"  # after a fault the process says that it goes on
    NCCL = "nccl"
    ENGINE = "engine"  # vLLM's engine gave up
    START = "start"  # a server or an engine did not come up
    STUB = "stub"  # a Python model's process is gone
    SERVER_GONE = "server_gone"  # what others say when tritonserver went without a word
    KILLED = "killed"  # a supervisor ended it: a probe failed, the node was full
    EXIT = "exit"  # an exit status that somebody printed
    ENDED = "ended"  # somebody says that a process is gone
    HANG = "hang"  # something waits and waits
    MODEL = "model"  # a model could not be loaded


class Where(StrEnum):
    """Where in its line a phrase counts."""

    ANYWHERE = "anywhere"  # only of what is no death by itself
    RECORD = "record"  # first, or behind a label, a column or an error's name of the same record
    START = "start"  # first, behind what loggers put before a message
    PRINTED = "printed"  # the same, or right behind what another thread was just printing
    ERROR = "error"  # first, or behind the names of errors


@dataclass(frozen=True, slots=True)
class Phrase:
    needles: tuple[str, ...]
    guard: re.Pattern[str] | None  # something else that the line must have, faster than `pattern`
    pattern: re.Pattern[str]
    core: re.Pattern[str]  # without what may stand behind the words that count
    topic: Topic
    where: Where
    fatal: bool
    subject: Subject
    signal: int | None
    restarted: bool

    def find(self, line: str, starts: Sequence[int]) -> re.Match[str] | None:
        """The phrase in a line that has one of its needles, where it counts.

        starts: where the line's message may begin.
        """
        if not self.fatal and self.where is Where.ANYWHERE:
            return self.pattern.search(line)
        for found in self._placed(line, starts):
            if (who := found.groupdict().get("who")) and not names_a_process(who):
                continue
            core = self.core.match(line, found.start())
            begin, end = found.start(), core.end() if core else found.end()
            if not self.fatal or not goes_on_as_prose(line[:begin], line[begin:end], line[end:]):
                return found
        return None

    def _placed(self, line: str, starts: Sequence[int]) -> Iterator[re.Match[str]]:
        """Where the phrase may count, as far as what stands before it tells."""
        if self.where is Where.RECORD:
            first = (self.pattern.match(line, start) for start in starts)
            for match in (*filter(None, first), *self.pattern.finditer(line)):
                begin = match.start()
                last = max((start for start in starts if start <= begin), default=0)
                rest = line[_end_of_errors(line, last) : begin] if begin > last else ""
                if can_lead(rest):
                    yield match
            return
        for start in starts:
            if found := self.pattern.match(line, start):
                yield found
            begin = _end_of_errors(line, start) if self.where is Where.ERROR else start
            if begin > start and (found := self.pattern.match(line, begin)):
                yield found
        for needle in self.needles if self.where is Where.PRINTED else ():
            at = line.find(needle, starts[0] + 1)
            glued = at > 0 and _GLUED.match(line[at - 2 : at].rjust(2))
            if glued and not is_persons(line[:at]) and (found := self.pattern.match(line, at)):
                yield found


def phrase(
    topic: Topic,
    needles: str | tuple[str, ...],
    pattern: str,
    *,
    guard: str | None = None,
    fatal: bool = True,
    at: Where | None = None,
    of: Subject = Subject.UNKNOWN,
    signal: int | None = None,
    restarted: bool = False,
) -> Phrase:
    return Phrase(
        (needles,) if isinstance(needles, str) else needles,
        re.compile(guard) if guard else None,
        re.compile(pattern),
        re.compile(_OPEN_END.sub("", pattern)),
        topic,
        at or (Where.RECORD if fatal else Where.ANYWHERE),
        fatal,
        of,
        signal,
        restarted,
    )


#: "Whatever follows", at the end of a pattern or of one of its branches.
_OPEN_END = re.compile(r"\.\{[01],\d+\}(?=$|\||\)$)")


def _end_of_errors(line: str, begin: int) -> int:
    found = _ERRORS.match(line, begin)
    return found.end() if found else begin


#: What Python, Ray and Triton put before the words of an error.
_ERRORS = re.compile(
    r"(?>(?:[\w.]{1,120}(?:Error|Exception)(?:\([\w.]{1,60}\))?(?::|\([\"'])"
    r"|[Mm]essage: ?[\"']?|raise |Reason: |Exception raised in creation task: "
    r"|Error: |Error generating stream:|Failed to process the request\(s\)[^,]{0,160}, message:"
    r"|\[(?:StatusCode\.\w{1,40}|[45]\d\d)\]|\{\"error\": ?\"|ray:|UNAVAILABLE:|Internal:|- "
    r"|error: |[Ff]ailed to load '[^']{1,200}' version \S{1,20}:|Exception(?: in \w+)?:)\s*+){0,6}+"
)
#: Two threads print into one line without a blank; "\n" within a line is a quoted line end.
_GLUED = re.compile(r"(?!\\n).[\w.!?]", re.DOTALL)


def subject_of(name: str) -> Subject:
    """Which process has this name or command, as the kernel or a supervisor gives it."""
    if "triton_python_b" in name:
        return Subject.STUB
    if re.search(r"(?i)vllm|enginecore|sglang|ray::|raylet|pt_main_thread|lmdeploy", name):
        return Subject.ENGINE
    if "triton" in name:
        return Subject.SERVER
    return Subject.UNKNOWN


def is_servers(name: str) -> bool:
    """Whether a process of this name can be one of a model server's at all."""
    return subject_of(name) is not Subject.UNKNOWN or re.search(
        r"(?i)^(?:\S*/)?(?:python|mpirun|mpi|pt_|uvicorn|gunicorn|cuda|java|trtllm|gpt|worker"
        r"|infer|model|server|bash|sh\b|entrypoint|start|launch|run|tini|dumb-init|node_?\d"
        r"|tensorflow|torch|llama|ollama)|[\w.]+[_\-](?:model|serv|infer)", name
    ) is not None  # fmt: skip
