"""Every rule of kit.crash.verdict, case by case."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.crash.verdict import Evidence, is_reported_crash, judge, stop_words
from kit.study.result import Frame, Signature, Verdict

STACK = (
    "Signal (11) received.\n"
    " 0# 0x000055A6A945F13D in /opt/tritonserver/bin/tritonserver\n"
    " 1# 0x00007FC829A5A050 in /lib/x86_64-linux-gnu/libc.so.6\n"
    " 2# 0x000055A6A9460614 in /opt/tritonserver/bin/tritonserver\n"
)
REPORTED_LOG = (Path(__file__).parent / "stacks" / "server-7332.log").read_text()
SHUTDOWN = (
    "Signal (15) received.\n"
    'I1128 01:43:47.174242 28017 http_server.cc:248] "Timeout 3: Found 16 HTTP service connections"'
    "\n"
    'I1128 01:43:50.363508 28017 server.cc:307] "Waiting for in-flight requests to complete."\n'
)
QUOTED_SHUTDOWN = (
    "Signal (15) received.\n"
    "I1128 01:43:47.174242 28017 model.py:29] server.cc:307] Waiting for in-flight requests to "
    "complete.\n"
)
LOADING = {
    **{"ended": 40, "open": 16, "waiting": 16, "quiet_s": 0.1},
    **{"ready": True, "stub_alive": True},
}
DONE = {"ended": 200, "load_finished": True, "ready": True}
STALLED = LOADING | {"quiet_s": 12.0}

CASES = {
    "a segmentation fault under load": (
        LOADING | {"exit_code": -11, "log": STACK},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 40 requests with 16 in flight.",
    ),
    "a shell's and a container's exit code of the same": (
        LOADING | {"exit_code": 139},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 40 requests with 16 in flight.",
    ),
    "an abort": (LOADING | {"exit_code": -6}, Verdict.CRASHED, "died of SIGABRT after 40"),
    "an abort in a container": (LOADING | {"exit_code": 134}, Verdict.CRASHED, "SIGABRT"),
    "a crash on the first request": (
        {"exit_code": -11, "open": 1},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 0 requests with 1 in flight.",
    ),
    "a crash when the load had just ended": (
        DONE | {"exit_code": -11},
        Verdict.CRASHED,
        "died of SIGSEGV just after 200 requests, when all of them had ended",
    ),
    "a crash although the trial was interrupted meanwhile": (
        LOADING | {"exit_code": -11, "interrupted": True},
        Verdict.CRASHED,
        "SIGSEGV",
    ),
    "a crash whose client broke off, and closed its connections": (
        LOADING | {"exit_code": -11, "client_error": "somebody ended it with SIGKILL"},
        Verdict.CLIENT_FAULT,
        "The load generator failed (somebody ended it with SIGKILL), so what the server did says "
        "nothing: the server died of SIGSEGV",
    ),
    "a server that went out of sight, whatever is said of it later": (
        LOADING | {"exit_code": 0, "lost": "the container engine ended"},
        Verdict.CLIENT_FAULT,
        "The way to the server was lost after 40 requests (the container engine ended), so what "
        "became of it is not known.",
    ),
    "a crash of which the client broke, too": (
        LOADING | {"exit_code": -11, "later_client_error": "it did not answer for 10 s."},
        Verdict.CRASHED,
        "died of SIGSEGV after 40 requests with 16 in flight; then the load generator failed "
        "(it did not answer for 10 s), so its last records may be missing.",
    ),
    "a server that had been told to stop when the kit looked": (
        STALLED | {"stub_alive": False, "stopped_by": "Signal (15) received."},
        Verdict.INTERRUPTED,
        "A signal from outside (Signal (15) received.): the server lives, but",
    ),
    "an end by itself that somebody asked for": (
        LOADING | {"exit_code": 0, "stopped_by": "SIGTERM to the server's guard"},
        Verdict.INTERRUPTED,
        "A signal from outside (SIGTERM to the server's guard): the server ended by itself",
    ),
    "a dead stub that somebody killed": (
        STALLED | {"stub_alive": False, "stopped_by": "SIGKILL to a process behind the server"},
        Verdict.INTERRUPTED,
        "SIGKILL to a process behind the server",
    ),
    "a server that somebody stopped": (
        STALLED | {"stopped_by": "SIGSTOP to one of its processes"},
        Verdict.INTERRUPTED,
        "SIGSTOP",
    ),
    "a crash on a machine without space": (
        LOADING | {"exit_code": -7, "shortage": "no space left in /dev/shm"},
        Verdict.CLIENT_FAULT,
        "This machine had no space left in /dev/shm: the server died of SIGBUS",
    ),
    "a survivor of a shortage": (
        DONE | {"shortage": "no space left in /dev/shm"},
        Verdict.SURVIVED,
        "All 200 requests ended",
    ),
    "a load that its own rule stopped early": (
        DONE | {"stopped_early": "12 of 40 requests failed"},
        Verdict.SURVIVED,
        "The load stopped early: 12 of 40 requests failed.",
    ),
    "a server that dies of its shutdown": (
        DONE | {"exit_code": -11, "stop_requested": True, "log": STACK},
        Verdict.SURVIVED,
        "All 200 requests ended; then it died of SIGSEGV while it was shutting down.",
    ),
    "a hung server that dies of its shutdown": (
        STALLED | {"exit_code": -11, "stop_requested": True},
        Verdict.HUNG,
        "then it died of SIGSEGV while it was shutting down",
    ),
    "an interrupt": (
        LOADING | {"interrupted": True},
        Verdict.INTERRUPTED,
        "The trial was stopped from outside after 40 requests.",
    ),
    "an interrupt during which we killed the server": (
        LOADING | {"interrupted": True, "exit_code": -9, "stop_requested": True},
        Verdict.INTERRUPTED,
        "stopped from outside",
    ),
    "a kill with the kernel's count": (
        LOADING | {"exit_code": 137, "oom": True},
        Verdict.OUT_OF_MEMORY,
        "The server was killed for want of memory after 40 requests.",
    ),
    "a kill with the kernel's words in the log": (
        LOADING | {"exit_code": -9, "log": "Out of memory: Killed process 77 (tritonserver) x"},
        Verdict.OUT_OF_MEMORY,
        "Killed process 77",
    ),
    "a kill with the container's state in the log": (
        LOADING | {"exit_code": 137, "log": "    Reason:       OOMKilled\n"},
        Verdict.OUT_OF_MEMORY,
        "OOMKilled",
    ),
    "a kill that another process's shortage does not explain": (
        LOADING | {"exit_code": -9, "log": "Out of memory: Killed process 77 (chrome) total-vm:1"},
        Verdict.INTERRUPTED,
        "nothing shows a want of memory",
    ),
    "a kill without evidence": (
        LOADING | {"exit_code": -9},
        Verdict.INTERRUPTED,
        "Somebody killed the server with SIGKILL after 40 requests; nothing shows a want",
    ),
    "137 without evidence": (
        LOADING | {"exit_code": 137, "oom": False, "log": '"OOMKilled": false'},
        Verdict.INTERRUPTED,
        "nothing shows",
    ),
    "SIGTERM by others": (
        LOADING | {"exit_code": -15},
        Verdict.INTERRUPTED,
        "Somebody stopped the server with SIGTERM after 40 requests.",
    ),
    "SIGTERM by others, which Triton ends with status 0": (
        LOADING | {"exit_code": 0, "log": "Signal (15) received.\n"},
        Verdict.INTERRUPTED,
        "Somebody stopped the server with a signal",
    ),
    "SIGTERM by others, of which it crashes": (
        LOADING | {"exit_code": -11, "log": SHUTDOWN + REPORTED_LOG},
        Verdict.INTERRUPTED,
        'Somebody told the server to stop after 40 requests ("Signal (15) received."); then it '
        "died of SIGSEGV while it was shutting down.",
    ),
    "SIGTERM by others, of which it dies without a word": (
        LOADING | {"exit_code": -11, "log": SHUTDOWN},
        Verdict.INTERRUPTED,
        "while it was shutting down",
    ),
    "SIGTERM by others, whose models took too long to unload": (
        LOADING | {"exit_code": 1, "log": SHUTDOWN},
        Verdict.INTERRUPTED,
        "Somebody stopped the server with a signal",
    ),
    "SIGTERM by others of a server that logs no information": (
        LOADING | {"exit_code": 1, "log": "Signal (15) received.\n"},
        Verdict.INTERRUPTED,
        "Somebody stopped the server with a signal",
    ),
    "words about SIGTERM that a model printed before the crash": (
        LOADING | {"exit_code": -11, "log": "Signal (15) received.\n" + REPORTED_LOG},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 40 requests with 16 in flight.",
    ),
    "words about a shutdown that a model printed before the crash": (
        LOADING | {"exit_code": -11, "log": QUOTED_SHUTDOWN + REPORTED_LOG},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 40 requests with 16 in flight.",
    ),
    "an end by itself with 1 that nobody asked for": (
        LOADING | {"exit_code": 1},
        Verdict.CRASHED,
        "The server ended by itself with status 1 after 40 requests.",
    ),
    "SIGTERM after the crash, which has no say": (
        LOADING | {"exit_code": -11, "log": REPORTED_LOG + "\nSignal (15) received.\n"},
        Verdict.CRASHED,
        "The server died of SIGSEGV after 40 requests with 16 in flight.",
    ),
    "SIGTERM by us": (
        DONE | {"exit_code": -15, "stop_requested": True},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "a graceful stop by us": (
        DONE | {"exit_code": 0, "stop_requested": True, "log": "Signal (15) received.\n"},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "a stop that ran out of time and became a kill by us": (
        DONE | {"exit_code": -9, "stop_requested": True},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "a server that ends by itself": (
        LOADING | {"exit_code": 0},
        Verdict.CRASHED,
        "The server ended by itself with status 0 after 40 requests.",
    ),
    "a server that ends by itself with an error": (
        LOADING | {"exit_code": 1},
        Verdict.CRASHED,
        "ended by itself with status 1",
    ),
    "process 1 that outlives its own crash": (
        STALLED | {"log": STACK},
        Verdict.CRASHED,
        "printed the stack of SIGSEGV and answers no more",
    ),
    "process 1 that outlives a signal from outside and answers on": (
        DONE | {"log": STACK},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "a dead stub behind a ready server": (
        STALLED | {"stub_alive": False},
        Verdict.ENGINE_DIED,
        "The server lives, but the model's stub process is dead after 40 requests.",
    ),
    "a dead engine process": (
        LOADING | {"engine_alive": False},
        Verdict.ENGINE_DIED,
        "engine's process is dead",
    ),
    "a dead engine by its log": (
        DONE
        | {"log": "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue"},
        Verdict.ENGINE_DIED,
        "EngineDeadError",
    ),
    "a stub that was restarted": (
        DONE
        | {"log": "E1025 python_be.cc:2066] Stub process is unhealthy and it will be restarted."},
        Verdict.ENGINE_DIED,
        "is unhealthy",
    ),
    "a model that is gone while the server is ready": (
        LOADING | {"model_ready": False},
        Verdict.ENGINE_DIED,
        "the model is not ready",
    ),
    "a stub that the kernel killed": (
        STALLED | {"stub_alive": False, "oom": True},
        Verdict.OUT_OF_MEMORY,
        "A process behind the server was killed for want of memory",
    ),
    "a stub that the kernel killed, by the log": (
        STALLED | {"log": "Memory cgroup out of memory: Killed process 9 (triton_python_b) x"},
        Verdict.OUT_OF_MEMORY,
        "behind the server",
    ),
    "a failed load generator": (
        STALLED | {"client_error": "KitError: the disk is full. Hint: free space."},
        Verdict.CLIENT_FAULT,
        "The load generator failed after 40 requests (KitError: the disk is full; Hint: "
        "free space); the server lived.",
    ),
    "no progress": (
        STALLED,
        Verdict.HUNG,
        "16 requests stayed open and nothing came for 12 s although the server says that it is "
        "ready, after 40 requests.",
    ),
    "no progress and not ready": (STALLED | {"ready": False}, Verdict.HUNG, "stayed open"),
    "requests that the client itself keeps open": (
        STALLED | {"waiting": 0},
        Verdict.SURVIVED,
        "time was up",
    ),
    "one that waits among those that the client keeps open": (
        STALLED | {"waiting": 1},
        Verdict.HUNG,
        "1 request stayed open and nothing came for 12 s",
    ),
    "requests that were not waited for long enough to say": (
        DONE | {"gave_up": 3},
        Verdict.SURVIVED,
        "All 200 requests ended, 3 of them not answered in time.",
    ),
    "requests that were never answered, by a client at its limit": (
        DONE | {"gave_up": 3, "unanswered": 3, "client_limit": "its core was busy"},
        Verdict.CLIENT_FAULT,
        "3 of 200 requests were never answered, but the load generator was itself at its limit "
        "(its core was busy).",
    ),
    "no progress, by a client that was at its limit before": (
        STALLED | {"client_limit": "its core was busy"},
        Verdict.HUNG,
        "nothing came for 12 s",
    ),
    "requests that were never answered while others were": (
        DONE | {"gave_up": 21, "unanswered": 20, "ended": 9808},
        Verdict.HUNG,
        "20 of 9808 requests were never answered although the server says that it is ready.",
    ),
    "all requests answered": (DONE, Verdict.SURVIVED, "All 200 requests ended."),
    "one request answered": (DONE | {"ended": 1}, Verdict.SURVIVED, "All 1 request ended."),
    "the trial's time was up": (
        LOADING,
        Verdict.SURVIVED,
        "The server lived until the trial's time was up, after 40 requests.",
    ),
    "a slow server is not a hung one": (
        LOADING | {"quiet_s": 9.9},
        Verdict.SURVIVED,
        "time was up",
    ),
    "errors that the model handled": (
        DONE | {"log": "Traceback (most recent call last):\nValueError: bad prompt\n"},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "somebody else's server refuses connections": (
        LOADING
        | {
            "is_process_seen": False,
            "stopped_answering": "connection refused",
            "answering_s": 12.34,
            "ok": 39,
        },
        Verdict.ANSWERS_STOPPED,
        "12.3 s after the load began (connection refused), after 40 requests, 39 of them answered "
        "well; nothing is known of its process",
    ),
    "somebody else's server is silent": (
        LOADING | {"is_process_seen": False, "ready": None, "waiting": 4, "quiet_s": 31.0},
        Verdict.ANSWERS_STOPPED,
        "nothing came for 31 s",
    ),
    "somebody else's server was never reached": (
        DONE | {"is_process_seen": False, "was_reached": False},
        Verdict.CLIENT_FAULT,
        "never reached",
    ),
    "somebody else's server answers all": (
        DONE | {"is_process_seen": False, "ok": 200},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
    "somebody else's server that was away for a while": (
        DONE | {"is_process_seen": False, "ok": 150},
        Verdict.SURVIVED,
        "All 200 requests ended, only 150 of them answered well.",
    ),
    "a machine without a GPU": (
        DONE | {"log": "Error: Failed to initialize NVML\nW1 metrics.cc:738] DCGM unable to start"},
        Verdict.SURVIVED,
        "All 200 requests ended.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_of(case: str) -> None:
    seen, verdict, reason = CASES[case]
    got, said = judge(Evidence(**seen))
    assert got is verdict, said
    assert reason in said
    assert said.endswith(".")
    assert said.count(". ") == 0, "one sentence"


def test_every_verdict_has_a_case() -> None:
    assert {verdict for _, verdict, _ in CASES.values()} == set(Verdict)


def _signature(*names: tuple[str, str | None], signal: int = 11) -> Signature:
    frames = tuple(
        Frame(index=i, module=module, offset=None, symbol=symbol)
        for i, (module, symbol) in enumerate(names)
    )
    return Signature(signal=signal, frames=frames)


HANDLER = (("tritonserver", None), ("libc.so.6", None))
CHECK = "TRITONBACKEND_ResponseFactoryIsCancelled"
REPORTED = (("libtritonserver.so", CHECK), ("libtriton_python.so", None))


def test_the_reported_crash_is_recognised_in_an_image_and_in_a_wheel() -> None:
    assert is_reported_crash(_signature(*HANDLER, *REPORTED))
    packaged = (("libtritonserver-7e4e39b0.so", CHECK), REPORTED[1])
    assert is_reported_crash(_signature(*HANDLER, *packaged))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        _signature(),
        _signature(*HANDLER, *REPORTED, signal=6),
        _signature(*HANDLER, ("libtriton_python.so", None), ("libtritonserver.so", CHECK)),
        _signature(*HANDLER, ("libtritonserver.so", CHECK), ("libtriton_other.so", None)),
        _signature(*HANDLER, ("libtritonserver.so", "TRITONBACKEND_ResponseSend"), REPORTED[1]),
    ],
)
def test_other_crashes_are_not_taken_for_the_reported_one(signature: Signature | None) -> None:
    assert not is_reported_crash(signature)


def test_a_server_is_told_to_stop_where_its_log_says_so_and_that_it_obeys() -> None:
    assert stop_words(SHUTDOWN) == "Signal (15) received."
    assert stop_words("Signal (15) received.\n") is None
    assert stop_words(QUOTED_SHUTDOWN) is None
    assert stop_words("") is None
