"""Selects the frames of a stack that tell where the fault is; makes names comparable.

Above the fault lie the frames of whoever caught the signal or raised the abort; below it, those
that start a thread. They are the same in every crash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kit.crash.log.backtrace import Backtrace
from kit.crash.log.shapes import SIGNAL_HANDLER, Shape
from kit.study.result import Frame

#: Libraries of the system: their offsets differ between machines that run the same server.
SYSTEM = frozenset(
    {
        "libc.so",
        "libm.so",
        "libpthread.so",
        "libstdc++.so",
        "libgcc_s.so",
        "libunwind.so",
        "libasan.so",
        "libc++.so",
        "libc++abi.so",
        "linux-vdso.so",
        "[vdso]",
        "ld-linux-x86-64.so",
        "ld-linux-aarch64.so",
    }
)
_WHEEL_HASH = re.compile(r"-[0-9a-f]{8}(?=\.so)")
_VERSION = re.compile(r"\.so[.\d]*$")
_DISTANCE = re.compile(r"\+0x[0-9a-f]+$")
#: Libraries that only pass on what somebody threw.
_CARRIERS = frozenset({"libstdc++.so", "libgcc_s.so", "libunwind.so", "libc++.so", "libc++abi.so"})
_ABORT = re.compile(
    r"^_{0,3}(?:gsignal|raise|pthread_kill\w*|GI_raise|GI_abort|abort|libc_message\w*"
    r"|assert_fail\w*|malloc_printerr|fortify_fail\w*|stack_chk_fail|verbose_terminate_handler"
    r"|cxa_throw|cxa_rethrow|Unwind_\w+|cxa_call_unexpected|gxx_personality_v0|pthread_kill_\w+)$"
)
_ABORT_PARTS = (
    *("__verbose_terminate_handler", "std::terminate", "__cxxabiv1::", "__cxa_"),
    "::log_internal::LogMessage",  # abseil's check that failed: who made it lies below
)
_CAUGHT = re.compile(
    r"ErrorSignalHandler|__kernel_rt_sigreturn|__restore_rt|^_{0,2}sigaction$|^_{0,2}funlockfile$"
    r"|^_?_?sigtramp|backtrace_symbols|print_stack|PrintStackTrace|SignalHandler"
)
#: Copying and comparing what it was given: the caller gave it something wrong.
_COPYING = re.compile(
    r"^_{0,3}(?:mem(?:move|cpy|set|cmp|chr)|str(?:n?len|n?cpy|n?cmp|chr|rchr)|wmem\w+)(?:_\w+)?$"
)
#: An operator's own brackets are no template's and no parameter list.
_OPERATOR = re.compile(r"\boperator(?:\(\)|[<>]{1,3}=?|->)")
_HIDE = str.maketrans("()<>", "\x01\x02\x03\x04")
_SHOW = str.maketrans("\x01\x02\x03\x04", "()<>")
_SIGABRT = 6
#: Where a thread waits for the kernel: nothing faults there by itself. On a condition it does so
#: in a function below, which has no name.
_WAITING = re.compile(
    r"^_{0,3}(?:GI_)?_{0,3}(?:clock_nanosleep|nanosleep|usleep|sleep|epoll_wait|poll|ppoll|select|pause"
    r"|sigwait\w*|accept4?|recv\w*|read)$"
)
#: And for another thread or process, where no signal says that it faulted there.
_LOCKED = re.compile(
    r"^_{0,3}(?:GI_)?_{0,3}(?:lll_lock_wait\w*|futex\w*|syscall|pthread_(?:mutex_lock\w*|cond_\w*wait"
    r"|rwlock_\w+|clockjoin_ex|timedjoin_ex|join|barrier_wait)|new_sem_\w*wait\w*|sem_\w*wait"
    r"|do_futex_wait\w*|internal_syscall_cancel|syscall_cancel\w*|ioctl|wait4|waitpid|waitid|epoll_pwait2?"
    r"|pselect|sched_yield|msgrcv|semop|flock|fcntl|write|readv|join|take_gil|PyThread_acquire_lock\w*"
    r"|PyCOND_TIMEDWAIT)(?:\.\w+)?$"
    r"|^(?:cu|cuda)(?:Ctx|Device|Stream|Event)Synchronize"
)
_WAITING_BELOW = re.compile(r"^_{0,3}pthread_cond_\w*wait$")


def plain_module(name: str | None) -> str | None:
    """A module's name without what packaging adds: libtritonserver-7e4e39b0.so, libc.so.6."""
    if name is None:
        return None
    return _VERSION.sub(".so", _WHEEL_HASH.sub("", name))


