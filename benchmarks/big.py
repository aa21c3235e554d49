"""`python -m benchmarks big`: a study that does not fit into memory, packed and asked.

The requests are synthetic: a closed loop of 64 clients, latencies drawn per release, in nanoseconds
as a worker stamps them. They are written as a worker writes them (Arrow files), then packed, 10
million at a time, so that the disk never holds all of them unpacked. Each step runs in a process
of its own, of which time and peak memory are taken. A folder that is named goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import big_steps, readme
from benchmarks.results import Result, Results

ROOT = Path(__file__).parents[1]
#: Requests that are made and packed in one step.
STEP = 10_000_000
#: What still fits into pandas here.
MOST_FOR_PANDAS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a step took."""

    wall_s: float
    peak_bytes: int
    said: dict[str, float]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks big", description=__doc__)
    parser.add_argument("--requests", type=int, default=STEP, help="(%(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=0, help="token events a request; 0: no stream"
    )
    parser.add_argument("--folder", type=Path, help="where the study is kept, to go on with")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no step after (60)")
    given = parser.parse_args(words)
    began = time.monotonic()
    if given.folder is None:
        with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
            return measure(Path(scratch), given, began)
    given.folder.mkdir(parents=True, exist_ok=True)
    return measure(given.folder, given, began)


def measure(folder: Path, given: argparse.Namespace, began: float) -> int:
    """Make and pack what is missing, then ask."""
    path = folder / "taken.json"
    taken: dict[str, list[dict[str, object]]] = (
        json.loads(path.read_text()) if path.exists() else {}
    )

    def step(name: str, *more: object) -> bool:
        if time.monotonic() - began > 60 * given.minutes:
            print(f"stopped before {name}: run it again to go on", flush=True)
            return False
        found = asdict(child(name, folder / "study", *more))
        taken.setdefault(name, []).append(found)
        path.write_text(json.dumps(taken))
        print(name, *more, found, flush=True)
        return True

    trials = -(-given.requests // big_steps.TRIAL)
    a_step = STEP // big_steps.TRIAL
    for begin in range(0, trials, a_step):
        if len(taken.get("pack", [])) <= begin // a_step:
            if not step("make", begin, min(trials, begin + a_step), given.tokens):
                return 1
            if not step("pack"):
                return 1
    asked = ["count", "sql", "report"] + ["pandas"] * (given.requests <= MOST_FOR_PANDAS)
    for name in asked:
        if name not in taken and not step(name):
            return 1
    write(given, {name: [Taken(**one) for one in of] for name, of in taken.items()})  # type: ignore[arg-type]
    return 0


def write(given: argparse.Namespace, taken: dict[str, list[Taken]]) -> None:
    """The figures into results.json and the table."""
    results = Results()
    more = f" --tokens {given.tokens}" if given.tokens else ""
    command = f"python -m benchmarks big --requests {given.requests}{more}"
    name = f"big_{given.requests}" + (f"_of_{given.tokens}_tokens" if given.tokens else "")

    def add(what: str, value: float, unit: str, target: str | None = None) -> None:
        results.add(
            Result(
                name=f"{name}_{what}", value=value, unit=unit, target=target, command=command,
                rounds=1, note="synthetic requests",
            )
        )  # fmt: skip

    packed = taken["pack"][-1].said
    limit = None if given.tokens else "<= 30"
    add("packed_size", packed["packed_bytes"] / packed["requests"], "bytes a request", limit)
    arrow = sum(one.said["arrow_bytes"] for one in taken["pack"])
    add("arrow_size", arrow / packed["requests"], "bytes a request")
    add("pack_wall", sum(one.wall_s for one in taken["pack"]), "s")
    for what, words in (
        ("pack", "MB at most"),
        ("count", "MB at most, latency quantiles per release"),
        ("sql", "MB at most, the same by study.sql"),
        ("report", "MB at most"),
        ("pandas", "MB at most, the same by pandas"),
    ):
        if what in taken:
            peak = max(one.peak_bytes for one in taken[what])
            aim = None if what == "pandas" else "<= 1500"
            add(f"{what}_memory", peak / 1e6, words, aim)
            if what != "pack":
                add(f"{what}_wall", taken[what][-1].wall_s, "s")
    results.write()
    readme.update()


def child(name: str, study: Path, *more: object) -> Taken:
    """Run one step in a process of its own; its last line is JSON."""
    command = [sys.executable, "-m", "benchmarks.big_steps", name, str(study), *map(str, more)]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Taken(
        wall_s=time.monotonic() - began,
        peak_bytes=usage.ru_maxrss * 1024,
        said=json.loads(said.splitlines()[-1]),
    )
