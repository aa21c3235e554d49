"""What a log's server is: dead, not come up, hanging, without its GPU or its model, or well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kit.crash.death import Death, root_cause
from kit.crash.log.phrases import Topic
from kit.crash.log.scan import Scan
from kit.crash.log.shapes import Shape
from kit.crash.stack.site import stands_still


class State(StrEnum):
    DIED = "died"
    FAILED_TO_START = "failed to start"
    KILLED = "killed from outside"
    HANGS = "hangs"
    CONTEXT_LOST = "CUDA context lost"
    NO_MODEL = "model not loaded"
    NO_DEATH = "no death"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A state, with the words of the log that say why."""

    state: State
    reason: str | None = None
    line: int | None = None


def of_dead(death: Death) -> Condition:
    """How a server ended."""
    if death.starting:
        state = State.FAILED_TO_START
    elif death.topic is Topic.KILLED:
        state = State.KILLED
    else:
        state = State.DIED
    words = death.words[0] if death.words else None
    return Condition(state=state, reason=death.reason or words, line=death.line)


def of_living(scan: Scan) -> Condition:
    """What a server suffers from that no line says died."""
    faults = [n for n in scan.notices.get(Topic.CUDA, []) if "Xid" not in n.text]
    if faults:
        return Condition(
            state=State.CONTEXT_LOST, reason=faults[0].text.rstrip(" ("), line=faults[0].line
        )
    if still := _stands_still(scan):
        return still
    if waits := scan.notices.get(Topic.HANG):
        return Condition(state=State.HANGS, reason=waits[0].text, line=waits[0].line)
    if failed := scan.notices.get(Topic.MODEL):
        told = next((n for n in failed if n.reason), failed[0])
        reason = told.reason or root_cause(scan.raised) or told.text
        return Condition(state=State.NO_MODEL, reason=reason.strip(), line=told.line)
    return Condition(state=State.NO_DEATH)


def _stands_still(scan: Scan) -> Condition | None:
    """Stacks of threads that wait, as a debugger shows them of a living process."""
    looked_into = Topic.DEBUGGER in scan.topics
    for backtrace in scan.backtraces:
        bare = backtrace.shape is Shape.GDB and backtrace.signal is None
        if bare and len(backtrace.frames) > 1 and (looked_into or stands_still(backtrace)):
            names = [frame.symbol for frame in backtrace.frames if frame.symbol]
            return Condition(
                state=State.HANGS,
                reason=f"a thread waits in {names[0]}" if names else "a thread waits",
                line=backtrace.line,
            )
    return None
