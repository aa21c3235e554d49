"""Computes a crash's signature from the server's log, memory map and exit code.

The signature is the same for the same crash in every run: load addresses are gone, and so is
what the catcher of the signal and the system's libraries add.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kit.crash.log.backtrace import GAP, Backtrace, parse_backtraces
from kit.crash.log.notices import FAULT_SIGNALS, SHELL_BASE, signal_name
from kit.crash.log.shapes import SIGNAL_HANDLER, Shape
from kit.crash.stack.builds import SERVER, Build, executable_base, function_at
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.site import (
    exact_symbol,
    fault_frames,
    is_system,
    plain_module,
    short_name,
    stands_still,
)
from kit.crash.stack.symbols import find_module, table_of
from kit.study.result import Frame, Signature

#: The stack from the fault outward that makes two crashes the same; further out lie event loops.
KEY_FRAMES = 8
_PAGE = 0xFFF
_KILLED = 9
#: Whose stack to believe when several printed the same crash.
_TRUST = {
    Shape.TRITON: 0,
    Shape.GDB: 1,
    Shape.UCX: 2,
    Shape.OPENMPI: 3,
    Shape.TRTLLM: 4,
    Shape.SEGFAULT: 5,
    Shape.TORCH: 5,
    Shape.KERNEL: 6,
    Shape.FAULTHANDLER: 7,
    Shape.ABSL: 8,
    Shape.NONE: 10,
}
_TORN = 9
_THROWN = re.compile(r"an instance of '([^']{1,200})'")
#: What abseil and glog put in front: "F0000 00:00:1795888234.005942   20972 ".
_STAMP = re.compile(r"^[IWEF]\d{4} [\d:.]{8,30} +\d+ ")
_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")


def signature_of(
    log: str,
    *,
    maps: MemoryMap | None = None,
    exit_code: int | None = None,
    modules: Path | None = None,
) -> Signature | None:
    """The crash that a log tells of; None when it tells of none and the exit code of none.

    maps: of the process while it ran, for offsets. exit_code: as subprocess gives it, or the
    128 + signal of a shell or container; it decides which of several stacks is meant.
    modules: folder with the server's binaries, for function names.
    """
    number = signal_of(exit_code)
    backtrace = decisive(parse_backtraces(log), number)
    if backtrace is None:
        if number in FAULT_SIGNALS or number == _KILLED:
            return Signature(
                signal=number, key=signal_name(number), text=f"{signal_name(number)}, no stack"
            )
        return None
    return make_signature(place(backtrace, maps=maps, modules=modules), number)


def signal_of(exit_code: int | None) -> int | None:
    """The signal that ended a process: -11 and 139 are both 11. None: ended by none."""
    if exit_code is None:
        return None
    if exit_code < 0:
        return -exit_code
    return exit_code - SHELL_BASE if SHELL_BASE < exit_code <= SHELL_BASE + 64 else None


def decisive(backtraces: Sequence[Backtrace], number: int | None = None) -> Backtrace | None:
    """The backtrace that tells most of the last crash; None when there was no crash."""
    crashes = [b for b in backtraces if b.shape is not Shape.PYTHON and is_death(b)]
    if number is not None:
        crashes = [b for b in crashes if b.signal in (number, None)] or crashes
    if not crashes:
        return None
    trust = min(_rank(b) for b in crashes)
    best = [b for b in crashes if _rank(b) == trust]
    best = [b for b in best if b.current or SIGNAL_HANDLER in _names(b)] or best
    if best[0].shape is Shape.GDB:
        best = [b for b in best if not stands_still(b)] or best
    chosen = best[-1]
    for earlier in reversed(best[:-1]):
        if chosen.line - earlier.line > GAP:
            break
        if earlier.frames[:1] == chosen.frames[:1] and len(earlier.frames) < len(chosen.frames):
            continue  # a debugger shows frame 0 before it is asked for the stack
        chosen = earlier  # threads that die together: the one that died first
    return chosen


def place(backtrace: Backtrace, *, maps: MemoryMap | None, modules: Path | None) -> Backtrace:
    """The backtrace with offsets and function names filled in as far as they can be known."""
    fault = next(iter(fault_frames(backtrace)), None)
    placed = []
    for frame in backtrace.frames:
        located = maps.locate(frame.address) if maps and frame.address is not None else None
        if located and frame.offset is None:
            frame = replace(frame, offset=located[1], module=frame.module or located[0])
        # all but the faulting frame hold the address after the call, maybe of another function
        placed.append(_named(frame, modules, step_back=fault is None or frame != fault))
    return replace(backtrace, frames=tuple(placed))


def place_by_build(backtrace: Backtrace, builds: Sequence[Build]) -> Backtrace:
    """The backtrace with the offsets that frame 0 of a known build gives away, and the names of
    the functions that tell known crashes apart. builds: that can have printed it, the likeliest
    first.
    """
    base = executable_base(backtrace, builds[0])
    if base is None:
        return backtrace
    fault = next(iter(fault_frames(backtrace)), None)
    placed = []
    for frame in backtrace.frames:
        if frame.address is not None and plain_module(frame.module) == SERVER:
            offset = frame.address - base
            name = frame.symbol or function_at(builds, offset - (frame != fault))
            frame = replace(frame, offset=offset, symbol=name)
        placed.append(frame)
    return replace(backtrace, frames=tuple(placed))


def make_signature(backtrace: Backtrace, number: int | None = None) -> Signature:
    """The signature of one backtrace; `number` is the exit signal, where it is known."""
    number = backtrace.signal if backtrace.signal is not None else number
    name = signal_name(number) if number is not None else "crash"
    cause = _cause(backtrace)
    fault = fault_frames(backtrace)
    parts = [name, *([_VARIABLE.sub("#", cause)] if cause else [])]
    parts += [_key(frame) for frame in fault[:KEY_FRAMES]]
    text = f"{name} after {cause}" if cause else name
    if fault:
        text += f" in {describe(fault[0])}"
    elif not cause:
        text += ", no stack"
    return Signature(signal=number, frames=backtrace.frames, key="|".join(parts), text=text)


def describe(frame: Frame) -> str:
    """A frame in a word for people."""
    symbol = exact_symbol(frame)
    if symbol:
        return short_name(symbol)
    module = plain_module(frame.module) or "unknown code"
    if frame.offset is not None:
        return f"{module}+{frame.offset:#x}"
    if frame.address is not None and frame.module and not is_system(frame):
        return f"{module} …{frame.address & _PAGE:03X}"
    return module


def _key(frame: Frame) -> str:
    module = plain_module(frame.module) or "?"
    symbol = exact_symbol(frame)
    if is_system(frame):
        return f"{module}!{short_name(symbol)}" if symbol else module
    if frame.offset is not None and frame.module:
        return f"{module}+{frame.offset:#x}"
    if symbol:
        return f"{module}!{short_name(symbol)}"
    if frame.address is not None and frame.module:
        return f"{module}~{frame.address & _PAGE:03x}"  # pages move, places within them do not
    return module


def _named(frame: Frame, modules: Path | None, *, step_back: bool) -> Frame:
    if modules is None or frame.symbol or frame.offset is None or not frame.module:
        return frame
    if is_system(frame):
        return frame  # stripped: the nearest exported name would only mislead
    path = find_module(modules, frame.module)
    symbol = table_of(path).at(frame.offset - step_back) if path else None
    return replace(frame, symbol=symbol.text) if symbol else frame


def _cause(backtrace: Backtrace) -> str | None:
    """The first words that were said before the stack, shortened."""
    for message in backtrace.messages:
        thrown = _THROWN.search(message)
        if thrown:
            return thrown[1]
        if not message.startswith("what()"):
            return _STAMP.sub("", message)[:120]
    return None


def is_death(backtrace: Backtrace) -> bool:
    """Stacks are printed for other reasons too; a death has a signal or a cause beside it. Frames
    as Triton's or Open MPI's handler or a debugger prints them were pasted without their first
    line, unless it is only one or words stand before them: those are quoted. A thread that waits
    did not die. UCX's handler of fatal signals is the first frame of its own stacks.
    """
    if backtrace.signal in FAULT_SIGNALS:
        return True
    if backtrace.quoted or len(backtrace.frames) < 2:
        return False
    if backtrace.shape is Shape.UCX:
        return (backtrace.frames[0].symbol or "").startswith("ucs_handle_error")
    if backtrace.shape is Shape.GDB:
        return backtrace.complete and not stands_still(backtrace)
    return backtrace.shape in (Shape.TRITON, Shape.OPENMPI)


def _names(backtrace: Backtrace) -> list[str | None]:
    return [frame.symbol for frame in backtrace.frames]


def _rank(backtrace: Backtrace) -> int:
    return _TORN if backtrace.torn else _TRUST[backtrace.shape]
