"""Writes the sentences of a diagnosis for people: what the crash is, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kit.crash.catalog import Crash, free_releases
from kit.crash.component import Component
from kit.crash.death import Death, Process
from kit.crash.known_causes import known_advice
from kit.crash.log.notices import Notice, signal_name
from kit.crash.log.phrases import Topic
from kit.crash.match import Match, best_of
from kit.crash.origin import Origin
from kit.crash.stack.site import was_waiting
from kit.crash.state import Condition, State

_GENERAL: dict[Component, str] = {
    Component.HTTP_FRONTEND: "Try the same traffic over gRPC, and find out whether clients hang up "
    "during an answer: that is what the HTTP frontend has died of before.",
    Component.GRPC_FRONTEND: "Try the same traffic over HTTP, and without cancellations, deadlines "
    "and retries: those are what the gRPC frontend has died of before.",
    Component.CORE: "Run the same traffic on the newest release; if it dies too, report the stack "
    "with the model's configuration.",
    Component.PYTHON_BACKEND: "Look at what the Python models do then: cancellation checks, "
    "calls to other models, large tensors; then try one request at a time and one instance.",
    Component.PYTHON_STUB: "The model's own process died, so look at the model's code and the "
    "libraries that it loads; the server will not restart it.",
    Component.VLLM_ENGINE: "The cause stands above the first such line of the log: an exception, a "
    "timeout or a CUDA error. Triton lives on without its model and has to be restarted.",
    Component.TENSORRTLLM_BACKEND: "Check that engine, TensorRT-LLM and backend have the same "
    "version, and rebuild the engine if not.",
    Component.CUDA: "Look into the kernel's log for NVRM Xid lines, run once with "
    "CUDA_LAUNCH_BLOCKING=1 to find the kernel that faults, and restart the process: after such an "
    "error the GPU's context is lost.",
    Component.OUT_OF_MEMORY: "Give the process more memory or let it use less: fewer concurrent "
    "requests, shorter inputs, for vLLM a lower gpu_memory_utilization, for containers a higher "
    "limit and --shm-size.",
    Component.LIBC_ABORT: "The heap was damaged before it was noticed, so the stack "
    "shows the victim. Look for a crash of another shape in earlier logs, or run with "
    "MALLOC_CHECK_=3 or AddressSanitizer.",
    Component.OTHER: "Keep the whole log and a memory map of the running server "
    '(/proc/PID/maps); with a core dump, gdb\'s "bt" shows the functions.',
}
#: Where a crash is that no entry of the catalog explains; the others say nothing of a place.
_PLACES: dict[Component, str] = {
    Component.HTTP_FRONTEND: "the HTTP frontend",
    Component.GRPC_FRONTEND: "the gRPC frontend",
    Component.CORE: "Triton's core",
    Component.PYTHON_BACKEND: "the Python backend",
    Component.PYTHON_STUB: "the process of a Python model",
    Component.VLLM_ENGINE: "vLLM's engine",
    Component.TENSORRTLLM_BACKEND: "the TensorRT-LLM backend",
    Component.CUDA: "CUDA",
}
_LIVING: dict[State, str] = {
    State.NO_DEATH: "If the server is gone all the same, look at its exit status (139 segmentation "
    "fault, 137 killed, mostly for want of memory) and at the kernel's log.",
    State.CONTEXT_LOST: "The process goes on, but its CUDA context is lost: every later call "
    "fails. Restart the process, then run once with CUDA_LAUNCH_BLOCKING=1 to find the kernel that "
    "faults; let a liveness probe send a real inference, since the health endpoint may still say "
    "ready.",
    State.HANGS: "It waits, and did not crash. Take the stacks of all threads of its processes "
    "(gdb -p PID -batch -ex 'thread apply all bt', py-spy dump --pid PID) and see who holds what "
    "the others wait for; for vLLM look at the worker that does not answer.",
    State.NO_MODEL: "The model could not be loaded for the reason given; correct that and load it "
    "again. The server itself did not crash.",
}
_SICK: dict[State, str] = {
    State.CONTEXT_LOST: "a CUDA error broke the GPU's context",
    State.HANGS: "something hangs",
    State.NO_MODEL: "a model could not be loaded",
}
_PROBES = (
    "A liveness probe fails, and where it goes on failing the kubelet ends the server. Where it "
    "only needs longer to load its models, give it a startupProbe or a longer initialDelaySeconds."
)
_RESTARTED = (
    "The model's own process died and the server started it again, so what it had in hand was "
    "lost and later requests are served. Look at what ended it: the model's code, the libraries "
    "that it loads, a signal, a want of memory. Since 24.06 it is reported not to be restarted."
)
_OUTSIDE = (
    "The thread only waited when the signal came, so another process sent it: look for whoever "
    "stops or watches the server."
)
_TORN = (
    "The frames of its stack are out of order, so the stack cannot be read: get the log in the "
    "order in which it was written."
)


def advise_living(condition: Condition, notices: Mapping[Topic, Sequence[Notice]]) -> str:
    """What to do about a server that no line says died."""
    if condition.state is State.NO_DEATH and Topic.KILLED in notices:
        return _PROBES
    return _LIVING[condition.state]


def summarise_living(condition: Condition, lines: int) -> str:
    """What such a server suffers from, in one sentence."""
    if condition.state is State.NO_DEATH:
        return f"Nothing in these {lines} lines says that a process died."
    what = _SICK[condition.state]
    reason = (condition.reason or "").rstrip(".")
    return f"Nothing died in these {lines} lines, but {what}: {reason}."


def advise(
    component: Component,
    matches: Sequence[Match],
    crashes: Mapping[str, Crash],
    death: Death,
    origin: Origin,
) -> str:
    """What to do, in plain words."""
    if death.backtrace is not None and death.backtrace.torn:
        return _TORN
    if death.restarted:
        words = [_RESTARTED]
    elif (best := best_of(matches)) and not death.starting:
        words = _of_matches([crashes[match.id] for match in best], origin)
    else:
        outside = death.backtrace is not None and was_waiting(death.backtrace)
        known = known_advice(death)
        words = [*([] if known else [_unknown(component, matches)])]
        words += known or [_OUTSIDE if outside else _GENERAL[component]]
    if origin.agrees is False:
        by = origin.guess or f"a build that is not known here ({origin.contradiction})"
        what = f", not by {origin.believed}" if origin.guess else ""
        words.append(f"And check what runs: this was printed by {by}{what}.")
    return " ".join(words)


def _of_matches(crashes: Sequence[Crash], origin: Origin) -> list[str]:
    """The advice for the crash that fits best; for all of them where several do."""
    if len(crashes) == 1:
        (crash,) = crashes
        if origin.releases or crash.affected.open_ended:
            return [crash.advice]
        return [
            f"If it ran one of the releases that have it ({crash.affected.text}):",
            crash.advice,
        ]
    free = free_releases(crashes)
    return [
        f"{len(crashes)} known crashes fit equally well: {_either(crashes)}.",
        f"Releases without any of them: {free}." if free else "No known release is free of them.",
        *(f"If it is {crash.id}: {crash.advice}" for crash in crashes),
    ]


def _either(crashes: Sequence[Crash | Match]) -> str:
    return " or ".join(crash.id for crash in crashes)


def _unknown(component: Component, matches: Sequence[Match]) -> str:
    place = _PLACES.get(component)
    said = f"Unknown, in {place}" if place else "Unknown"
    said += ": no crash in the catalog has this stack or these words."
    alike = [match.id for match in matches if not match.precise]
    if alike:
        said += f" Crashes that are known in that component: {', '.join(alike)}."
    return said


def summarise(
    death: Death,
    component: Component,
    top_frame: str | None,
    matches: Sequence[Match],
    origin: Origin,
    condition: Condition,
) -> str:
    """What happened, in one sentence."""
    if condition.state is State.FAILED_TO_START:
        what = "vLLM's engine" if death.process is Process.ENGINE else "The server"
        why = f": {condition.reason.rstrip('.')}" if condition.reason else ""
        return f"{what} failed to start (component: {component.value}){why}."
    who = "A process" if death.process is Process.UNKNOWN else f"The {death.process.value}"
    by = f" of {signal_name(death.signal)}" if death.signal is not None else ""
    where = f" in {top_frame}" if top_frame else ""
    release = f" on {origin.guess}" if origin.guess else ""
    place = _PLACES.get(component)
    known = f"unknown, in {place}" if place else "unknown: no known crash fits"
    if best := best_of(matches):
        known = f"most like {_either(best)}"
        known += ", which it does not tell apart" if len(best) > 1 else ""
    if condition.state is State.KILLED:
        known = f"ended from outside: {death.words[0]}"
    if death.restarted:
        known = "the server started it again"
    if death.backtrace is not None and death.backtrace.torn:
        known = "its stack is out of order"
    return f"{who} died{by}{where}{release} (component: {component.value}); {known}."
