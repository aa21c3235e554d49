"""`python -m benchmarks faults`: draws seeded faults, and counts what came of them by kind.

Each batch's lines are appended to a file; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.tools import HOME
from kit.servers.cache import cache_root

ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")
_RUN = re.compile("[0-9a-f]{12}")
#: How often a group is drawn, which goes by what a batch of it costs.
WEIGHTS = {
    "http": 5,
    "grpc": 3,
    "raw": 3,
    "metrics": 3,
    "folders": 5,
    "logs": 4,
    "specs": 3,
    "registers": 3,
    "guards": 4,
    "workers": 5,
    "trials": 14,
    "studies": 5,
    "short": 2,
    "disks": 4,
    "limits": 3,
    "clocks": 4,
    "wheels": 5,
    "pairs": 2,
    "pages": 2,
    "notebooks": 1,
    "inputs": 3,
    "strikes": 3,
    "foreigners": 2,
}
#: Groups that mount file systems, in a mount namespace of their own.
MOUNTING = frozenset({"disks", "short"})
#: Groups with real servers, whose wheels are those of the user's own cache.
REAL = frozenset({"trials", "studies", "short"})
#: What they take of it, by links; everything else of theirs is the batch's own.
TAKEN = ("wheels", "libc", "pythons.json")
#: A batch that takes longer than this hangs.
LIMIT_S = 400.0


def run(
    path: Path,
    *,
    seed: int,
    faults: int,
    minutes: float | None = None,
    groups: Sequence[str] = tuple(WEIGHTS),
    parallel: int = 1,
) -> list[tuple[str, str, str]]:
    """Run batches until `faults` were tried or the time is up; all of (group, kind, problem).

    parallel: batches at a time. They are kept in the order of their numbers, so that the same seed
    draws the same, whatever ends first.
    """
    done = read(path)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    running: deque[Future[dict[str, Any]]] = deque()

    def goes_on() -> bool:
        tried = sum(len(batch["faults"]) for batch in done)
        return tried < faults and (until is None or time.monotonic() < until)

    with ThreadPoolExecutor(parallel) as executor:
        while goes_on() or running:
            while goes_on() and len(running) < parallel:
                number = len(done) + len(running)
                rng = random.Random(f"{seed}-{number}")
                group = rng.choices(groups, [WEIGHTS[name] for name in groups])[0]
                running.append(executor.submit(_batch, group, f"{seed}-{number}"))
            batch = running.popleft().result()
            with path.open("a") as file:
                file.write(json.dumps(batch) + "\n")
            _print(len(done), batch)
            done.append(batch)
    return [(batch["group"], kind, why) for batch in done for kind, why in batch["faults"]]


def _print(number: int, batch: dict[str, Any]) -> None:
    took = f"{batch['s']:6.1f} s" if "s" in batch else ""
    print(f"{number:4} {batch['group']:10} {len(batch['faults']):3} faults {took}", flush=True)
    for kind, problem in batch["faults"]:
        if problem:
            print(f"     {kind}: {problem}", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The batches of an earlier run; a line that was cut short is run again."""
    if not path.exists():
        return []
    done = []
    for line in path.read_text().splitlines():
        try:
            done.append(json.loads(line))
        except ValueError:
            break
    path.write_text("".join(json.dumps(batch) + "\n" for batch in done))
    return done


def _batch(group: str, seed: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        cache = Path(scratch) / "cache"
        environment = {**os.environ, "TRITON_CRASH_KIT_CACHE": str(cache)}
        if group in REAL:
            cache.mkdir()
            for name in TAKEN:
                if (cache_root() / name).exists():
                    (cache / name).symlink_to(cache_root() / name)
        began = time.monotonic()
        command = [*_apart(group), sys.executable, "-m", "benchmarks.faults.batch"]
        command += [group, seed, scratch]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
            said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            faults = found or [(f"{group}: the batch", f"died: {done.returncode}, {said[0]}")]
        except subprocess.TimeoutExpired:
            faults = [(f"{group}: the batch", f"took more than {LIMIT_S:.0f} s")]
        if left := _left(cache):
            faults.append((f"{group}: the batch", f"left {', '.join(left)}"))
    return {
        "group": group,
        "seed": seed,
        "s": round(time.monotonic() - began, 1),
        "faults": faults,
    }


def _apart(group: str) -> list[str]:
    """What starts the batch in a mount namespace of its own, if it mounts something."""
    if group not in MOUNTING:
        return []
    apart = ["unshare", "--mount", "--propagation", "private"]
    return apart if os.geteuid() == 0 else [*apart, "--map-root-user"]


def _left(cache: Path) -> list[str]:
    """Runs of the batch that are still on its register, and what is left of their memory."""
    runs = {path.stem for path in (cache / "runs").glob("*.json") if _RUN.fullmatch(path.stem)}
    runs.discard("0123456789ab")  # a foreign file of the registers' batches
    return sorted(runs) + [path.name for run in runs for path in SHM.glob(f"tck-{run}-*")]


def table(found: Iterable[tuple[str, str, str]]) -> str:
    """Faults and problems by kind, as Markdown."""
    tried = Counter((group, kind) for group, kind, _ in found)
    bad = Counter((group, kind) for group, kind, why in found if why)
    lines = ["| group | fault | tried | problems |", "|---|---|---|---|"]
    lines += [f"| {g} | {k} | {n} | {bad[g, k]} |" for (g, k), n in sorted(tried.items())]
    kinds = f"{len(tried)} kinds"
    return "\n".join([*lines, f"| all | {kinds} | {tried.total()} | {bad.total()} |"])


def main(arguments: Sequence[str]) -> int:
    """Run the campaign, or go on with it, and print its table; 1 if there was a problem."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="how many in all (1000)")
    parser.add_argument("--minutes", type=float, help="stop after so long; go on another time")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (1)")
    parser.add_argument("--parallel", type=int, default=1, help="batches at a time (1)")
    parser.add_argument("--groups", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--file", type=Path, help="what was tried so far (CACHE/bench/faults-SEED)")
    given = parser.parse_args(arguments)
    path = given.file or HOME / f"faults-{given.seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = run(
        path,
        seed=given.seed,
        faults=given.faults,
        minutes=given.minutes,
        groups=given.groups,
        parallel=given.parallel,
    )
    print(table(found))
    return int(any(why for _, _, why in found))
