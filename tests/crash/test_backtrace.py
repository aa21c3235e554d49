"""Stacks of every shape, whole, cut, interleaved and torn."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.crash.diagnose import diagnose, diagnose_file
from kit.crash.log import shapes, source
from kit.crash.log.backtrace import KEPT, Backtrace, parse_backtraces
from kit.crash.log.shapes import Shape, demangle, read_frame
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.site import fault_frames, plain_module, short_name
from kit.crash.verdict import Evidence, is_reported_crash, judge
from kit.errors import LogError
from kit.study.result import Frame

STACKS = Path(__file__).parent / "stacks"
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how a file that zstd packed begins
READS_ZSTANDARD = sys.version_info >= (3, 14) or any(map(find_spec, ("zstandard", "pyzstd")))
REPORTED = (STACKS / "server-7332.log").read_text()
LOGS = sorted(STACKS.glob("*.log"))

FRAMES = {
    "triton, an address": (
        " 0# 0x0000559334F1667D in /opt/tritonserver/bin/tritonserver",
        Shape.TRITON,
        Frame(index=0, module="tritonserver", offset=None, symbol=None, address=0x0000559334F1667D),
    ),
    "triton, a function of a library": (
        "10# std::vector<int>::at(unsigned long) in /lib/libtriton_x.so",
        Shape.TRITON,
        Frame(
            index=10,
            module="libtriton_x.so",
            offset=None,
            symbol="std::vector<int>::at(unsigned long)",
        ),
    ),
    "triton, a function of a source file": (
        " 6# finish_bdp_ping_locked(void*, absl::Status) at chttp2_transport.cc:?",
        Shape.TRITON,
        Frame(
            index=6,
            module=None,
            offset=None,
            symbol="finish_bdp_ping_locked(void*, absl::Status)",
            source="chttp2_transport.cc:?",
        ),
    ),
    "triton, only an address": (
        " 7# 0x00007FEC5B64F253",
        Shape.TRITON,
        Frame(index=7, module=None, offset=None, symbol=None, address=0x00007FEC5B64F253),
    ),
    "gdb, with a library": (
        "#5  0x00007f80083dade4 in ?? () from /lib/x86_64-linux-gnu/libstdc++.so.6",
        Shape.GDB,
        Frame(
            index=5, module="libstdc++.so.6", offset=None, symbol=None, address=0x00007F80083DADE4
        ),
    ),
    "gdb, with a source": (
        "#0  ___pthread_mutex_lock (mutex=0x20) at ./nptl/pthread_mutex_lock.c:80",
        Shape.GDB,
        Frame(
            index=0,
            module=None,
            offset=None,
            symbol="___pthread_mutex_lock",
            source="./nptl/pthread_mutex_lock.c:80",
        ),
    ),
    "open mpi, an offset": (
        "[host:06082] [ 1] /opt/libtriton_tensorrtllm.so(+0x6751c)[0x7f8ddf4ee51c]",
        Shape.OPENMPI,
        Frame(
            index=1,
            module="libtriton_tensorrtllm.so",
            offset=0x6751C,
            symbol=None,
            address=0x7F8DDF4EE51C,
        ),
    ),
    "open mpi, a mangled function": (
        "[host:1] [ 7] /opt/libx.so(_ZN9turbomind3runEi+0x23d)[0x7f41de1888dd]",
        Shape.OPENMPI,
        Frame(
            index=7,
            module="libx.so",
            offset=None,
            symbol="turbomind::run(int)",
            address=0x7F41DE1888DD,
        ),
    ),
    "ucx": (
        " 1 0x000000000006751c tensorrt_llm::GptManager::returnCompletedRequests()  :0",
        Shape.UCX,
        Frame(
            index=1,
            module=None,
            offset=0x6751C,
            symbol="tensorrt_llm::GptManager::returnCompletedRequests",
        ),
    ),
    "pytorch": (
        "frame #16: <unknown function> + 0xd6de4 (0x7f6cfa991de4 in /usr/lib/libstdc++.so.6)",
        Shape.TORCH,
        Frame(
            index=16,
            module="libstdc++.so.6",
            offset=0xD6DE4,
            symbol=None,
            address=0x7F6CFA991DE4,
        ),
    ),
    "tensorrt-llm, a function": (
        "1       0x7fb4aebbeb71 tensorrt_llm::common::throwRuntimeError(char const*, int) + 82",
        Shape.TRTLLM,
        Frame(
            index=1,
            module=None,
            offset=None,
            symbol="tensorrt_llm::common::throwRuntimeError(char const*, int)",
            address=0x7FB4AEBBEB71,
        ),
    ),
    "the kernel": (
        "tritonserver[1]: segfault at 0 ip 00007f84acb0edd9 sp 0 error 4 in libx.so[7f84ac+d09]",
        Shape.KERNEL,
        Frame(index=0, module="libx.so", offset=None, symbol=None, address=0x7F84ACB0EDD9),
    ),
    "a python traceback": (
        '  File "/a/b.py", line 7, in run',
        Shape.PYTHON,
        Frame(index=0, module="b.py", offset=None, symbol="run", source="/a/b.py:7"),
    ),
    "faulthandler": (
        '  File "/a/b.py", line 7 in run',
        Shape.FAULTHANDLER,
        Frame(index=0, module="b.py", offset=None, symbol="run", source="/a/b.py:7"),
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_is_read_as_printed_by(case: str) -> None:
    line, shape, frame = FRAMES[case]
    printed = read_frame(line)
    assert printed is not None
    assert (printed.shape, printed.frame) == (shape, frame)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fixes #12 (see there) and 3# in",
        "#1 priority (urgent): abort nothing",
        "I1122 10:39:09.400126 12203 grpc_server.cc:2513] Started at 127.0.0.1:21101",
        "INFO 06-07 metrics.py:161] Avg prompt throughput: 0.0 tokens/s, Running: 1 reqs",
        "0# ",
        " 1# in ",
        "[ 1] (+0x1)[0x2",
        "frame #x: nothing",
    ],
)
def test_a_line_that_prints_no_frame_gives_none(line: str) -> None:
    assert read_frame(line) is None


WORDS = {
    # line: (died, signal, component)
    "Signal (11) received.": (True, 11, "other"),
    "Signal (6) received.Signal (11) received.": (True, 6, "other"),
    "Signal (15) received.": (False, None, "none"),
    "Signal (2) received.": (False, None, "none"),
    "INFO prompt: 'why does it say Signal (11) received. and die?'": (False, None, "none"),
    "the log ends in Signal (11) received.": (False, None, "none"),
    "[host:03949] Signal: Segmentation fault (11)": (True, 11, "other"),
    'Thread 27 "tritonserver" received signal SIGSEGV, Segmentation fault.': (True, 11, "other"),
    "E1122 10:39:09.400126 1 server.cc:1] one of twoSignal (11) received.": (True, 11, "other"),
    "free() and malloc(): what": (False, None, "none"),
    "glibc says free(): invalid pointer": (False, None, "none"),
    "loading, 12 of 13free(): invalid pointer": (True, 6, "libc-abort"),
    "*** Error in `tritonserver': double free or corruption (out): 0x5 ***": (
        True,
        6,
        "libc-abort",
    ),
    "tritonserver: malloc.c:2617: sysmalloc: Assertion `old_top' failed.": (
        True,
        6,
        "libc-abort",
    ),
    "the docs say exit code 137": (False, None, "none"),
    "command terminated with exit code 137": (True, 9, "other"),
    '"ExitCode": 139,': (True, 11, "other"),
    "users ask about AsyncEngineDeadError": (False, None, "none"),
    "[async_llm.py:485] vllm.v1.engine.exceptions.EngineDeadError: EngineCore": (
        True,
        None,
        "vllm-engine",
    ),
    "E1 1:2:3.4 8 pb_stub.cc:7] Error generating stream: Background loop is stopped": (
        True,
        None,
        "vllm-engine",
    ),
    "terminate called without an active exception": (True, 6, "other"),
    "free(): double free detected in tcache 2": (True, 6, "libc-abort"),
    "corrupted size vs. prev_size": (True, 6, "libc-abort"),
    "malloc(): unaligned tcache chunk detected": (True, 6, "libc-abort"),
    "*** stack smashing detected ***: terminated": (True, 6, "libc-abort"),
    "INFO malloc trim: corrupted prompt skipped": (False, None, "none"),
    "python3: x.cc:12: int f(): Assertion `a == b' failed.": (True, 6, "other"),
    "[1]    2111498 segmentation fault (core dumped)  tritonserver --help": (True, 11, "other"),
    "./run.sh: line 15:   341 Segmentation fault      tritonserver": (True, 11, "other"),
    "./run.sh: line 15:   341 Killed                  tritonserver": (True, 9, "other"),
    "Killed": (True, 9, "other"),
    "Killed 3 idle workers": (False, None, "none"),
    "mpirun noticed that process rank 0 exited on signal 9 (Killed).": (True, 9, "other"),
    "triton.service: Main process exited, code=dumped, status=11/SEGV": (True, 11, "other"),
    "triton.service: Main process exited, code=exited, status=1/FAILURE": (True, None, "other"),
    "triton.service: Failed with result 'oom-kill'.": (True, 9, "out-of-memory"),
    "Command 'tritonserver' died with <Signals.SIGABRT: 6>.": (True, 6, "other"),
    "subprocess returned non-zero exit status 139.": (True, 11, "other"),
    "Last State: Terminated, Exit Code: 143": (False, None, "none"),
    "Out of memory: Killed process 1 (tritonserver) total-vm:1kB": (True, 9, "out-of-memory"),
    "Out of memory: Killed process 1 (triton_python_b) total-vm:1kB": (True, 9, "out-of-memory"),
    "Out of memory: Killed process 1 (chrome) total-vm:1kB": (False, None, "none"),
    "Worker VllmWorkerProcess pid 1159 died, exit code: -6": (True, 6, "vllm-engine"),
    "Engine core proc EngineCore_DP0 died unexpectedly, shutting down": (
        True,
        None,
        "vllm-engine",
    ),
    "ray: A worker died or was killed while executing a task": (True, None, "vllm-engine"),
    "RuntimeError: CUDA error: device-side assert triggered": (False, None, "cuda"),
    "NVRM: Xid (PCI:0000:01:00): 31, pid=1, MMU Fault": (False, None, "none"),
    "Stub process 'chat_0_0' is not healthy.": (True, None, "python-stub"),
    "root 1059 657 0 May11 pts/0 00:19:02 [triton_python_b] <defunct>": (
        True,
        None,
        "python-stub",
    ),
    "Error: Failed to initialize NVML": (False, None, "none"),
    "W1122 metrics.cc:738] DCGM unable to start: DCGM initialization error": (
        False,
        None,
        "none",
    ),
}


@pytest.mark.parametrize("line", WORDS)
def test_one_line_tells_of_a_death_or_does_not(line: str) -> None:
    for text in (line, f"2024-06-07T17:14:07Z stderr F {line}", f"log before\n{line}\r\nafter\n"):
        if line.startswith("Killed") and "stderr" in text:
            continue  # a shell's word, which no logger prefixes
        found = diagnose(text)
        assert (found.died, found.signal, found.component) == WORDS[line], text


def test_a_quoted_request_longer_than_a_line_is_read_stays_quoted() -> None:
    crash = "\\n".join(REPORTED.splitlines())
    line = f"Received request 1: prompt: '{'word ' * 60_000}', Signal (11) received. {crash}"
    assert not diagnose(f"{line}\nINFO all is well\n").died


def test_a_stub_that_is_started_again_is_not_dead_for_good() -> None:
    restarted = "E1025 9 python_be.cc:2066] Stub process is unhealthy and it will be restarted."
    refused = "E1025 9 pb_stub.cc:1] message: Stub process 'chat_0_0' is not healthy."
    for log in (restarted, f"{refused}\n{restarted}\n{refused}"):
        found = diagnose(log)
        assert (found.died, found.process, found.matches) == (True, "stub", ())
        assert "the server started it again" in found.summary
    gone = diagnose(restarted + "\n" * 100 + refused)
    assert gone.matches[0].id == "stub-dead-health-200"
    many = "\n".join([restarted] * 30) + "\n" * 100 + refused
    assert diagnose(many).matches[0].id == "stub-dead-health-200"


def test_a_gpu_fault_is_the_cause_of_the_engines_death_beside_it() -> None:
    dead = "vllm.engine.async_llm_engine.AsyncEngineDeadError: Task finished unexpectedly."
    assert diagnose(dead).component == "vllm-engine"
    assert diagnose(f"CUDA error: unspecified launch failure\n{dead}").component == "cuda"
    assert diagnose(f"torch.OutOfMemoryError: CUDA out of memory.\n{dead}").component == (
        "out-of-memory"
    )


def test_a_stack_pasted_without_its_first_line_is_recognised() -> None:
    frames = REPORTED[REPORTED.index(" 0# ") :]
    found = diagnose(frames)
    assert (found.died, found.signal) == (True, None)
    assert found.matches[0].id == "rf-map-address-reuse"
    assert is_reported_crash(found.signature)


def _triton(*places: str) -> list[str]:
    return [f"{i:2d}# {place}" for i, place in enumerate(places)]


EIGHT = _triton(*(f"f{i} in /opt/libtritonserver.so" for i in range(8)))


def _names(backtrace: Backtrace) -> list[str | None]:
    return [frame.symbol for frame in backtrace.frames]


WHOLE: list[str | None] = [f"f{i}" for i in range(8)]


def test_the_newest_line_first_is_read_from_the_bottom() -> None:
    (found,) = parse_backtraces("\n".join(["Signal (11) received.", *reversed(EIGHT)]))
    assert (_names(found), found.signal, found.complete) == (WHOLE, 11, True)


def test_two_threads_that_print_into_each_other_give_two_stacks() -> None:
    other = [line.replace(" f", " g") for line in EIGHT]
    lines = itertools.chain(*zip(EIGHT, other, strict=True))
    found = parse_backtraces("Signal (11) received.\nSignal (11) received.\n" + "\n".join(lines))
    assert [b.signal for b in found] == [11, 11]
    assert all(len(b.frames) == 8 and not b.torn for b in found)


def test_two_crashes_of_one_log_are_two_stacks_although_one_is_upside_down() -> None:
    head = "Signal (11) received."
    found = parse_backtraces("\n".join([head, *EIGHT, head, *reversed(EIGHT)]))
    assert [_names(b) for b in found] == [WHOLE, WHOLE]


def test_a_log_that_begins_within_a_stack_gives_its_rest() -> None:
    (found,) = parse_backtraces("\n".join(EIGHT[3:]))
    assert (_names(found), found.complete) == (WHOLE[3:], False)


def test_frames_out_of_order_are_no_stack() -> None:
    (found,) = parse_backtraces("Signal (11) received.\n" + "\n".join(EIGHT[::2] + EIGHT[1::2]))
    assert (found.torn, found.frames, found.signal) == (True, (), 11)


def test_what_was_said_before_the_stack_belongs_to_it() -> None:
    log = (
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
    )
    (found,) = parse_backtraces("\n".join([log, "Signal (6) received.", *EIGHT]))
    assert found.signal == 6
    assert found.messages == (
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "what():  std::bad_alloc",
    )


def test_a_death_without_a_stack_is_reported_as_such() -> None:
    (found,) = parse_backtraces("free(): invalid pointer\nAborted (core dumped)\n")
    assert (found.shape, found.signal, found.frames) == (Shape.NONE, 6, ())
    assert found.messages == ("free(): invalid pointer",)


def test_a_python_traceback_has_what_was_raised_and_its_innermost_frame_first() -> None:
    log = (
        "Traceback (most recent call last):\n"
        '  File "/m/model.py", line 1, in outer\n    inner()\n'
        '  File "/m/model.py", line 2, in inner\n    raise ValueError("no")\n'
        "ValueError: no\n"
    )
    (found,) = parse_backtraces(log)
    assert found.shape is Shape.PYTHON
    assert [frame.symbol for frame in found.frames] == ["inner", "outer"]
    assert (found.signal, found.messages) == (None, ("ValueError: no",))


def test_a_debuggers_broken_line_is_put_together() -> None:
    log = (
        "#0  f (this=0x0)\n    at /src/a.h:669\n#1  0x00005c9ffbc00b8a in g ()\n   from /lib/b.so\n"
    )
    (found,) = parse_backtraces("received signal SIGSEGV, Segmentation fault.\n" + log)
    assert [(f.symbol, f.source, f.module) for f in found.frames] == [
        ("f", "/src/a.h:669", None),
        ("g", None, "b.so"),
    ]


def test_many_handled_exceptions_do_not_push_a_crash_out() -> None:
    handled = '  File "/m/model.py", line 1, in run\n    x\nValueError: no\n' + "\n" * 60
    log = handled * 2 * KEPT + REPORTED + "\n" * 60 + handled * 2 * KEPT
    found = diagnose(log)
    assert found.top_frame == "TRITONBACKEND_ResponseFactoryIsCancelled"
    assert found.deaths == 1


def test_of_several_crashes_the_last_is_described_and_all_are_counted() -> None:
    earlier = "Signal (6) received.\n" + "\n".join(EIGHT) + "\n" * 100
    found = diagnose(earlier + REPORTED)
    assert (found.signal, found.deaths) == (11, 2)


def test_the_handlers_frames_are_left_out_of_the_fault_and_kept_in_the_record() -> None:
    (found,) = (b for b in parse_backtraces(REPORTED) if b.shape is Shape.TRITON)
    assert [frame.index for frame in found.frames] == [0, 1, 2, 3, 4]
    assert [frame.index for frame in fault_frames(found)] == [2, 3, 4]


def test_an_address_becomes_the_offset_from_its_modules_first_mapping() -> None:
    maps = MemoryMap.parse(
        "7f0000000000-7f0000001000 r--p 00000000 fe:00 1    /opt/lib a.so (deleted)\n"
        "7f0000001000-7f0000003000 r-xp 00001000 fe:00 1    /opt/lib a.so (deleted)\n"
        "7f0000003000-7f0000004000 rw-p 00000000 00:00 0 \n"
        "7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0    [vdso]\n"
        "no mapping at all\n"
    )
    assert maps.locate(0x7F0000001234) == ("lib a.so", 0x1234)
    assert maps.locate(0x7FFD00000010) == ("[vdso]", 0x10)
    for unmapped in (0, 0x7F0000003010, 0x7F0000004000, 0x7F0000000000 - 1, 1 << 70):
        assert maps.locate(unmapped) is None


@pytest.mark.parametrize(
    ("given", "short"),
    [
        ("triton::server::(anonymous namespace)::Handler(int)", "triton::server::Handler"),
        ("void a::b<c<d>, e>::f<int>(g<h>)", "a::b::f"),
        ("operator new(unsigned long)", "operator new"),
        ("a::operator<<(b)", "a::operator<<"),
        ("a::operator()(int) const", "a::operator()"),
        ("f(int) [clone .cold]", "f"),
        ("plain", "plain"),
    ],
)
def test_a_functions_short_name(given: str, short: str) -> None:
    assert short_name(given) == short


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("libtritonserver-7e4e39b0.so", "libtritonserver.so"),
        ("libstdc++.so.6.0.30", "libstdc++.so"),
        ("tritonserver", "tritonserver"),
        (None, None),
    ],
)
def test_a_modules_plain_name(given: str | None, plain: str | None) -> None:
    assert plain_module(given) == plain


PIECES = st.sampled_from(
    [line for log in LOGS for line in log.read_text(errors="replace").splitlines()]
)
NOISE = st.one_of(st.text(max_size=80), PIECES, st.builds(lambda a, b: a + b, PIECES, PIECES))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(NOISE, max_size=60).map("\n".join))
def test_no_text_makes_the_room_raise(text: str) -> None:
    found = diagnose(text)
    assert found.died or found.component in ("none", "cuda")
    assert all(0 < match.score < 1 for match in found.matches)
    judge(Evidence(log=text, exit_code=-11))


@settings(max_examples=50, deadline=None)
@example(data=ZSTANDARD, at=0)
@given(data=st.binary(max_size=4000), at=st.integers(0, 400))
def test_no_bytes_make_a_file_undiagnosable(tmp_path_factory: object, data: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("bytes") / "log"  # type: ignore[attr-defined]
    text = REPORTED.encode()
    written = text[:at] + data + text[at:]
    path.write_bytes(written)
    if written.startswith(ZSTANDARD) and not READS_ZSTANDARD:
        with pytest.raises(LogError, match="packed by zstd"):
            diagnose_file(path)
    else:
        assert diagnose_file(path).lines > 0


STACK_LOGS = [log for log in LOGS if "# 0x" in log.read_text() and "alive" not in log.name]


def _is_in_order(numbers: list[int]) -> bool:
    """Whether these are the frame numbers of threads of which each printed 0, 1, 2, ... downward,
    whatever the others printed in between.
    """
    printed: dict[int, int] = {}
    for number in numbers:
        printed[number] = printed.get(number, 0) + 1
        if number and printed[number] > printed.get(number - 1, 0):
            return False
    return True


def _keeps_its_order(lines: list[str]) -> bool:
    """Whether the frames still stand in an order in which a server prints them: every thread's
    downward or upward, all together or behind each announcement, or cut at the beginning.
    """
    groups: list[list[int]] = [[]]
    for line in lines:
        if "Signal (" in line:
            groups.append([])
        if (frame := read_frame(line)) and frame.shape is Shape.TRITON:
            groups[-1].append(frame.index or 0)
    every = [number for group in groups for number in group]
    if len(every) < 3 or every == sorted(set(every)):
        return True
    return any(
        all(_is_in_order(group[::step]) for group in split)
        for split in ([every], groups)
        for step in (1, -1)
    ) or all(_is_in_order(group) or _is_in_order(group[::-1]) for group in groups)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(log=st.sampled_from(STACK_LOGS), order=st.randoms(use_true_random=False))
def test_a_shuffled_log_matches_nothing_by_its_stack(log: Path, order: object) -> None:
    lines = log.read_text().splitlines()
    order.shuffle(lines)  # type: ignore[attr-defined]
    if _keeps_its_order(lines):
        return
    found = diagnose("\n".join(lines))
    assert not is_reported_crash(found.signature)
    stacked = [m for m in found.matches if "fault is in" in m.why or "on the stack" in m.why]
    assert not stacked


@settings(max_examples=60, deadline=None)
@given(log=st.sampled_from(STACK_LOGS), order=st.randoms(use_true_random=False))
def test_frames_out_of_order_and_no_word_of_a_death_are_no_death(log: Path, order: object) -> None:
    lines = [x for x in log.read_text().splitlines() if "# 0x" in x and "Signal (" not in x]
    order.shuffle(lines)  # type: ignore[attr-defined]
    assert _keeps_its_order(lines) or not diagnose("\n".join(lines)).died


def test_a_shuffle_that_leaves_every_threads_frames_in_order_is_still_two_stacks() -> None:
    log = (STACKS / "synthetic-two-threads.log").read_text().splitlines()
    one_behind_the_other = log[:2] + log[2::2] + log[3::2]
    assert _keeps_its_order(one_behind_the_other)
    assert is_reported_crash(diagnose("\n".join(one_behind_the_other)).signature)
    torn = log[:2] + log[5:] + log[2:5]
    assert not _keeps_its_order(torn)
    assert not is_reported_crash(diagnose("\n".join(torn)).signature)


#: A text of eight times the size costs eight times as much where the cost is linear, 64 times where
#: it is quadratic.
TIMES, SUPERLINEAR = 8, 24


def _is_superlinear(read: Callable[[str], object], make: Callable[[int], str]) -> bool:
    """Whether the least cost of a large text stays out of proportion to that of a small one,
    however often both are read: a machine that stalls makes single readings slow, never fast.
    """
    small, large = make(250), make(250 * TIMES)
    least_small = least_large = float("inf")
    for _ in range(30):
        least_small = min(least_small, *(_cpu_s(read, small) for _ in range(4)))
        least_large = min(least_large, _cpu_s(read, large))
        if least_large <= SUPERLINEAR * least_small:
            return False
    return True


def _cpu_s(read: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    read(text)
    return time.process_time() - start


HOSTILE = {
    "log lines": lambda n: REPORTED * (n // 50),
    "frames of one number": lambda n: " 0# 0x00007FA5EAD8D520 in /a/b.so\n" * n,
    "frames that rise for ever": lambda n: "".join(f"{i % 999}# f in /b.so\n" for i in range(n)),
    "announcements": lambda n: "Signal (11) received.\n" * n,
    "one line of blanks": lambda n: "0# " + " in " * (n * 10),
    "one line of brackets": lambda n: "[ 1] /a" + "(+0x1)[0x2] " * (n * 5),
    "one line of templates": lambda n: " 0# " + "a<" * (n * 10) + " in /b.so",
    "binary zeros": lambda n: "\0" * (n * 40),
    "gdb arguments": lambda n: "#1  f (" + "(a=b, " * (n * 5),
    "python files": lambda n: '  File "a.py", line 1, in f\n' * n,
    "json": lambda n: '{"log":' * (n * 5) + "}",
    "quoted prompts": lambda n: "what(): " * (n * 5),
    "requests without a prompt": lambda n: ("Received request prom " * 30 + "prompt\n") * n,
    "loggers before loggers": lambda n: "[1] (a b) 12:34 x | " * (n * 5) + "Signal (11) received.",
    "words before a death": lambda n: "12 a.b: " * (n * 5) + "free(): invalid EngineDeadError",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_no_faster_than_the_log(name: str) -> None:
    assert not _is_superlinear(diagnose, HOSTILE[name])


def test_the_measure_tells_what_is_quadratic_from_what_is_linear() -> None:
    assert not _is_superlinear(lambda text: [text.count("ba") for _ in range(200)], "a".__mul__)
    assert _is_superlinear(lambda text: [text.count("ba") for _ in text], "a".__mul__)


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.log.gz"
    path.write_bytes(gzip.compress(b"x" * 5_000_000) + gzip.compress(REPORTED.encode()))
    assert diagnose_file(path).died  # the second member counts, too
    monkeypatch.setattr(source, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(OSError, match="unpacks to more than"):
        diagnose_file(path)


LARGE = """
import resource, sys
from pathlib import Path
from kit.crash.diagnose import diagnose_file

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

diagnose_file(Path(sys.argv[1]))  # what is built once: the catalog, the patterns
before = peak_bytes()
found = diagnose_file(Path(sys.argv[2]))
print(found.top_frame, found.line, peak_bytes() - before)
"""


@pytest.mark.slow
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    small, large = tmp_path / "small.log", tmp_path / "large.log"
    small.write_text(REPORTED)
    stats = REPORTED.splitlines()[0] + "\n"
    with large.open("w") as file:
        file.write(stats * 30_000)
        file.write(REPORTED)
    told = subprocess.run(
        [sys.executable, "-c", LARGE, small, large], capture_output=True, text=True, check=True
    )
    top, line, grown_bytes = told.stdout.split()
    assert top == "TRITONBACKEND_ResponseFactoryIsCancelled"
    assert int(line) == 30_005
    assert large.stat().st_size > 6_000_000
    assert int(grown_bytes) < 4_000_000


def test_without_a_c_plus_plus_library_a_mangled_name_is_read_in_outline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shapes, "find_library", lambda _: None)
    shapes._has_demangler.cache_clear()
    assert demangle("_ZN9turbomind3runEi") == "turbomind::run"
    shapes._has_demangler.cache_clear()
