"""Decides a trial's verdict from its evidence, with one sentence that gives the reason.

The rules in their order; the first that fits decides.

1.  The server ended by a fault signal (SEGV, ABRT, BUS, ...; -11 and 139 alike) before we asked
    it to stop: CRASHED, also when its last request had just ended, and also when the trial was
    interrupted meanwhile.
2.  Interrupted from outside: INTERRUPTED.
3.  The server was killed (SIGKILL, -9, 137) and there is evidence of a shortage of memory:
    OUT_OF_MEMORY. Killed without such evidence and not by us: INTERRUPTED, since no process
    kills itself that way; whoever did it said nothing about the traffic.
4.  The server was asked to end by others (SIGTERM, SIGINT): INTERRUPTED. Triton then ends with 0,
    or with 1 where its models took too long to unload. It may also die of a fault signal while it
    shuts down: INTERRUPTED too, if its log says both that the signal came and that the shutdown
    had begun. Words about a signal alone are no proof, since models print what clients send.
5.  The server ended by itself with any other status, 0 included, before we stopped it: CRASHED.
6.  It lives, or ended only after we had asked it to. How it then ended says nothing about the
    traffic, so a server that dies of its shutdown is judged by what came before, and the reason
    says how it went:
    a. memory ran out: OUT_OF_MEMORY (of the stub or the engine, the server lives on);
    b. it printed a crash and makes no progress, or answers no more: CRASHED. As process 1 of a
       container Triton outlives its own signal handler; where it goes on to answer, it was a
       signal from outside and the trial goes on to the next rules;
    c. the stub or the engine is dead, or the model is not ready though the server is:
       ENGINE_DIED; likewise when the log says that it died and was restarted;
    d. the load generator failed: CLIENT_FAULT;
    e. requests wait, and for too long no byte of any answer came and none ended: HUNG. Those
       that the client itself keeps open, by a fault that is part of the traffic, do not wait;
    f. to some requests nothing at all ever came, although the client was patient: HUNG, or
       CLIENT_FAULT if the client was itself too late to hear it. A slow answer is no hang;
    g. nothing is known of its process (somebody else's server) and it answers no more:
       ANSWERS_STOPPED; it was never reached: CLIENT_FAULT;
    h. otherwise SURVIVED, also when the trial's time was up while requests still ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from kit.crash.log.backtrace import Backtrace, LogReader
from kit.crash.log.lines import lines_of_text
from kit.crash.log.notices import (
    FAULT_SIGNALS,
    STOP_SIGNALS,
    Notice,
    begins_shutdown,
    signal_name,
)
from kit.crash.log.phrases import Topic
from kit.crash.stack.signature import decisive, signal_of
from kit.crash.stack.site import fault_frames, plain_module
from kit.study.result import Signature, Verdict

_KILLED = 9
_SEGV = 11
#: What Triton's main() returns once it was told to stop; 1: its models took too long to unload.
_STATUS_OF_A_STOP = (0, 1)
_REPORTED_SYMBOL = "TRITONBACKEND_ResponseFactoryIsCancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen of a trial. None = was not looked at, or could not be seen."""

    exit_code: int | None = None  # as subprocess gives it, or a container's; None: still alive
    is_process_seen: bool = True  # False: somebody else's server, known by its answers alone
    stopped_answering: str = ""  # how that showed, "connection refused"; "": it did not
    answering_s: float | None = None  # from the load's start until then
    was_reached: bool = True  # False: every request was refused
    ok: int = 0  # requests that were answered well
    stop_requested: bool = False  # it ended only after we had asked it to
    log: str = ""  # the log's tail
    ended: int = 0  # requests that ran to an end
    open: int = 0  # requests in flight when the server died or the load was stopped
    waiting: int = 0  # of them, those that the client does not keep open on purpose
    gave_up: int = 0  # requests whose clients waited in vain for the whole answer
    unanswered: int = 0  # of them, those to which nothing came in `hang_after_s` or more
    quiet_s: float | None = None  # before the end nothing came for so long, though some waited
    hang_after_s: float = 10.0
    ready: bool | None = None  # /v2/health/ready
    model_ready: bool | None = None
    stub_alive: bool | None = None
    engine_alive: bool | None = None
    load_finished: bool = False  # every request of the workload was sent and ended
    stopped_early: str | None = None  # why the load, by its own rule, sent no more before that
    lost: str = ""  # how the way to the server was lost, before anything was known of its end
    client_error: str | None = None  # what a load worker said when it broke
    later_client_error: str | None = None  # the same of one that broke once the server was dead
    client_limit: str | None = None  # why the load generator was itself the bottleneck
    interrupted: bool = False  # the trial was stopped from outside
    stopped_by: str | None = None  # whose signal ended, stopped or killed a process of the server
    shortage: str | None = None  # what ran out on this machine: space, files
    oom: bool | None = None  # the kernel or the container engine counted an out-of-memory kill


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict by the rules above, and the reason in one sentence.

    Whatever the rules say, a death is the server's own only if the load generator was whole until
    then and nobody else ended, stopped or killed one of its processes. A load worker that breaks
    when the server is dead hides no crash.
    """
    if evidence.lost:
        return Verdict.CLIENT_FAULT, (
            f"The way to the server was lost after {_count(evidence.ended, 'request')} "
            f"({evidence.lost.rstrip('.').replace('. ', '; ')}), so what became of it is not known."
        )
    verdict, reason = _by_the_rules(evidence)
    if verdict in (Verdict.SURVIVED, Verdict.INTERRUPTED, Verdict.CLIENT_FAULT):
        return verdict, reason
    if evidence.client_error is not None:
        said = evidence.client_error.rstrip(".").replace(". ", "; ")
        why = f"The load generator failed ({said}), so what the server did says nothing"
        return Verdict.CLIENT_FAULT, f"{why}: {_continued(reason)}"
    if evidence.stopped_by is not None:
        why = f"A signal from outside ({evidence.stopped_by})"
        return Verdict.INTERRUPTED, f"{why}: {_continued(reason)}"
    if evidence.shortage is not None:
        why = f"This machine had {evidence.shortage}"
        return Verdict.CLIENT_FAULT, f"{why}: {_continued(reason)}"
    if evidence.later_client_error is not None:
        said = evidence.later_client_error.rstrip(".").replace(". ", "; ")
        reason = (
            f"{reason[:-1]}; then the load generator failed ({said}), so its last records may be "
            "missing."
        )
    return verdict, reason


def stop_words(log: str) -> str | None:
    """The words by which a server that shuts down was told to; None: it does not shut down."""
    seen = _Log(log)
    return seen.stop_words if seen.was_shutting_down else None


def _continued(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _by_the_rules(evidence: Evidence) -> tuple[Verdict, str]:
    log = _Log(evidence.log)
    number = signal_of(evidence.exit_code)
    after = f"after {_count(evidence.ended, 'request')}"
    stopped = evidence.stop_requested or evidence.exit_code is None
    if number in FAULT_SIGNALS and not evidence.stop_requested:
        if log.was_shutting_down:
            return Verdict.INTERRUPTED, (
                f'Somebody told the server to stop {after} ("{log.stop_words}"); then it died of '
                f"{_name(number)} while it was shutting down."
            )
        return Verdict.CRASHED, _of_fault(evidence, number, after)
    if evidence.interrupted:
        return Verdict.INTERRUPTED, f"The trial was stopped from outside {after}."
    if not stopped:
        return _of_exit(evidence, log, number, after)
    verdict, reason = _of_life(evidence, log, after)
    if number in FAULT_SIGNALS:
        reason = f"{reason[:-1]}; then it died of {_name(number)} while it was shutting down."
    return verdict, reason


def is_reported_crash(signature: Signature | None) -> bool:
    """Whether this is the publicly reported crash (server issue 7332): a segmentation fault in
    the core's cancellation check, called by the Python backend. A stack whose signal is not
    known is taken for it.
    """
    if signature is None or signature.signal not in (_SEGV, None):
        return False
    modules = [plain_module(frame.module) for frame in signature.frames]
    for at, frame in enumerate(signature.frames[:4]):
        if (frame.symbol or "").startswith(_REPORTED_SYMBOL):
            return modules[at] == "libtritonserver.so" and modules[at + 1 : at + 2] == [
                "libtriton_python.so"
            ]
    return False


class _Log:
    """What the log's tail says about deaths."""

    def __init__(self, text: str) -> None:
        reader = LogReader()
        notices: list[Notice] = []
        shutdowns: list[int] = []
        for number, line in lines_of_text(text):
            notices += reader.feed(line, number)
            if begins_shutdown(line):
                shutdowns.append(number)
        reader.close()
        found = decisive(reader.backtraces)
        self.crash = found if found is not None and _is_servers(found) else None
        self.notices = [n for n in notices if n.fatal]
        stop = next((notice for notice in notices if notice.topic is Topic.STOP), None)
        self.stop_seen = stop is not None
        self.stop_words = stop.text if stop else ""
        before = reader.lines + 1 if self.crash is None else self.crash.line
        self.was_shutting_down = stop is not None and any(
            stop.line < line < before for line in shutdowns
        )

    def first(self, topic: Topic) -> str | None:
        """The first words on a topic."""
        return next((n.text for n in self.notices if n.topic is topic), None)


