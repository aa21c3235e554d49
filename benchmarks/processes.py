"""Measures the processor time of a command's whole process tree, second by second."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36
#: A source's rate below this share of its busiest quarter is warm-up or the end of a run.
_STEADY = 0.3
_WARM_UP_S = 1.0


class Sample(NamedTuple):
    """One look at a running command."""

    t_s: float
    cpu_s: float
    requests: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a command did and took while it ran steadily. None: it never ran steadily."""

    requests: int
    events: int
    steady_s: float | None
    requests_per_s: float | None
    events_per_s: float | None
    cpu_us_a_request: float | None
    cpu_us_an_event: float | None
    cores: float | None  # processor seconds a second
    total_cpu_s: float  # from start to end, starting up included
    peak_rss_bytes: int
    exit_code: int | None
    output: str


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def client_core() -> int:
    """Where clients run; the source has the other one."""
    return cores()[0]


def source_core() -> int:
    return cores()[-1]


@contextmanager
def pinned(command: Sequence[str], core: int | None, **options: object):  # type: ignore[no-untyped-def]
    """The command, running on `core` only, or anywhere; gone at the end."""
    where = ["taskset", "-c", str(core)] if core is not None else []
    process = subprocess.Popen([*where, *command], **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(
    command: Sequence[str],
    count: Callable[[], tuple[int, int]],
    *,
    core: int | None,
    folder: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> Usage:
    """Run `command` to its end (or for `timeout_s`) and look at its tree five times a second.

    count: (requests, events) that the source has served so far.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log = folder / "output.txt"
    others = frozenset(_descendants())  # the source, or a server, and what belongs to it
    children_before, served_before = _reaped_s(), count()
    with log.open("wb") as out:
        where = ["taskset", "-c", str(core)] if core is not None else []
        process = subprocess.Popen(
            [*where, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={**os.environ, **(env or {})},
        )
        samples: list[Sample] = []
        peak = 0
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() - begun < timeout_s:
            cpu_s, rss = _tree(others)
            peak = max(peak, rss)
            samples.append(
                Sample(time.monotonic(), cpu_s + _reaped_s() - children_before, *count())
            )
            time.sleep(0.2)
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _end_all(others)
    total_s = _reaped_s() - children_before
    served = count()
    return _usage(
        samples,
        requests=served[0] - served_before[0],
        events=served[1] - served_before[1],
        total_cpu_s=total_s,
        peak_rss_bytes=peak,
        exit_code=process.returncode,
        output=log.read_text(errors="replace")[-20_000:],
    )


def _usage(
    samples: Sequence[Sample],
    *,
    requests: int,
    events: int,
    total_cpu_s: float,
    peak_rss_bytes: int,
    exit_code: int | None,
    output: str,
) -> Usage:
    span = _steady(samples)
    if span is None:
        a = b = None
    else:
        a, b = span
    seconds = b.t_s - a.t_s if a and b else None
    cpu = b.cpu_s - a.cpu_s if a and b else None
    done = b.requests - a.requests if a and b else 0
    seen = b.events - a.events if a and b else 0
    return Usage(
        requests=requests,
        events=events,
        steady_s=seconds,
        requests_per_s=done / seconds if seconds else None,
        events_per_s=seen / seconds if seconds and seen else None,
        cpu_us_a_request=1e6 * cpu / done if cpu is not None and done else None,
        cpu_us_an_event=1e6 * cpu / seen if cpu is not None and seen else None,
        cores=cpu / seconds if cpu is not None and seconds else None,
        total_cpu_s=total_cpu_s,
        peak_rss_bytes=peak_rss_bytes,
        exit_code=exit_code,
        output=output,
    )


def _steady(samples: Sequence[Sample]) -> tuple[Sample, Sample] | None:
    """The part of a run between its warm-up and its end."""
    rates = [
        (b.requests + b.events - a.requests - a.events) / (b.t_s - a.t_s)
        for a, b in pairwise(samples)
    ]
    busy = sorted(rate for rate in rates if rate > 0)
    if len(busy) < 5:
        return None
    least = _STEADY * busy[len(busy) * 3 // 4]
    active = [index for index, rate in enumerate(rates) if rate > least]
    first, last = active[0], active[-1] + 1
    start = first
    while start < last and samples[start].t_s - samples[first].t_s < _WARM_UP_S:
        start += 1
    return (samples[start], samples[last]) if samples[last].t_s - samples[start].t_s > 0.5 else None


def _tree(others: Container[int]) -> tuple[float, int]:
    """(processor seconds, resident bytes) of all living descendants but `others` and theirs."""
    used = _descendants(others)
    return sum(cpu_s for cpu_s, _ in used.values()), sum(rss for _, rss in used.values())


def _descendants(others: Container[int] = ()) -> dict[int, tuple[float, int]]:
    """Of each: (processor seconds, resident bytes)."""
    children: dict[int, list[int]] = {}
    used: dict[int, tuple[float, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            children.setdefault(int(fields[1]), []).append(int(entry))
            cpu_s = sum(map(int, fields[11:15])) / _TICKS  # its own and its reaped children's
            used[int(entry)] = cpu_s, int(fields[21]) * _PAGE
    found: dict[int, tuple[float, int]] = {}
    to_see = [os.getpid()]
    while to_see:
        for pid in children.get(to_see.pop(), ()):
            if pid not in others:
                found[pid] = used[pid]
                to_see.append(pid)
    return found


def _reaped_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end_all(others: Container[int]) -> None:
    """What a tool left running came to us (we are the subreaper); none of it is to live on."""
    # Asked, then made to; the process that removes the semaphores of the others is last.
    for sign, spares, seconds in (
        (signal.SIGTERM, b"", 3.0),
        (signal.SIGKILL, b"resource_tracker", 3.0),
        (signal.SIGKILL, b"", 3.0),
    ):
        for pid in _descendants(others):
            with contextlib.suppress(OSError):
                if not spares or spares not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while _reap(others) and time.monotonic() < deadline:
            time.sleep(0.05)


def _reap(others: Container[int]) -> bool:
    """Take the ended ones; whether any are left that have not."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return bool(_descendants(others))