def is_system(frame: Frame) -> bool:
    return plain_module(frame.module) in SYSTEM


def exact_symbol(frame: Frame) -> str | None:
    """The function that the frame is in; None where only one before it is known."""
    return None if frame.symbol is None or _DISTANCE.search(frame.symbol) else frame.symbol


def short_name(symbol: str) -> str:
    """A function's name without template arguments, parameters and clone marks."""
    text = _OPERATOR.sub(_hide, symbol.replace("(anonymous namespace)::", ""))
    kept: list[str] = []
    depth = 0
    for at, character in enumerate(text):
        if character == "<":
            depth += 1
        elif character == ">" and depth:
            depth -= 1
        elif not depth:
            if character == "(" or (character == " " and text[at + 1 : at + 2] == "["):
                break
            kept.append(character)
    name = "".join(kept).strip()
    if not name.startswith("operator"):
        name = name.rpartition(" ")[2]  # without the type that it returns
    return name.translate(_SHOW) or symbol


def _hide(found: re.Match[str]) -> str:
    return found[0].translate(_HIDE)


def fault_frames(backtrace: Backtrace) -> tuple[Frame, ...]:
    """From the code that faulted outward, without the catcher, the abort, the unwinder, copying in
    the C library and the thread's start.

    Empty when nothing but those was printed.
    """
    frames = _below_catcher(backtrace)
    if backtrace.signal == _SIGABRT or any(_raises(frame) for frame in frames[:2]):
        frames = _below_abort(frames)
    while len(frames) > 1 and _copies(frames[0]):
        frames = frames[1:]
    while frames and is_system(frames[-1]) and len(frames) > 1:
        frames = frames[:-1]
    return tuple(frames)


def was_waiting(backtrace: Backtrace) -> bool:
    """Whether Triton's thread only waited when the signal came, so another process sent it."""
    if backtrace.shape is not Shape.TRITON or backtrace.signal == _SIGABRT:
        return False
    for at, frame in enumerate(fault_frames(backtrace)):
        name = short_name(exact_symbol(frame) or "")
        if not is_system(frame) or (at and _WAITING_BELOW.match(name)):
            return is_system(frame)
        if _WAITING.match(name):
            return True
    return False


def stands_still(backtrace: Backtrace) -> bool:
    """Whether a stack that no signal goes with is that of a thread that waits."""
    for frame in fault_frames(backtrace)[:4]:
        name = short_name(exact_symbol(frame) or "")
        if _WAITING.match(name) or _LOCKED.match(name):
            return True
        if not (is_system(frame) or not name or name.startswith("__")):
            return False
    return False


def _copies(frame: Frame) -> bool:
    name = exact_symbol(frame)
    return bool(name and _COPYING.match(name)) and (frame.module is None or is_system(frame))


def _below_catcher(backtrace: Backtrace) -> list[Frame]:
    frames = list(backtrace.frames)
    for at, frame in enumerate(frames):
        if frame.symbol == SIGNAL_HANDLER:
            return frames[at + 1 :]
    if backtrace.shape is Shape.SEGFAULT and frames and "sigaction" in (frames[0].source or ""):
        return frames[1:]
    caught = backtrace.shape in (Shape.TRITON, Shape.OPENMPI, Shape.UCX)
    if caught and backtrace.shape is Shape.TRITON and frames and frames[0].index == 0:
        frames = frames[1:]  # Triton's handler prints the stack from within itself
    while backtrace.shape is Shape.UCX and frames and plain_module(frames[0].module) == "libucs.so":
        frames = frames[1:]
    while caught and frames and frames[0].index <= 1 and _catches(frames[0]):
        frames = frames[1:]
    return frames


def _catches(frame: Frame) -> bool:
    if frame.symbol is None:
        return is_system(frame)
    return bool(_CAUGHT.search(frame.symbol))


def _below_abort(frames: Sequence[Frame]) -> list[Frame]:
    rest = list(frames)
    while rest and (
        _raises(rest[0])
        or plain_module(rest[0].module) in _CARRIERS
        or (is_system(rest[0]) and not exact_symbol(rest[0]))
    ):
        rest = rest[1:]
    return rest or list(frames)


def _raises(frame: Frame) -> bool:
    symbol = exact_symbol(frame)
    if symbol is None:
        return False
    return bool(_ABORT.match(short_name(symbol))) or any(p in symbol for p in _ABORT_PARTS)
