"""Recognises the stack frame that one log line prints, in each tool's format.

Who prints a stack decides how it looks: Triton's signal handler (boost), a debugger, Open MPI,
UCX, PyTorch, TensorRT-LLM, abseil, the kernel, or Python. Every parser takes one bounded pass
over the line; none of the patterns can backtrack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from kit.crash.log.phrases import is_servers
from kit.study.result import Frame


class Shape(StrEnum):
    """Who printed a stack."""

    TRITON = "triton"  # " 2# symbol in /path/lib.so": boost::stacktrace, from the signal handler
    GDB = "gdb"  # "#2  0x… in symbol (args) from /path/lib.so"
    OPENMPI = "openmpi"  # "[host:pid] [ 2] /path/lib.so(symbol+0x1f)[0x…]"
    UCX = "ucx"  # " 2 0x… symbol()  file:line", or " 2  /path/lib.so(symbol+0x1f) [0x…]"
    TORCH = "torch"  # "frame #2: symbol + 0x1f (0x… in /path/lib.so)"
    TRTLLM = "tensorrt-llm"  # "2  0x… /path/lib.so(+0x1f) [0x…]", with a C++ exception
    ABSL = "absl"  # "    @  0x…  (unknown)  symbol"
    KERNEL = "kernel"  # "name[pid]: segfault at … ip … in lib.so[base+size]"
    PYTHON = "python"  # traceback of an exception; most often a handled one
    FAULTHANDLER = "faulthandler"  # what Python prints when its process gets a fatal signal
    SEGFAULT = "segfault"  # of a handler that prints like Python: 'File "a.cc", line 9, in f'
    NONE = "none"  # a death without a stack


@dataclass(frozen=True, slots=True)
class Printed:
    """A frame as one line printed it; `index` is None where the shape does not number."""

    shape: Shape
    index: int | None
    frame: Frame
    at: int = 0  # where in the line it begins, behind its blanks


#: What a debugger prints between the code that faulted and the handler that ran.
SIGNAL_HANDLER = "<signal handler called>"
#: Beyond this a name is no name; demangling can take time out of all proportion to it.
LONGEST_MANGLED = 4096

_LENGTH = re.compile(r"\d{1,3}(?=[A-Za-z_])")
_ARGUMENTS = re.compile(r" \((?:\)|[^()=]{1,80}=)")
_TRITON = re.compile(r"(?<![\w#])(\d{1,3})# {1,4}(?=\S)")
_GDB = re.compile(r"(?<![\w#])#(\d{1,3}) {1,3}(?:(0x[0-9a-fA-F]{4,16}) {1,2}(?:in )?|)(?=\S)")
_OFFSET = re.compile(r" ?\(([^()\s]{1,400}) ?\+ ?(0x[0-9a-f]{1,16})\)(?: \(BuildId: \w{1,64}\))?$")
_COLUMN = re.compile(r" ((?:/|\.\.?/|[\w.\-]{1,80}\.\w{1,4}:)[^\s:]{0,400}(?::\d{1,7}){1,2})$")
_OPENMPI = re.compile(r"\[ {0,2}(\d{1,3})\] (?=[/\w\[])")
_OPENMPI_TAIL = re.compile(r"\(([^()+]*)(?:\+(0x[0-9a-f]{1,16}))?\) ?\[(0x[0-9a-f]{1,16})\]$")
_UCX = re.compile(r"(?<![\w#.])(\d{1,3}) {1,3}0x([0-9a-f]{16}) (?=\S)")
#: The same of newer releases: " 3  /path/lib.so(symbol+0x1f) [0x…]".
_UCX_PLACED = re.compile(r"^(\d{1,3}) {1,3}(?=/\S)|(?<= )(\d{1,3}) {2}(?=/\S)")
_TORCH = re.compile(r"frame #(\d{1,3}): (?=\S)")
_TORCH_TAIL = re.compile(r" \+ (0x[0-9a-f]{1,16}) \((0x[0-9a-f]{1,16}) in ([^()]+)\)$")
_TRTLLM = re.compile(r"(?<![\w#.])(\d{1,3}) {2,12}(0x[0-9a-f]{6,16}) (?=\S)")
_ABSL = re.compile(r"@ {3,20}(0x[0-9a-f]{4,16}) {2,12}(?=\S)")
_KERNEL = re.compile(
    r"([\w.:\-]{1,16})\[\d{1,8}\]:? (?:segfault at|general protection|trap invalid opcode"
    r"|trap divide error)[^\[\]]{0,120} in ([^\[\] ]{1,255})\[([0-9a-f]{4,16})\+[0-9a-f]{1,16}\]"
)
_KERNEL_IP = re.compile(r"\bip[: ](?:0x)?([0-9a-f]{4,16})\b")
_PYTHON = re.compile(r'File "([^"]{1,500})", line (\d{1,9})(,?) in ([^\s].{0,200})$')
_HEX = re.compile(r"0x[0-9a-fA-F]{4,16}$")
_SOURCE = re.compile(r"[^\s:]{1,400}:(?:\d{1,7}|\?)$")
_PLUS = re.compile(r" \+ \d{1,9}$")
_OPENMPI_PATH = re.compile(r"(?:/\S{1,1000}|[\w.\-+]{1,200})$")


def read_frame(line: str) -> Printed | None:
    """The frame that `line` prints, or None. Never raises; time is linear in the line."""
    if not MARK.search(line):
        return None
    line = line.strip()
    for marks, pattern, read in _READERS:
        if marks(line) and (found := pattern.search(line)):
            printed = read(found, line[found.end() :])
            return replace(printed, at=found.start()) if printed else None
    return None


def with_handler(printed: Printed) -> Printed:
    """A frame that looks like one of Python's, of a handler that prints native ones that way."""
    frame = printed.frame
    name = frame.symbol or ""
    known = None if _HEX.match(name) else name.removesuffix("()")
    source = frame.source if frame.source and not frame.source.startswith("<unknown>") else None
    native = _frame(0, symbol=known, address=name if known is None else None, source=source)
    return Printed(Shape.SEGFAULT, None, native, printed.at)