def _is_servers(backtrace: Backtrace) -> bool:
    """Whether a stack is the server's own; the stub's and the engine's are Python's."""
    fault = fault_frames(backtrace)
    return not any((frame.module or "").startswith("triton_python_backend_stub") for frame in fault)


def _of_fault(evidence: Evidence, number: int | None, after: str) -> str:
    if evidence.load_finished:
        return f"The server died of {_name(number)} just {after}, when all of them had ended."
    in_flight = f" with {evidence.open} in flight" if evidence.open else ""
    return f"The server died of {_name(number)} {after}{in_flight}."


def _of_exit(evidence: Evidence, log: _Log, number: int | None, after: str) -> tuple[Verdict, str]:
    """It ended before we asked it to, and not by a fault signal."""
    if number == _KILLED:
        words = log.first(Topic.OUT_OF_MEMORY)
        if evidence.oom or words:
            said = f' ("{words}")' if words else ""
            return Verdict.OUT_OF_MEMORY, f"The server was killed for want of memory {after}{said}."
        return (
            Verdict.INTERRUPTED,
            f"Somebody killed the server with SIGKILL {after}; nothing shows a want of memory.",
        )
    asked = log.stop_seen and evidence.exit_code in _STATUS_OF_A_STOP
    if number in STOP_SIGNALS or asked or log.was_shutting_down:
        return Verdict.INTERRUPTED, f"Somebody stopped the server with {_name(number)} {after}."
    status = f"status {evidence.exit_code}" if number is None else _name(number)
    return Verdict.CRASHED, f"The server ended by itself with {status} {after}."


