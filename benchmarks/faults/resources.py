"""Want of space, inodes, files, memory; a file system that becomes read-only under a load.

Each is a small tmpfs in this batch's own mount namespace (`campaign` starts it in one), or a limit
of one command: nothing else on the machine lacks anything.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from load_helpers import started, workload
from scripted_server import ScriptedServer
from synthetic_studies import write_study, write_trial

from benchmarks.faults.batch import Fault
from benchmarks.faults.ways import (
    Command,
    Seen,
    rows_of,
    until,
    verdict_of,
    wrong_of,
)
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint

REQUESTS = 1200
CLIENTS = 4
#: Records of requests that ended so long before a fault are there afterwards.
KEPT_S = 0.75
FILLER = "filler"


class Disk:
    """A small file system of its own, which can be made full and whole again."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        _mount("-t", "tmpfs", "-o", "size=32m,nr_inodes=3000,mode=1777", "faults", path)

    def fill(self) -> None:
        """Not a byte is left."""
        with contextlib.suppress(OSError), (self.path / FILLER).open("wb", buffering=0) as file:
            while file.write(bytes(65536)) == 65536:
                pass
            while file.write(b"\0"):
                pass

    def use_inodes(self) -> None:
        """Not a file more can be made."""
        with contextlib.suppress(OSError):
            for number in range(4000):
                (self.path / f"{FILLER}{number}").touch()

    def make_read_only(self) -> None:
        """Nothing can be written; waits until no file is open for writing."""
        for _ in range(500):
            if _mount("-o", "remount,ro", self.path, check=False):
                return
            time.sleep(0.01)

    def mend(self) -> None:
        _mount("-o", "remount,rw", self.path)
        for path in self.path.glob(f"{FILLER}*"):
            path.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)


def _mount(*words: str | Path, check: bool = True) -> bool:
    done = subprocess.run(["mount", *words], check=check, capture_output=True)
    return done.returncode == 0


HOW: dict[str, Callable[[Disk], None]] = {
    "full": Disk.fill,
    "without inodes": Disk.use_inodes,
    "read-only": Disk.make_read_only,
}


def disks(rng: random.Random, folder: Path) -> list[Fault]:
    """Three workers and one `kit load`, each of which loses what it writes to."""
    found = [_worker(rng, folder / f"w{number}") for number in range(3)]
    return [*found, _load(rng, folder / "load")]


def _worker(rng: random.Random, path: Path) -> Fault:
    how = rng.choice(["full", "without inodes"])  # what is open for writing is not made read-only
    kind = f"disk: {how} under a load worker"
    seen = Seen(0.005)
    disk = Disk(path)
    try:
        with ScriptedServer(seen.respond) as server:
            load = workload(requests=100_000, timeout_s=60.0)
            trial, [worker] = started(load, Endpoint(http_port=server.port), path / "trial")
            until(lambda: worker.progress().ended > 20 or worker.poll() is not None)
            time.sleep(rng.random())
            struck = time.monotonic()
            HOW[how](disk)
            with contextlib.suppress(TimeoutError):
                until(lambda: worker.poll() is not None, 3.0)
            worker.stop()
            until(lambda: worker.poll() is not None)
            error = worker.error()
            worker.close()
        rows = TrialFolder(trial.path).requests().num_rows
        lost = seen.before(struck - KEPT_S) - CLIENTS - rows
        if lost > 0:
            return kind, f"{lost} rows were lost"
        if how == "full" and error is None:
            return kind, "it lost rows and did not say so" if rows + CLIENTS < seen.count else ""
        return kind, ""
    finally:
        disk.close()


