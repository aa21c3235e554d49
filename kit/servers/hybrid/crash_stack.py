"""Prints the native stack of a process that dies of a signal, as Triton's own handler does.

The frontends run in a Python process here, which has no such handler, and a handler written in
Python would need the interpreter's lock in a thread that has just broken. So this one is machine
code (x86-64), put together below: it calls the C library's `backtrace`, `dladdr` and `dprintf`,
prints what Triton prints ("Signal (11) received.", then " 2# function in /path/library.so"), and
lets the process die of its signal. Whoever runs it needs no compiler.

Standard library alone, and nothing of the kit: it runs in the server's own Python.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import struct

#: What a process dies of by its own fault.
SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
#: The deepest stack that is printed.
FRAMES = 64

#: What the code calls: 8 bytes each from the beginning of its data.
_CALLS = ("backtrace", "dladdr", "dprintf", "signal", "raise", "pause")
_CALL = {name: 8 * at for at, name in enumerate(_CALLS)}
_FLAG = 0x38  # 1 once a thread prints; others that die meanwhile wait
_TEXTS = {
    "signal": (0x100, b"Signal (%d) received.\n"),
    "named": (0x140, b"%2d# %s in %s\n"),
    "placed": (0x180, b"%2d# 0x%016lX in %s\n"),
    "unknown": (0x1C0, b"%2d# 0x%016lX in [anonymous]\n"),
}
_DATA_BYTES = 0x200
#: On the stack: what dladdr fills in (file, base, name, address), then the frames' addresses.
_FOUND_BYTES = 0x20
_STACK_BYTES = _FOUND_BYTES + 8 * FRAMES


def install() -> bool:
    """Print the stack of this process when it dies of one of SIGNALS; False: not on this machine.

    Raises:
        OSError: the system gives no memory that may hold code.
    """
    if platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    data = mmap.mmap(-1, mmap.PAGESIZE)
    code = mmap.mmap(-1, mmap.PAGESIZE)
    data_at, code_at = (ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in (data, code))
    for name, at in _CALL.items():
        data[at : at + 8] = struct.pack("<Q", ctypes.cast(libc[name], ctypes.c_void_p).value)
    for at, text in _TEXTS.values():
        data[at : at + len(text)] = text
    handler = machine_code(data_at)
    code[: len(handler)] = handler
    rules = unwind_rules(code_at, len(handler))
    data[_DATA_BYTES : _DATA_BYTES + len(rules)] = rules
    if libc.mprotect(ctypes.c_void_p(code_at), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory that may hold code")
    # Without rules of how its frame is left, a stack would end in the handler.
    ctypes.CDLL("libgcc_s.so.1")["__register_frame"](ctypes.c_void_p(data_at + _DATA_BYTES))
    libc.backtrace(ctypes.c_void_p(code_at), 0)  # it loads its library at its first call
    libc.signal.restype = ctypes.c_void_p
    for number in SIGNALS:
        libc.signal(int(number), ctypes.c_void_p(code_at))
    _kept.extend((data, code))
    return True


#: The memory that the handler lies in, for as long as the process lives.
_kept: list[mmap.mmap] = []


def machine_code(data: int) -> bytes:
    """The handler, void handler(int signal), for data at that address.

    Registers: ebx the signal, r12 the frame's index, r13 the number of frames, r14 the data.
    """
    code = _Code()
    code.add("f30f1efa 55 4889e5 53 4154 4155 4156")  # endbr64; push rbp, rbx, r12, r13, r14
    code.add("4881ec" + _int(_STACK_BYTES))  # sub rsp
    code.add("89fb 49be" + struct.pack("<Q", data).hex())  # mov ebx, edi; mov r14, data
    code.add(f"b801000000 418746{_FLAG:02x} 85c0")  # xchg [flag], 1; test
    code.jump("0f85", "wait")  # jnz
    code.text("signal")
    code.add("89da")  # mov edx, ebx
    code.print()
    code.add(f"488d7c24{_FOUND_BYTES:02x} be" + _int(FRAMES))  # lea rdi, frames; mov esi
    code.call("backtrace")
    code.add("4189c5 4531e4")  # mov r13d, eax; xor r12d, r12d
    code.label("next")
    code.add("4539ec")  # cmp r12d, r13d
    code.jump("0f8d", "done")  # jge
    code.add(f"4a8b7ce4{_FOUND_BYTES:02x}")  # mov rdi, frames[r12]
    # Frame 2 is what faulted. All others hold where a call returns to, maybe another function.
    code.add("4183fc02 7403 48ffcf 4889e6")  # cmp r12d, 2; je +3; dec rdi; mov rsi, rsp
    code.call("dladdr")
    code.add("85c0")
    code.jump("0f84", "unknown")  # jz
    code.add("4c8b0424 488b4c2410 4885c9")  # mov r8, file; mov rcx, name; test rcx
    code.jump("0f84", "placed")  # jz
    code.text("named")
    code.jump("e9", "print")
    code.label("placed")
    code.add(f"4a8b4ce4{_FOUND_BYTES:02x}")  # mov rcx, frames[r12]
    code.text("placed")
    code.jump("e9", "print")
    code.label("unknown")
    code.add(f"4a8b4ce4{_FOUND_BYTES:02x}")
    code.text("unknown")
    code.label("print")
    code.add("4489e2")  # mov edx, r12d
    code.print()
    code.add("41ffc4")  # inc r12d
    code.jump("e9", "next")
    code.label("done")
    code.add("89df 31f6")  # mov edi, ebx; xor esi, esi (SIG_DFL)
    code.call("signal")
    code.add("89df")
    code.call("raise")  # pending until this returns
    code.add("4881c4" + _int(_STACK_BYTES) + "415e 415d 415c 5b 5d c3")  # add rsp; pop; ret
    code.label("wait")
    code.call("pause")
    code.jump("e9", "wait")
    return code.whole()


def unwind_rules(start: int, size_bytes: int) -> bytes:
    """How the handler's frame is left (DWARF .eh_frame), once it has set up rbp."""
    # Version 1, no augmentation, code by 1, data by -8, return address in 16;
    # frame at rsp+8, return address at -8.
    common = bytes.fromhex("01 00 01 78 10  0c0708 9001 0000")
    # Frame at rbp+16; rbp at -16, rbx at -24, r12 at -32, r13 at -40, r14 at -48.
    own = bytes.fromhex("0c0610 8602 8303 8c04 8d05 8e06 000000")
    first = struct.pack("<II", 4 + len(common), 0) + common
    second = struct.pack("<QQ", start, size_bytes) + own
    return first + struct.pack("<II", 4 + len(second), len(first) + 4) + second + bytes(4)


class _Code:
    """Bytes with jumps to labels."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def add(self, hexadecimal: str) -> None:
        self._bytes += bytes.fromhex(hexadecimal)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._bytes)

    def jump(self, opcode: str, label: str) -> None:
        self.add(opcode + "00000000")
        self._jumps.append((len(self._bytes), label))

    def call(self, name: str) -> None:
        self.add(f"41ff56{_CALL[name]:02x}")  # call [r14 + at]

    def text(self, name: str) -> None:
        self.add("498db6" + _int(_TEXTS[name][0]))  # lea rsi, [r14 + at]

    def print(self) -> None:
        """dprintf(2, text, …) with the arguments that are in place."""
        self.add("bf02000000 31c0")  # mov edi, 2; xor eax, eax
        self.call("dprintf")

    def whole(self) -> bytes:
        for end, label in self._jumps:
            self._bytes[end - 4 : end] = struct.pack("<i", self._labels[label] - end)
        return bytes(self._bytes)


def _int(value: int) -> str:
    return struct.pack("<I", value).hex()
