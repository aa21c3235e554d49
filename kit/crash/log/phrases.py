"""The phrases by which logs tell of a death, as a table; reading it is `kit.crash.log.notices`.

A phrase holds a literal that the line must have (tried first, it is fast), a pattern, the topic,
whether the process cannot live on after it, whose process it is, and the signal where the
pattern does not capture one (`signal`, or `status` for an exit status of 128 + signal).

Logs quote, too: what a user asked, what a manual says. So what a dying process or its supervisor
prints has to stand where they print it, see `Where`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Subject(StrEnum):
    """Which process a phrase speaks of."""

    SERVER = "server"
    STUB = "stub"
    ENGINE = "engine"
    UNKNOWN = "unknown"  # the line does not say; a stack beside it may


class Topic(StrEnum):
    SIGNAL = "signal"  # a process got a signal
    STOP = "stop"  # SIGTERM or SIGINT: somebody stopped the server
    EXCEPTION = "exception"  # C++ exception that nobody caught
    HEAP = "heap"  # glibc found the heap damaged
    ASSERTION = "assertion"
    OUT_OF_MEMORY = "out_of_memory"  # the kernel or the container's limit killed a process
    GPU_MEMORY = "gpu_memory"  # CUDA had none left; the process decides what to do about it
    CUDA = "cuda"  # the GPU faulted
    NCCL = "nccl"
    ENGINE = "engine"  # vLLM's engine gave up
    STUB = "stub"  # a Python model's process is gone
    SERVER_GONE = "server_gone"  # what others say when tritonserver went without a word
    EXIT = "exit"  # an exit status that somebody printed


class Where(StrEnum):
    """Where in its line a phrase counts."""

    ANYWHERE = "anywhere"
    START = "start"  # first, behind what loggers put before a message
    PRINTED = "printed"  # the same, or right behind what another thread was just printing
    ERROR = "error"  # first, or behind the names of errors


@dataclass(frozen=True, slots=True)
class Phrase:
    needle: str
    pattern: re.Pattern[str]
    topic: Topic
    where: Where
    fatal: bool
    subject: Subject
    signal: int | None
    restarted: bool

    def find(self, line: str) -> re.Match[str] | None:
        """The phrase in a line that has its needle, where it counts."""
        if self.where is Where.ANYWHERE:
            return self.pattern.search(line)
        begin = _end_of(_LOGGER, line, 0)
        if self.where is Where.ERROR:
            begin = _end_of(_ERRORS, line, begin)
        if found := self.pattern.match(line, begin):
            return found
        if self.where is Where.PRINTED:
            at = line.find(self.needle, begin + 1)
            if at > 0 and _GLUED.match(line[at - 2 : at].rjust(2)):
                return self.pattern.match(line, at)
        return None


def _p(
    topic: Topic,
    needle: str,
    pattern: str,
    *,
    fatal: bool = True,
    at: Where = Where.ANYWHERE,
    of: Subject = Subject.UNKNOWN,
    signal: int | None = None,
    restarted: bool = False,
) -> Phrase:
    return Phrase(needle, re.compile(pattern), topic, at, fatal, of, signal, restarted)


def _end_of(prefix: re.Pattern[str], line: str, begin: int) -> int:
    found = prefix.match(line, begin)
    return found.end() if found else begin


#: What loggers, shells and container engines put before a message. Nothing that was taken is
#: given back, so that reading stays linear.
_LOGGER = re.compile(
    r"\s*+(?>(?:"
    r"(?:[A-Z][a-z]{2} {1,2}\d{1,2} [\d:.]{8,20}|\d{4}-\d\d-\d\dT\S{8,26})"  # a journal
    r" [\w.\-]{1,64} [\w./()@\-]{1,64}(?:\[\d{1,8}\])?:"
    r"|\[[^\[\]]{0,100}\](?:<std\w{3}>)?:?"  # [host:123], [1,0]<stderr>:, [async_llm.py:485]
    r"|\([^()]{1,80}\):?"  # (EngineCore_DP0 pid=12)
    r"|[\w.\-]{1,80} {0,40}\|"  # of a compose file: triton-1  |
    r"|[IWEFD]?\d[\d:.,TZ+/\-]{0,40}(?![\w.:])"  # dates, times, thread numbers
    r"|std(?:out|err)(?: [FP])?(?!\w)"  # kubernetes
    r"|(?:DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)(?!\w):?(?:[\w.]{1,60}:)?"
    r"|[\w./\-]{1,80}\.\w{1,4}:\d{1,6}(?:\]|:(?= ))"  # grpc_server.cc:2513]
    r"|[\w.\-]{1,64}\[\d{1,8}\]:"
    r"|[>|│┃*\-](?=\s)"  # quoted, or in a table
    r")\s*+){0,16}+"
)
#: What Python and Triton put before the words of an error.
_ERRORS = re.compile(
    r"(?>(?:[\w.]{1,120}(?:Error|Exception)(?:\([\w.]{1,60}\))?:|message:"
    r"|Error generating stream:|Failed to process the request\(s\)[^,]{0,160}, message:"
    r"|\[StatusCode\.\w{1,40}\]|\{\"error\": ?\"|ray:)\s*+){0,6}+"
)
#: Two threads print into one line without a blank; "\n" within a line is a quoted line end.
_GLUED = re.compile(r"(?!\\n).[\w.!?]", re.DOTALL)


_WORDS = "Segmentation fault|Aborted|Bus error|Illegal instruction|Floating point exception"
#: What the kernel calls the processes behind a model: at most 15 characters of the name.
_STUB_NAMES = r"(?:triton_python_b|python|VLLM|VllmWorker|ray::)[\w:.]{0,12}"
#: glibc's words for a damaged heap; one pattern, found through several literals.
_HEAP = (
    r"(?:\*\*\* Error in .{1,120}: |[\w./\-]{1,80}: (?=malloc\.c))?"
    r"(?:free\(\): (?:invalid|double free|too many chunks|unaligned)"
    r"|double free or corruption"
    r"|malloc\(\): (?:corrupted|invalid|unaligned|mismatching|unsorted|memory corruption"
    r"|smallbin|largebin)"
    r"|malloc_consolidate\(\): (?:invalid|unaligned)|realloc\(\): (?:invalid|unaligned)"
    r"|corrupted (?:size vs\. prev_size|double-linked list)|munmap_chunk\(\): invalid"
    r"|\*\*\* (?:stack smashing|buffer overflow) detected|malloc\.c:\d{1,6}: ).{0,120}"
)
_HEAP_NEEDLES = ("free()", "double free", "malloc", "realloc()", "corrupted ", "munmap_chunk",
                 "detected ***")  # fmt: skip
_EXIT = (
    r"(?:\"?(?:Last State: {1,20}Terminated, )?[Ee]xit ?[Cc]ode\"?:\s{0,20}"  # of kubectl, docker
    r"|(?:\S{1,200} ){1,3}exited with (?:exit )?(?:code|status):? "
    r"|(?:[\w.]{1,80}: )?(?:Command .{1,600}|\S{1,80}) returned non-zero exit status "
    r"|.{0,200}\b(?:command|container) terminated with exit code )(?P<status>13[0-9]|143)\b"
)

# fmt: off
PHRASES: tuple[Phrase, ...] = (
    _p(Topic.SIGNAL, "Signal (",
       r"Signal \((?P<signal>\d{1,2})\) received\.?\s{0,8}(?:$|Signal|\d{1,2}# )",
       at=Where.PRINTED),
    _p(Topic.SIGNAL, "Signal: ", r"Signal: [\w ]{3,40}\((?P<signal>\d{1,2})\)", at=Where.PRINTED),
    _p(Topic.SIGNAL, "Caught signal", r"Caught signal (?P<signal>\d{1,2}) \(", at=Where.PRINTED),
    _p(Topic.SIGNAL, "signal SIG",
       r"(?:(?:Program|Process|Thread|Child|Worker)\b.{0,120}? )?"
       r"(?:received|terminated with|died with) signal (?P<signal>SIG[A-Z]{2,6})", at=Where.START),
    _p(Topic.SIGNAL, "*** SIG", r"\*\*\* (?P<signal>SIG[A-Z]{2,6}) received at time=",
       at=Where.PRINTED),
    _p(Topic.SIGNAL, "Fatal Python error",
       rf"Fatal Python error: (?P<signal>{_WORDS})?.{{0,80}}", at=Where.PRINTED, of=Subject.STUB),
    _p(Topic.SIGNAL, " dumped)",
       r"(?:[\w./\-]{1,200}: (?:line \d{1,6}: +\d{1,8} +)?)?"
       rf"(?P<signal>{_WORDS}|segmentation fault) +\(core dumped\)", at=Where.START),
    _p(Topic.SIGNAL, ": line ",
       rf"[\w./\- ]{{1,200}}: line \d{{1,6}}: +\d{{1,8}} (?P<signal>{_WORDS}|Killed)\b",
       at=Where.START),
    _p(Topic.SIGNAL, "Killed", r"^\s{0,8}(?P<signal>Killed)$"),
    _p(Topic.SIGNAL, "<Signals.", r"died with <Signals\.(?P<signal>SIG[A-Z]{2,6}): \d{1,2}>"),
    _p(Topic.SIGNAL, "status=", r"code=(?:dumped|killed), status=(?P<signal>\d{1,2})/\w{2,6}"),
    _p(Topic.SIGNAL, "on signal", r"exited on signal (?P<signal>\d{1,2})\b.{0,40}"),
    _p(Topic.SIGNAL, "]: segfault at", r"tritonserver\[\d{1,8}\]: segfault at .{0,80}",
       of=Subject.SERVER, signal=11),
    _p(Topic.SIGNAL, "]: segfault at", r"triton_python_b\w{0,20}\[\d{1,8}\]: segfault at .{0,80}",
       of=Subject.STUB, signal=11),
    _p(Topic.EXCEPTION, "terminate called",
       r"terminate called (?:after throwing an instance of|without an active|recursively).{0,200}",
       at=Where.PRINTED, signal=6),
    _p(Topic.EXCEPTION, "what():", r"\bwhat\(\):.{0,250}", fatal=False),
    *(_p(Topic.HEAP, needle, _HEAP, at=Where.PRINTED, signal=6) for needle in _HEAP_NEEDLES),
    _p(Topic.ASSERTION, "ASSERTION FAILED", r"ASSERTION FAILED: .{0,120}",
       at=Where.PRINTED, of=Subject.SERVER, signal=6),
    _p(Topic.ASSERTION, "Assertion `", r"Assertion `.{1,200}' failed", signal=6),
    _p(Topic.ASSERTION, "Check failed:", r"\bF\d{4} .{0,120}Check failed: .{0,120}", signal=6),
    _p(Topic.OUT_OF_MEMORY, "of memory: Kill",
       r"of memory: Kill(?:ed)? process \d{1,8} \(tritonserver\).{0,80}",
       of=Subject.SERVER, signal=9),
    _p(Topic.OUT_OF_MEMORY, "of memory: Kill",
       rf"of memory: Kill(?:ed)? process \d{{1,8}} \({_STUB_NAMES}\).{{0,80}}",
       of=Subject.STUB, signal=9),
    _p(Topic.OUT_OF_MEMORY, "oom-kill:",
       r"oom-kill:constraint=.{0,600}task=tritonserver\b", of=Subject.SERVER, signal=9),
    _p(Topic.OUT_OF_MEMORY, "oom-kill:",
       rf"oom-kill:constraint=.{{0,600}}task={_STUB_NAMES}", of=Subject.STUB, signal=9),
    _p(Topic.OUT_OF_MEMORY, "OOMKilled",
       r"(?:[Rr]eason\"?:\s{0,20}\"?OOMKilled|\"OOMKilled\":\s{0,4}true|^\s{0,20}OOMKilled\b)",
       signal=9),
    _p(Topic.OUT_OF_MEMORY, "oom-kill'", r"Failed with result 'oom-kill'", signal=9),
    _p(Topic.GPU_MEMORY, "ut of memory", r"CUDA (?:error: )?out of memory.{0,160}", fatal=False),
    _p(Topic.GPU_MEMORY, "OutOfMemoryError", r"torch\.(?:cuda\.)?OutOfMemoryError.{0,160}",
       fatal=False),
    _p(Topic.CUDA, "illegal memory access", r"illegal memory access was encountered.{0,80}",
       fatal=False),
    _p(Topic.CUDA, "device-side assert", r"device-side assert triggered.{0,80}", fatal=False),
    _p(Topic.CUDA, "CUDA error: ", r"CUDA error: (?!out of memory).{1,160}", fatal=False),
    _p(Topic.CUDA, "cudaError", r"cudaError(?:IllegalAddress|LaunchFailure|Assert|ECC).{0,80}",
       fatal=False),
    _p(Topic.CUDA, "Xid (", r"NVRM: Xid \(.{0,160}", fatal=False),
    _p(Topic.NCCL, "NCCL", r"NCCL (?:error|watchdog thread terminated).{0,160}", fatal=False),
    _p(Topic.NCCL, "nccl", r"nccl(?:UnhandledCuda|System|Internal|Remote)Error.{0,160}",
       fatal=False),
    _p(Topic.NCCL, "Watchdog caught", r"Watchdog caught collective operation timeout.{0,160}",
       fatal=False),
    _p(Topic.ENGINE, "DeadError",
       r"(?:message: |Error generating stream: )?(?:raise )?(?:[\w.]{1,120}\.)?"
       r"(?:Async|MQ)?EngineDeadError\b.{0,120}", at=Where.START, of=Subject.ENGINE),
    _p(Topic.ENGINE, "EngineCore encountered",
       r"EngineCore encountered (?:a fatal error|an issue).{0,80}", at=Where.ERROR,
       of=Subject.ENGINE),
    _p(Topic.ENGINE, "died unexpectedly",
       r"(?:Engine core proc|Worker proc) \S{1,60} died unexpectedly.{0,60}", at=Where.ERROR,
       of=Subject.ENGINE),
    _p(Topic.ENGINE, " died, exit code",
       r"Worker \S{1,60} pid \d{1,8} died, exit code: -?\d{1,3}", at=Where.ERROR,
       of=Subject.ENGINE),
    _p(Topic.ENGINE, "orker died", r"(?:A )?[Ww]orker died or was killed while executing .{0,80}",
       at=Where.ERROR, of=Subject.ENGINE),
    _p(Topic.ENGINE, "Engine background task", r"Engine background task failed",
       at=Where.ERROR, of=Subject.ENGINE),
    _p(Topic.ENGINE, "Background loop",
       r"Background loop (?:has errored already|is stopped|is not running)", at=Where.ERROR,
       of=Subject.ENGINE),
    _p(Topic.ENGINE, "unhealthy vLLM", r"Model is unavailable due to unhealthy vLLM engine",
       at=Where.ERROR, of=Subject.ENGINE),
    _p(Topic.ENGINE, "Engine is not healthy",
       r"(?:VLLM |vLLM )?Engine is not healthy and model will be unloaded", at=Where.ERROR,
       of=Subject.ENGINE),
    _p(Topic.STUB, "it will be restarted",
       r"Stub process .{0,120}is unhealthy and it will be restarted", of=Subject.STUB,
       restarted=True),
    _p(Topic.STUB, "Stub process",
       r"Stub process .{0,120}?(?:is not healthy|is unhealthy(?! and it will be restarted)).{0,60}",
       of=Subject.STUB),
    _p(Topic.STUB, "<defunct>", r"triton_python_b\w{0,20}\]? <defunct>", of=Subject.STUB),
    _p(Topic.SERVER_GONE, "Non-graceful", r"Non-graceful termination detected",
       of=Subject.SERVER),
    _p(Topic.EXIT, "xit", _EXIT, at=Where.START),
)
# fmt: on
