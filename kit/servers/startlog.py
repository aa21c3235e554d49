"""Selects the few lines of a log that say why a server did not start."""

from __future__ import annotations

import re

#: What Triton, its Python backend, its stub and the dynamic loader print when a start fails,
#: the most telling first.
_DECISIVE = tuple(
    re.compile(pattern)
    for pattern in (
        r"error while loading shared libraries|version `\w+_[\d.]+' not found",
        r"^Signal \(\d+\) received|terminate called|^\s*what\(\):",
        r"^\s*\w*(Error|Exception|Interrupt): ",
        r"^E\d{4} ",
        r"^(error|Error|failed|Failed|unexpected|Usage)\b",
        r"UNAVAILABLE: |Internal: |failed to load|already in use|[Nn]o space left|not writable",
    )
)

_BIND_FAILED = re.compile(
    r"already in use|[Aa]ddress in use|No address added out of total"
    r"|failed to start (HTTP|GRPC|Metrics|metrics)|[Ff]ailed to bind"
)

#: What the Python backend ends with where its stub did not come up in the second that it gives it:
#: the machine was too slow, which tells nothing of the server.
_LOST_LOCK = "interprocess::lock_exception"

#: What every start on a machine without GPUs prints, what the kit itself causes, and what gRPC
#: says about sockets, which Triton then says more clearly.
_NOISE = re.compile(
    r"NVML|DCGM|CudaDriverHelper|CUDA driver version|pinned memory pool"
    r"|^Signal \(15\)|chttp2_server"
)

_TABLE = re.compile(r"^\s*\|\s*(\S+)\s*\|\s*\d+\s*\|\s*(UNAVAILABLE: .*?)\s*\|\s*$")


def decisive_lines(log: str, *, most: int = 8) -> list[str]:
    """The lines that tell why a server did not start, in the log's order, each once.

    The last lines if nothing in the log looks like a reason; empty for an empty log.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        row = _TABLE.match(line)
        if row:
            lines[index] = f"model {row[1]} is {row[2]}"
    chosen: set[int] = set()
    seen: set[str] = set()
    for pattern in _DECISIVE:
        for index, line in enumerate(lines):
            words = _without_stamp(line)
            telling = not _NOISE.search(line)
            if len(chosen) < most and words not in seen and pattern.search(line) and telling:
                seen.add(words)
                chosen.add(index)
    if not chosen:
        chosen = set(range(len(lines))[-3:])
    return [_short(lines[index]) for index in sorted(chosen)]


def failed_to_bind(log: str) -> bool:
    """Whether the server ended because a port was taken."""
    return _BIND_FAILED.search(log) is not None


def was_too_slow(log: str) -> bool:
    """Whether the server ended because its Python process was not up in time."""
    return _LOST_LOCK in log


def _without_stamp(line: str) -> str:
    return re.sub(r"^[IWEF]\d{4} [\d:.]+ \d+ \S+\] ?", "", line).strip().strip('"')


def _short(line: str) -> str:
    return line if len(line) <= 300 else line[:297] + "..."
