"""The wall clock jumps: under load workers, and under a whole `kit load`.

Never the machine's own: a small library (clock_shift.c, LD_PRELOAD), compiled into the batch's
folder, shows the processes that load it another time, and shifts the kernel's stamps alike.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from load_helpers import started, workload
from scripted_server import STREAM_HEAD, Script, ScriptedServer, asked, chunk, event, right_text

from benchmarks.faults.batch import Fault
from benchmarks.faults.ways import Command, Seen, until, verdict_of
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, Protocol

ROW = struct.Struct("@qq")
ROWS = 512
S = 1_000_000_000
GAP_S = 0.01
TOKENS = 5
#: When the clock is how far ahead, in ns: (seconds after the first jump, shift).
JUMPS: dict[str, Callable[[random.Random], list[tuple[float, int]]]] = {
    "an hour forward": lambda rng: [(0, 3600 * S)],
    "an hour back": lambda rng: [(0, -3600 * S)],
    "a second forward": lambda rng: [(0, S)],
    "a second back": lambda rng: [(0, -S)],
    "5 ms back": lambda rng: [(0, -S // 200)],
    "to the year 1980": lambda rng: [(0, -45 * 365 * 86400 * S)],
    "to the year 2050": lambda rng: [(0, 25 * 365 * 86400 * S)],
    "this way and that": lambda rng: [(n * 0.05, rng.randrange(-5, 5) * S) for n in range(60)],
    "slewed by 500 ppm": lambda rng: [(n * 0.01, n * 5_000) for n in range(400)],
}


def clocks(rng: random.Random, folder: Path) -> list[Fault]:
    """Three load workers, and one time in three a `kit load`, whose clock jumps."""
    library = folder / "shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    compiler = ["gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"]
    subprocess.run(compiler, check=True)
    found = [_worker(rng, folder / f"w{number}", library) for number in range(3)]
    return found + ([_load(rng, folder / "load", library)] if rng.random() < 0.4 else [])


class Shift:
    """A table of jumps that the library reads, and its environment."""

    def __init__(self, path: Path, library: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(ROWS * ROW.size))
        with path.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(path)}

    def jump(self, jumps: Iterable[tuple[float, int]]) -> None:
        """From now on."""
        now = time.time_ns() + 1_000_000
        for number, (after_s, shift_ns) in enumerate(jumps):
            row = ROW.pack(now + round(after_s * S), shift_ns)
            self._table[number * ROW.size : (number + 1) * ROW.size] = row


def _stream(head: bytes, body: bytes) -> Script:
    """A Triton whose tokens come every GAP_S."""
    pieces = right_text(*asked(body))
    yield STREAM_HEAD
    for piece in pieces:
        yield GAP_S
        yield chunk(event(piece))
    yield b"0\r\n\r\n"


def _worker(rng: random.Random, path: Path, library: Path) -> Fault:
    name = rng.choice(list(JUMPS))
    shift = Shift(path / "shift", library)
    load = workload(
        protocol=Protocol.HTTP_GENERATE_STREAM,
        requests=100,
        output_tokens=workload().output_tokens,
        timeout_s=30.0,
    )
    before = {key: os.environ.get(key) for key in shift.environment}
    with ScriptedServer(_stream) as server:
        os.environ |= shift.environment  # of the worker, which is started here
        began = time.monotonic_ns()
        _, [worker] = started(load, Endpoint(http_port=server.port), path / "trial")
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        until(lambda: worker.progress().ended > 5 or worker.poll() is not None)
        time.sleep(0.5 * rng.random())
        shift.jump(JUMPS[name](rng))
        until(lambda: worker.poll() is not None)
        ended = time.monotonic_ns()
        error = worker.error()
        worker.close()
    rows = TrialFolder(path / "trial").requests().to_pylist()
    why = f"it said {error}" if error else _insane(rows, began, ended, 100)
    return f"clock: {name}, under a load worker", why


def _insane(rows: list[dict[str, Any]], began_ns: int, ended_ns: int, count: int) -> str:
    """What cannot be so of streams whose tokens are sent at least GAP_S apart."""
    if len(rows) != count or any(row["outcome"] != "ok" for row in rows):
        return f"{sum(row['outcome'] == 'ok' for row in rows)} of {len(rows)} rows are well"
    for row in rows:
        times = [row["sent_ns"], *row["token_ns"], row["end_ns"]]
        if times != sorted(times) or row["first_ns"] != row["token_ns"][0]:
            return f"request {row['request']} has times in disorder: {times}"
        if not began_ns <= times[0] <= times[-1] <= ended_ns:
            return f"request {row['request']} lies outside of its run"
        if times[-1] - times[0] < TOKENS * GAP_S * 0.9 * S:
            return f"request {row['request']} took {times[-1] - times[0]} ns, faster than sent"
    return ""


def _load(rng: random.Random, folder: Path, library: Path) -> Fault:
    name = rng.choice(list(JUMPS))
    early = rng.random() < 0.4
    shift = Shift(folder / "shift", library)
    seen = Seen(0.01)
    study = folder / "s"
    with ScriptedServer(seen.respond) as server:
        words = ["load", f"http://127.0.0.1:{server.port}", "--model", "m", "--out", study]
        words += ["--requests", "300", "--concurrency", "4"]
        began = time.monotonic_ns()
        command = Command(words, folder / "c", environment=shift.environment)
        if early:
            time.sleep(4 * rng.random())
        else:
            until(lambda: seen.count > 20 or command.process.poll() is not None)
        shift.jump(JUMPS[name](rng))
        why = command.wrong(frozenset({0})) or verdict_of(study)
        ended = time.monotonic_ns()
    why = why or _of_study(study, began, ended)
    return f"clock: {name}, {'at the start of' if early else 'under'} `load`", why


def _of_study(study: Path, began_ns: int, ended_ns: int) -> str:
    [path] = study.glob("trials/*")
    trial = TrialFolder(path)
    result = trial.result
    assert result is not None
    times = [result.started_ns, result.ready_ns, result.load_started_ns, result.ended_ns]
    if (
        times != sorted(times, key=lambda t: t or 0)
        or not began_ns <= result.started_ns <= ended_ns
    ):
        return f"the trial's times are in disorder: {times}"
    for row in trial.requests().to_pylist():
        if not row["sent_ns"] <= row["first_ns"] <= row["end_ns"]:
            return f"request {row['request']} has times in disorder"
        if row["end_ns"] - row["sent_ns"] < 0.009 * S:
            return f"request {row['request']} was answered before the server did"
    return ""
