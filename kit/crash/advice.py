"""A diagnosis' findings in, its sentences for people out: what it is, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kit.crash.catalog import Crash
from kit.crash.component import Component
from kit.crash.death import Death, Process
from kit.crash.match import Match
from kit.crash.notices import signal_name
from kit.crash.origin import Origin
from kit.crash.site import was_waiting

#: From here on a match is worth its advice; below it is only named.
GOOD_MATCH = 0.4

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
_UNKNOWN = "Unknown: no crash in the catalog fits."
_OUTSIDE = (
    "The thread only waited when the signal came, so another process sent it: look for whoever "
    "stops or watches the server."
)
_TORN = (
    "The frames of its stack are out of order, so the stack cannot be read: get the log in the "
    "order in which it was written."
)


def advise(
    component: Component,
    matches: Sequence[Match],
    crashes: Mapping[str, Crash],
    death: Death | None,
    origin: Origin,
) -> str:
    """What to do, in plain words."""
    if death is None:
        return (
            "If the server is gone all the same, look at its exit status (139 segmentation fault, "
            "137 killed, mostly for want of memory) and at the kernel's log."
        )
    if death.backtrace is not None and death.backtrace.torn:
        return _TORN
    words = []
    if matches and matches[0].score >= GOOD_MATCH:
        words.append(crashes[matches[0].id].advice)
    else:
        outside = death.backtrace is not None and was_waiting(death.backtrace)
        words += [_UNKNOWN, _OUTSIDE if outside else _GENERAL[component]]
    if origin.agrees is False:
        words.append(
            f"And check what runs: this was printed by {origin.guess}, not by {origin.believed}."
        )
    return " ".join(words)


def summarise(
    death: Death,
    component: Component,
    top_frame: str | None,
    matches: Sequence[Match],
    origin: Origin,
) -> str:
    """What happened, in one sentence."""
    who = "A process" if death.process is Process.UNKNOWN else f"The {death.process.value}"
    by = f" of {signal_name(death.signal)}" if death.signal is not None else ""
    where = f" in {top_frame}" if top_frame else ""
    release = f" on {origin.guess}" if origin.guess else ""
    known = "no known crash fits"
    if matches and matches[0].score >= GOOD_MATCH:
        known = f"most like {matches[0].id}"
    if death.backtrace is not None and death.backtrace.torn:
        known = "its stack is out of order"
    return f"{who} died{by}{where}{release} (component: {component.value}); {known}."