def file_name(path: str) -> str:
    """The last part of a path of either kind."""
    return path.rstrip("/").rpartition("/")[2] or path


def demangle(symbol: str) -> str:
    """The C++ name behind a mangled one; any other name unchanged."""
    if not symbol.startswith("_Z") or len(symbol) > LONGEST_MANGLED:
        return symbol
    if not _has_demangler():
        return _outline(symbol)
    import cxxfilt  # not above: it asks the linker for its library when it is imported

    try:
        return str(cxxfilt.demangle(symbol))
    except cxxfilt.InvalidName:
        return _outline(symbol)


@cache
def _has_demangler() -> bool:
    """Whether cxxfilt finds what it needs: not on Windows, nor without the linker's cache."""
    return bool(find_library("c") and (find_library("stdc++") or find_library("c++")))


def _outline(symbol: str) -> str:
    """The leading names of a mangled one that the demangler gives up on (Triton has some)."""
    names: list[str] = []
    rest = symbol[2:].lstrip("ZNKLS")
    while found := _LENGTH.match(rest):
        start, length = found.end(), int(found[0])
        names.append(rest[start : start + length])
        rest = rest[start + length :]
    return "::".join(names) or symbol


def _frame(
    index: int,
    *,
    module: str | None = None,
    offset: int | None = None,
    symbol: str | None = None,
    address: str | None = None,
    source: str | None = None,
) -> Frame:
    return Frame(
        index=index,
        module=file_name(module) if module else None,
        offset=offset,
        symbol=demangle(symbol) if symbol else None,
        address=int(address, 16) if address else None,
        source=source,
    )


def _triton(index: int, rest: str) -> Printed | None:
    head, between, tail = rest.rpartition(" in ")
    if between and (" " not in tail or tail.startswith("/")):
        if _HEX.match(head):
            return Printed(Shape.TRITON, index, _frame(index, module=tail, address=head))
        if head:
            # whoever pasted it may have cut the address short: "0x..."
            symbol = None if head.startswith("0x") else head
            return Printed(Shape.TRITON, index, _frame(index, module=tail, symbol=symbol))
        return None
    head, between, tail = rest.rpartition(" at ")
    if between and head and _SOURCE.match(tail):
        return Printed(Shape.TRITON, index, _frame(index, symbol=head, source=tail))
    if _HEX.match(rest):
        return Printed(Shape.TRITON, index, _frame(index, address=rest))
    return None


def _gdb(index: int, address: str | None, rest: str) -> Printed | None:
    if rest.startswith("<signal handler called>"):
        return Printed(Shape.GDB, index, _frame(index, symbol=SIGNAL_HANDLER))
    if address and (placed := _OFFSET.search(rest)):  # a core dump's list, a sanitizer
        return _gdb_placed(index, address, rest[: placed.start()].strip(), placed)
    module = source = None
    head, between, tail = rest.rpartition(" from ")
    if between and tail.startswith(("/", "lib")):
        rest, module = head, tail
    else:
        head, between, tail = rest.rpartition(" at ")
        if between and _SOURCE.match(tail):
            rest, source = head, tail
        elif address and (column := _COLUMN.search(rest)):
            rest, source = rest[: column.start()], column[1]
    arguments = rest.rfind(" (")
    symbol = rest[:arguments].strip() if arguments > 0 else rest.strip()
    if not (address or source or module) and not _ARGUMENTS.search(rest, max(arguments, 0)):
        return None  # "#12 something (else)": an issue number, not a frame
    known = symbol if symbol and not symbol.startswith(("??", "n/a")) else None
    frame = _frame(index, module=module, symbol=known, address=address, source=source)
    return Printed(Shape.GDB, index, frame)


def _gdb_placed(index: int, address: str, name: str, placed: re.Match[str]) -> Printed:
    known = name if name and name not in ("n/a", "??", "<null>") else None
    offset = int(placed[2], 16) if known is None else None
    frame = _frame(index, module=placed[1], offset=offset, symbol=known, address=address)
    return Printed(Shape.GDB, index, frame)