def _of_life(evidence: Evidence, log: _Log, after: str) -> tuple[Verdict, str]:
    """It lived until we stopped it, or lives still."""
    words = log.first(Topic.OUT_OF_MEMORY)
    if evidence.oom or words:
        return (
            Verdict.OUT_OF_MEMORY,
            f"A process behind the server was killed for want of memory {after}.",
        )
    silent = _stalled(evidence) or evidence.ready is False or bool(evidence.stopped_answering)
    if log.crash is not None and silent:
        lives = ", though its process lives on" if evidence.is_process_seen else ""
        return (
            Verdict.CRASHED,
            f"The server printed the stack of {_name(log.crash.signal)} and answers no more "
            f"{after}{lives}.",
        )
    dead = _dead_engine(evidence, log)
    if dead:
        return Verdict.ENGINE_DIED, f"The server lives, but {dead} {after}."
    if evidence.client_error is not None:
        said = evidence.client_error.rstrip(".").replace(". ", "; ")
        return (
            Verdict.CLIENT_FAULT,
            f"The load generator failed {after} ({said}); the server lived.",
        )
    return _of_progress(evidence, after)


def _of_answers(evidence: Evidence, after: str) -> tuple[Verdict, str] | None:
    """Of a server that is known by its answers alone; None: they did not stop."""
    silent = evidence.stopped_answering
    if not silent and _stalled(evidence) and not evidence.ready:
        silent = f"nothing came for {evidence.quiet_s:.0f} s"
    if silent:
        at_s = evidence.answering_s
        when = "" if at_s is None else f" {at_s:.1f} s after the load began"
        return (
            Verdict.ANSWERS_STOPPED,
            f"The server stopped answering{when} ({silent}), {after}, {evidence.ok} of them "
            "answered well; nothing is known of its process.",
        )
    if not evidence.was_reached:
        return Verdict.CLIENT_FAULT, "The server was never reached: every request was refused."
    return None


def _of_progress(evidence: Evidence, after: str) -> tuple[Verdict, str]:
    if not evidence.is_process_seen and (found := _of_answers(evidence, after)):
        return found
    says = " although the server says that it is ready" if evidence.ready else ""
    if _stalled(evidence):
        return (
            Verdict.HUNG,
            f"{_count(evidence.waiting, 'request')} stayed open and nothing came for "
            f"{evidence.quiet_s:.0f} s{says}, {after}.",
        )
    if evidence.unanswered:
        silent = f"{evidence.unanswered} of {_count(evidence.ended, 'request')} were never answered"
        if evidence.client_limit is None:
            return Verdict.HUNG, f"{silent}{says}."
        return (
            Verdict.CLIENT_FAULT,
            f"{silent}, but the load generator was itself at its limit ({evidence.client_limit}).",
        )
    if evidence.stopped_early:
        return Verdict.SURVIVED, f"The load stopped early: {evidence.stopped_early}."
    if evidence.load_finished:
        late = f", {evidence.gave_up} of them not answered in time" if evidence.gave_up else ""
        if not evidence.is_process_seen and evidence.ok < evidence.ended:
            late += f", only {evidence.ok} of them answered well"
        return Verdict.SURVIVED, f"All {_count(evidence.ended, 'request')} ended{late}."
    return Verdict.SURVIVED, f"The server lived until the trial's time was up, {after}."


def _dead_engine(evidence: Evidence, log: _Log) -> str | None:
    if evidence.stub_alive is False:
        return "the model's stub process is dead"
    if evidence.engine_alive is False:
        return "the engine's process is dead"
    words = log.first(Topic.STUB) or log.first(Topic.ENGINE)
    if words:
        return f'its log says "{words}"'
    if evidence.model_ready is False and evidence.ready:
        return "the model is not ready"
    return None


def _stalled(evidence: Evidence) -> bool:
    quiet = evidence.quiet_s
    return evidence.waiting > 0 and quiet is not None and quiet >= evidence.hang_after_s


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _name(number: int | None) -> str:
    return "a signal" if number is None else signal_name(number)
