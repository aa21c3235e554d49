"""Signals to the commands that start real servers, at any moment: run, map, bisect, shrink."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from pathlib import Path

import msgspec

from benchmarks.faults.batch import Fault
from benchmarks.faults.commands import STRIKES, codes_after, strike
from benchmarks.faults.resources import HOW, Disk
from benchmarks.faults.ways import BY_SIGNAL, FAIR, ITS_OWN, Command, rows_of, until
from kit.crash.log.notices import FAULT_SIGNALS
from kit.servers.processes import SHM
from kit.study.folder import TrialFolder

REQUESTS = 150
#: By its name: its words; where a study lies below the folder that it is given.
WAYS: dict[str, list[str]] = {
    "run": ["run", "--release", "24.05", "--scenario", "control", "--repeats", "1", "--reports"],
    "map": ["map", "--release", "24.05", "--scenario", "control", "--repeats", "1", "--reports"],
    "bisect": ["bisect", "cancel-race", "--release", "23.10,24.05"],
    "shrink": [
        *("shrink", "data/recorded/first_light", "--trial", "24.10_cancel-race_c16_r0"),
        *("--budget", "3", "--parallel", "1", "--runs", "1"),
    ],
}


def _command(way: str, folder: Path, name: str) -> Command:
    words: list[str | Path] = [*WAYS[way]]
    words += [folder / "r"] if words[-1] == "--reports" else []
    words += ["--requests", str(REQUESTS)] if way != "shrink" else []
    return Command([*words, "--out", folder / "s"], folder / name)


def studies(rng: random.Random, folder: Path) -> list[Fault]:
    """One command with real servers, struck; of `run` and `map` the same command then goes on."""
    name, way = rng.choice(list(STRIKES)), rng.choice([*WAYS, "run", "map"])
    early = rng.random() < 0.4
    kind = f"study: {name} to `{way}`, {'at the start' if early else 'under load'}"
    command = _command(way, folder, "first")
    if early:
        time.sleep(6.0 * rng.random())
    else:
        until(lambda: _rows(folder) >= 5 or command.process.poll() is not None, 200.0)
        time.sleep(rng.random())
    strike(command, rng, name)
    if way in ("bisect", "shrink") and name == "SIGSTOP and SIGCONT":
        time.sleep(2.0)  # it goes on; all of it would take minutes
        command.process.send_signal(signal.SIGINT)
        why = command.wrong(ITS_OWN | BY_SIGNAL)
    else:
        why = command.wrong(codes_after(name))
    why = why or _after(folder)
    if not why and way in ("run", "map"):
        again = _command(way, folder, "again")
        why = again.wrong(frozenset({0, 1}))
        done = (folder / "s/done.json").exists()
        if not why and (rows_of(folder / "s") < REQUESTS or not done):
            why = "it was not finished"
        why = (why and f"resumed: {why}") or _after(folder)
    return [(kind, why)]


def _trials(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob("s/**/spec.json")]


def _rows(folder: Path) -> int:
    return sum(TrialFolder(path).requests().num_rows for path in _trials(folder))


def _after(folder: Path) -> str:
    """What was said of a server that did not die by itself, and what is left of it."""
    for path in _trials(folder):
        result, trial = TrialFolder(path).result, TrialFolder(path)
        if result is not None and result.verdict not in FAIR:
            died = result.exit_code is not None and -result.exit_code in FAULT_SIGNALS
            if not died or trial.spec.scenario == "control":
                return f"{result.verdict.value}: {result.reason}"
        if trial.server.exists():
            prefix = msgspec.json.decode(trial.server.read_bytes())["shm_prefix"]
            if left := [region.name for region in SHM.glob(f"{prefix}*")]:
                return f"left: {left}"
    return ""


def short(rng: random.Random, folder: Path) -> list[Fault]:
    """A `run` with a real server, whose shared memory or temp folder fails."""
    where, how = rng.choice(["/dev/shm", "TMPDIR"]), rng.choice(["full", "without inodes"])
    early = rng.random() < 0.5
    kind = f"short: {where} {how}, {'at the start' if early else 'under load'}"
    temp = folder / "temp"
    disk = Disk(SHM if where == "/dev/shm" else temp)
    try:
        words: list[str | Path] = [*WAYS["run"], folder / "r", "--requests", str(REQUESTS)]
        command = Command([*words, "--out", folder / "s"], folder / "first", temp=temp)
        if early:
            time.sleep(6.0 * rng.random())
        else:
            until(lambda: _rows(folder) >= 5 or command.process.poll() is not None, 200.0)
        HOW[how](disk)
        ended = command.wrong()
        disk.mend()
        why = command.left() if ended.startswith("left") else ended
        why = why or _after(folder)
        if not why and not (folder / "s/done.json").exists():
            again = Command([*words, "--out", folder / "s"], folder / "again", temp=temp)
            why = (again_why := again.wrong(frozenset({0}))) and f"resumed: {again_why}"
        return [(kind, why)]
    finally:
        with contextlib.suppress(OSError):
            disk.close()