def _load(rng: random.Random, folder: Path) -> Fault:
    """A `kit load` whose study, cache or temp folder fails; then it is there again."""
    where, how = rng.choice(["the study", "the cache", "TMPDIR"]), rng.choice(list(HOW))
    early = rng.random() < 0.4 or (where, how) == ("the study", "read-only")
    kind = f"disk: {where} {how}, {'at the start' if early else 'under load'}"
    folder.mkdir()
    places = {name: folder / name.split()[-1] for name in ("the study", "the cache", "TMPDIR")}
    disk = Disk(places[where])
    study = places["the study"] / "s"
    seen = Seen(0.01)
    try:
        with ScriptedServer(seen.respond) as server:

            def run(name: str) -> Command:
                return Command(
                    [
                        *("load", f"http://127.0.0.1:{server.port}", "--model", "m"),
                        *("--requests", str(REQUESTS), "--concurrency", str(CLIENTS)),
                        *("--out", study),
                    ],
                    folder / name,
                    environment={"TRITON_CRASH_KIT_CACHE": str(places["the cache"])},
                    temp=places["TMPDIR"],
                )

            command = run("first")
            if early:
                time.sleep(4.0 * rng.random())
            else:
                until(lambda: seen.count > 20 or command.process.poll() is not None)
                time.sleep(1.5 * rng.random())
            struck = time.monotonic()
            HOW[how](disk)
            try:
                why = wrong_of(command.ended()) or verdict_of(study)
            except subprocess.TimeoutExpired:
                why = "it did not end"
            lost = seen.before(struck - KEPT_S) - CLIENTS - rows_of(study)
            if not why and lost > 0:
                why = f"{lost} rows were lost"
            disk.mend()
            why = why or command.left()
            if not why and not (study / "done.json").exists():
                seen.delay_s = 0.0
                why = (again := run("again").wrong(frozenset({0}))) and f"resumed: {again}"
                if not why and rows_of(study) != REQUESTS:
                    why = f"resumed: {rows_of(study)} rows"
        return kind, why
    finally:
        disk.close()


#: Of one command: what of it is little, and how little, drawn by the command's cost.
LIMITS: dict[str, Callable[[random.Random], str]] = {
    "few files": lambda rng: f"--nofile={rng.randrange(8, 64)}",
    "small files": lambda rng: f"--fsize={rng.randrange(1, 200_000)}",
    "little memory": lambda rng: f"--as={rng.randrange(100, 1500) * 1_000_000}",
}


def limits(rng: random.Random, folder: Path) -> list[Fault]:
    """Five cheap commands and a load, each of which lacks something."""
    study = write_study(folder / "study", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", crash_after=30)
    log = folder / "server.log"
    log.write_text("I0101 10:00:00.000000 1 server.cc:1] Started\n" * 1000)
    found = []
    for number in range(5):
        words = rng.choice(
            [
                ["diagnose", log],
                ["scenarios"],
                ["clean"],
                ["history", folder],
                ["report", study.path, "--out", folder / f"r{number}.html"],
            ]
        )
        name = rng.choice(list(LIMITS))
        before = ["prlimit", LIMITS[name](rng)]
        command = Command(words, folder / f"c{number}", before=before)
        why = command.wrong()
        found.append((f"limit: {name} for `{words[0]}`", why and f"{before[1]}: {why}"))
    return [*found, _limited_load(rng, folder / "load")]


def _limited_load(rng: random.Random, folder: Path) -> Fault:
    name = rng.choice(list(LIMITS))
    kind, study = f"limit: {name} for `load`", folder / "s"
    before = ["prlimit", LIMITS[name](rng)]
    seen = Seen(0.005)
    with ScriptedServer(seen.respond) as server:
        words = ["load", f"http://127.0.0.1:{server.port}", "--model", "m", "--out", study]
        words += ["--requests", "300", "--concurrency", str(CLIENTS)]
        why = Command(words, folder / "first", before=before).wrong() or verdict_of(study)
        if not why and not (study / "done.json").exists():
            why = Command(words, folder / "again").wrong(frozenset({0}))
            why = why and f"resumed: {why}"
        if not why and rows_of(study) != 300:
            why = f"{rows_of(study)} rows of 300"
    return kind, why and f"{before[1]}: {why}"
