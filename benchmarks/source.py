"""Fast servers to measure clients against: our own in C, and nginx; each on a core of its own."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import pinned, source_core

HERE = Path(__file__).parent
_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A running source."""

    port: int
    shared: mmap.mmap | None
    pid: int
    questions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def count(self) -> tuple[int, int]:
        """(requests, events) served so far, as the source counts them."""
        if self.shared is not None:
            requests, events = struct.unpack("<QQ", self.shared[:16])
            return requests, events
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            link.sendall(b"GET /served HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b""
            while piece := link.recv(4096):
                text += piece
        # nginx counts these questions among its requests.
        return int(text.split(b"requests\n")[1].split()[2]) - next(self.questions), 0

    def stamps(self) -> Iterator[tuple[int, int, list[int]]]:
        """(nonce, received_ns, sent_ns of each event) of every answer, in the order of arrival."""
        assert self.shared is not None
        (used,) = struct.unpack("<Q", self.shared[16:24])
        words = memoryview(self.shared)[_HEADER_BYTES : _HEADER_BYTES + 8 * used].cast("Q")
        at = 0
        while at < used:
            nonce, count, received = words[at : at + 3]
            yield nonce, received, list(words[at + 3 : at + 3 + count])
            at += 3 + count


def compiled(folder: Path, name: str = "source") -> Path:
    """One of our sources, compiled."""
    binary = folder / name
    if not binary.exists():
        subprocess.run(
            ["cc", "-O2", "-o", str(binary), str(HERE / "sources" / f"{name}.c")], check=True
        )
    return binary


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def own_source(
    *, interval_us: int = 0, stamps: int = 0, is_pinned: bool = True, host: str = "127.0.0.1"
) -> Iterator[Source]:
    """Our source: answers in one write, or an event every `interval_us`. host: where it listens."""
    core = source_core() if is_pinned else None
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        port, file = free_port(host), Path(scratch, "shared")
        binary = compiled(Path(scratch))
        command = [str(binary), str(port), str(interval_us), str(file), str(stamps), host]
        with pinned(command, core) as process:
            _wait_for(port, host)
            with file.open("r+b") as opened:
                shared = mmap.mmap(opened.fileno(), 0)
            yield Source(port=port, shared=shared, pid=process.pid)


@contextmanager
def grpc_source(*, is_pinned: bool = True) -> Iterator[Source]:
    """Our source over gRPC, which answers in one write."""
    core = source_core() if is_pinned else None
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        port, file = free_port(), Path(scratch, "shared")
        binary = compiled(Path(scratch), "grpc_source")
        with pinned([str(binary), str(port), str(file)], core) as process:
            _wait_for(port)
            with file.open("r+b") as opened:
                shared = mmap.mmap(opened.fileno(), 0)
            yield Source(port=port, shared=shared, pid=process.pid)


@contextmanager
def nginx_source() -> Iterator[Source]:
    """nginx with one constant answer."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        port = free_port()
        config = (HERE / "sources" / "nginx.conf").read_text().replace("PORT", str(port))
        Path(scratch, "nginx.conf").write_text(config)
        command = [program, "-p", scratch, "-c", "nginx.conf", "-e", "error.log"]
        with pinned(command, source_core()) as process:
            _wait_for(port)
            yield Source(port=port, shared=None, pid=process.pid)


def _wait_for(port: int, host: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def describe_machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    return {"processor": model, "cores": os.cpu_count(), "kernel": os.uname().release}