def _torch(index: int, rest: str) -> Printed | None:
    found = _TORCH_TAIL.search(rest)
    if not found:
        return None
    symbol = rest[: found.start()]
    unknown = symbol == "<unknown function>"
    frame = _frame(
        index,
        module=found[3],
        offset=int(found[1], 16) if unknown else None,
        symbol=None if unknown else symbol,
        address=found[2],
    )
    return Printed(Shape.TORCH, index, frame)


def _openmpi(index: int, rest: str, shape: Shape = Shape.OPENMPI) -> Printed | None:
    found = _OPENMPI_TAIL.search(rest)
    if not found:
        return None
    path = rest[: found.start()]
    if not _OPENMPI_PATH.match(path):
        return None
    symbol = found[1]
    offset = int(found[2], 16) if found[2] and not symbol else None
    frame = _frame(index, module=path, offset=offset, symbol=symbol, address=found[3])
    return Printed(shape, index, frame)


def _trtllm(index: int, address: str, rest: str) -> Printed | None:
    found = _OPENMPI_TAIL.search(rest)
    if found and rest.startswith("/"):
        symbol = found[1]
        offset = int(found[2], 16) if found[2] and not symbol else None
        frame = _frame(
            index, module=rest[: found.start()], offset=offset, symbol=symbol, address=address
        )
        return Printed(Shape.TRTLLM, index, frame)
    plus = _PLUS.search(rest)
    symbol = rest[: plus.start()] if plus else rest
    if not plus and not symbol.startswith("/"):
        return None
    if symbol.startswith("/"):
        return Printed(Shape.TRTLLM, index, _frame(index, module=symbol, address=address))
    return Printed(Shape.TRTLLM, index, _frame(index, symbol=symbol, address=address))


def _ucx(index: int, value: str, rest: str) -> Printed | None:
    symbol, call, place = rest.rpartition("() ")
    if not call and rest.endswith("()"):
        symbol, place = rest[:-2], ""
    elif not call:
        return None
    place = place.strip()
    path, _, line = place.rpartition(":")
    frame = _frame(
        index,
        module=path if path.startswith("/") else None,
        offset=int(value, 16),
        symbol=symbol if symbol.strip("?") else None,
        source=place if line.strip("0") and not path.startswith(("/", "?")) and path else None,
    )
    return Printed(Shape.UCX, index, frame)


def _absl(address: str, rest: str) -> Printed:
    symbol = rest.split("  ")[-1].strip()
    frame = _frame(0, address=address, symbol=None if symbol == "(unknown)" else symbol)
    return Printed(Shape.ABSL, None, frame)


def _kernel(found: re.Match[str]) -> Printed | None:
    if not is_servers(found[1]):
        return None  # another program of the same machine
    pointer = _KERNEL_IP.search(found[0])
    frame = _frame(0, module=found[2], address=pointer[1] if pointer else None)
    return Printed(Shape.KERNEL, 0, frame)


def _python(path: str, line: str, comma: str, function: str) -> Printed:
    frame = _frame(0, module=path, symbol=function.strip(), source=f"{path}:{line}")
    return Printed(Shape.PYTHON if comma else Shape.FAULTHANDLER, None, frame)


#: What every line that prints a frame has one of; most lines have none, and are not tried at all.
MARK = re.compile(
    r"\d# |#\d|File \"|\d {1,12}0x[0-9a-f]|@ {3,20}0x|\[0x"
    r"|segfault at|general protection|trap (?:invalid opcode|divide error)"
)


def _has(*marks: str) -> Callable[[str], bool]:
    return lambda line: any(mark in line for mark in marks)


#: What a line must have to be tried, how its frame begins, and who reads the rest of it.
_READERS: tuple[
    tuple[
        Callable[[str], bool],
        re.Pattern[str],
        Callable[[re.Match[str], str], Printed | None],
    ],
    ...,
] = (
    (_has("# "), _TRITON, lambda found, rest: _triton(int(found[1]), rest)),
    (_has("frame #"), _TORCH, lambda found, rest: _torch(int(found[1]), rest)),
    (_has("#"), _GDB, lambda found, rest: _gdb(int(found[1]), found[2], rest)),
    (_has('File "'), _PYTHON, lambda found, rest: _python(*found.groups())),
    (
        lambda line: "0x" in line and line.endswith("]"),
        _OPENMPI,
        lambda found, rest: _openmpi(int(found[1]), rest),
    ),
    (
        lambda line: "[0x" in line and line.endswith("]"),
        _UCX_PLACED,
        lambda found, rest: _openmpi(int(found[1] or found[2]), rest, Shape.UCX),
    ),
    (_has("0x"), _TRTLLM, lambda found, rest: _trtllm(int(found[1]), found[2], rest)),
    (_has("0x"), _UCX, lambda found, rest: _ucx(int(found[1]), found[2], rest)),
    (_has("0x"), _ABSL, lambda found, rest: _absl(found[1], rest)),
    (_has("]"), _KERNEL, lambda found, rest: _kernel(found)),
)
