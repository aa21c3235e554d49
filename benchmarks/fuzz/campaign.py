"""Fuzzes the kit's parsers with coverage guidance (atheris), and counts what was tried.

Each target (benchmarks.fuzz.targets) runs in a process of its own with a limit on memory and on
time. Seeds are the tests' samples and the inputs kept in tests/fuzz; an input that reaches new code
stays in the cache, so that a later run goes on from there. A finding ends its target's run: it is
written to the cache, to be mended and kept (`--keep FILE TARGET`), and the count begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fuzz.target import ROOT, Target
from benchmarks.tools import HOME, python_of, venv
from kit.servers.processes import ending_with_us

#: atheris with the hash of each wheel that may be taken.
LOCK = Path(__file__).with_name("atheris.lock")
KEPT = ROOT / "tests" / "fuzz"
MEMORY_MIB = 2048
INPUT_S = 30
#: Processor time of one run of a target; a longer one is several.
SLICE_S = 300.0
#: What libFuzzer says once it has read the seeds: from here on time counts.
_BEGINS = b"\tINITED "
_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: +(\d+)")
_COUNTED = re.compile(r"^#(\d+)\t", re.MULTILINE)
_WRITTEN = re.compile(r"Test unit written to (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a target. finding: what it said, "" where there was none."""

    target: str
    seed: int
    cpu_s: float
    executions: int
    coverage: int  # edges of the kit's code that were reached
    features: int
    inputs: int  # in the corpus
    finding: str = ""
    file: str = ""  # the input that led to it


def install() -> None:
    """Make the environment of atheris, once.

    Raises:
        SystemExit: there is no atheris for this Python or machine.
    """
    home = venv("atheris")
    if (home / ".made").exists():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    pip = [python_of("atheris"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    done = subprocess.run([*pip, "--only-binary", ":all:", "--requirement", str(LOCK)], check=False)
    if done.returncode:
        sys.exit("atheris cannot be installed; it has wheels for CPython 3.11 to 3.13 on x86_64")
    (home / ".made").touch()


def fuzz(target: Target, *, seed: int, cpu_s: float, folder: Path, over: threading.Event) -> Run:
    """Run one target for so much processor time, until its first finding, or until it is `over`."""
    corpus, found = folder / target.name / "corpus", folder / target.name / "findings"
    seeds = folder / target.name / "seeds"
    for one in (corpus, found, seeds):
        one.mkdir(parents=True, exist_ok=True)
    for data in (*target.seeds(), *kept(target.name)):
        (seeds / name_of(data)).write_bytes(data[: target.largest_bytes])
    words = folder / target.name / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    command = [
        *(python_of("atheris"), "-m", "benchmarks.fuzz.one", target.check.__module__, target.name),
        *(f"-seed={seed}", f"-max_len={target.largest_bytes}", f"-dict={words}"),
        *(f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={INPUT_S}", "-print_final_stats=1"),
        *(f"-artifact_prefix={found}/", "-use_value_profile=1", str(corpus), str(seeds)),
    ]
    scratch = folder / target.name / "scratch"  # of a run that was killed, too
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        used_s, said = _run(command, cpu_s, scratch, over)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    file = _WRITTEN.search(said)
    status = [tuple(map(int, one)) for one in _STATUS.findall(said)] or [(0, 0, 0)]
    executions = _EXECUTIONS.search(said)
    counted = [int(one) for one in _COUNTED.findall(said)]
    return Run(
        target=target.name,
        seed=seed,
        cpu_s=round(used_s, 1),
        executions=int(executions[1]) if executions else max(counted, default=0),
        coverage=max(one[0] for one in status),
        features=max(one[1] for one in status),
        inputs=status[-1][2],
        finding=_what(said) if (file and _again(command, file[1])) or not executions else "",
        file=file[1] if file else "",
    )


def _again(command: Sequence[str], file: str) -> bool:
    """Whether an input that took too long does so alone, too.

    libFuzzer goes by the wall clock: a fuzzer that was stopped, or that others keep from the
    processor, takes too long with any input.
    """
    if not Path(file).name.startswith(("timeout-", "slow-unit-")):
        return True
    options = [one for one in command if not Path(one).is_dir()]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*options, file],
            cwd=scratch,
            env=_environment(Path(scratch)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            preexec_fn=ending_with_us(),
        )
    return done.returncode != 0


def _run(
    command: Sequence[str], cpu_s: float, scratch: Path, over: threading.Event
) -> tuple[float, str]:
    """Run it until it has used its time; the time used since it began, and what it said."""
    log = scratch / "log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            cwd=scratch,
            env=_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=ending_with_us(),
        )
        used_s, asked_s, before_s = 0.0, 0.0, -1.0
        try:
            process = psutil.Process(child.pid)
            while child.poll() is None and not over.is_set():
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    break
                total_s = times.user + times.system
                if before_s < 0 and _BEGINS in log.read_bytes():
                    before_s = total_s
                used_s = total_s - before_s if before_s >= 0 else 0.0
                if used_s >= cpu_s and not asked_s:
                    child.send_signal(signal.SIGUSR1)  # libFuzzer ends with its figures
                    asked_s = time.monotonic()
                elif asked_s and time.monotonic() - asked_s > 2 * INPUT_S:
                    child.kill()
                time.sleep(0.2)
        finally:
            if child.poll() is None and (over.is_set() or not asked_s):
                child.kill()
            child.wait()
    return used_s, log.read_text("utf-8", "replace")


def _environment(scratch: Path) -> dict[str, str]:
    path = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "TMPDIR": str(scratch),
        "TRITON_CRASH_KIT_CACHE": str(scratch / "cache"),
    }


def _what(said: str) -> str:
    """The line that says what went wrong."""
    lines = said.splitlines()
    at = next((n for n, line in enumerate(lines) if "Uncaught Python exception" in line), None)
    if at is not None:
        frames = [line.strip() for line in lines[at:] if line.strip().startswith("File ")]
        where = re.sub(r'File ".*/(\w+\.py)", line (\d+), in (\w+)', r"\1:\2 \3", frames[-1])
        return f"{lines[at + 1]} ({where})"
    summary = [line for line in lines if line.startswith(("SUMMARY: ", "==", "ModuleNotFound"))]
    return summary[-1] if summary else (lines or ["it said nothing"])[-1]


def _escaped(word: bytes) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\x{byte:02x}"
        for byte in word
    )


def name_of(data: bytes) -> str:
    """What an input's file is called."""
    return hashlib.sha256(data).hexdigest()[:16]


def kept(target: str) -> list[bytes]:
    """The inputs of a target that the repository keeps: each was a finding once."""
    return [path.read_bytes() for path in sorted((KEPT / target).glob("*"))]


def keep(path: Path, target: str) -> Path:
    """Keep a finding's input in the repository."""
    data = path.read_bytes()
    into = KEPT / target / name_of(data)
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(data)
    return into


def read(path: Path) -> list[Run]:
    """The runs so far; a line that was cut short is dropped."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def since_finding(runs: Iterable[Run]) -> list[Run]:
    """The runs of one target after its last finding."""
    found: list[Run] = []
    for run in runs:
        found = [] if run.finding else [*found, run]
    return found


def table(runs: Sequence[Run], targets: dict[str, Target]) -> str:
    """What was tried since each target's last finding, as Markdown."""
    lines = [
        "| target | reads | CPU minutes | executions | edges | features | findings before |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, target in targets.items():
        own = [run for run in runs if run.target == name]
        clean = since_finding(own)
        minutes = sum(run.cpu_s for run in clean) / 60
        before = len({run.finding for run in own if run.finding})
        lines.append(
            f"| {name} | {target.reads} | {minutes:.1f} | {sum(r.executions for r in clean):,} "
            f"| {max((r.coverage for r in clean), default=0):,} "
            f"| {max((r.features for r in clean), default=0):,} | {before} |"
        )
    return "\n".join(lines)


def run(
    path: Path, targets: Sequence[Target], *, seed: int, minutes: float, jobs: int = 1
) -> list[Run]:
    """Bring each target to so many CPU minutes without a finding, or to its first one.

    jobs: so many targets at a time.
    """
    runs = read(path)
    path.write_text("".join(map(_as_line, runs)))  # without a line that was cut short
    lock, over = threading.Lock(), threading.Event()

    def bring(target: Target) -> None:
        while not over.is_set():
            own = [one for one in runs if one.target == target.name]
            left_s = 60 * minutes - sum(one.cpu_s for one in since_finding(own))
            if left_s <= 0:
                return
            cpu_s, folder = min(left_s, SLICE_S), path.with_suffix("")
            found = fuzz(target, seed=seed + len(own), cpu_s=cpu_s, folder=folder, over=over)
            if over.is_set():
                return  # it was cut off
            with lock, path.open("a") as file:
                runs.append(found)
                file.write(_as_line(found))
                print(_line(found), flush=True)
                if found.finding:
                    print(f"     {found.finding}\n     {found.file}", flush=True)
                    return

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in [pool.submit(bring, target) for target in targets]:
                done.result()
        finally:
            over.set()
    return runs


def _as_line(found: Run) -> str:
    return json.dumps(asdict(found)) + "\n"


def _line(found: Run) -> str:
    figures = f"{found.cpu_s:6.1f} s, {found.executions:>9,} executions, {found.coverage:,} edges"
    return f"{found.target:16} {figures}, {found.features:,} features, {found.inputs:,} inputs"


def main(arguments: Sequence[str]) -> int:
    """Run the targets, or go on with them, and print the table; 1 if there was a finding."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    parser.add_argument("--parsers", nargs="+", metavar="TARGET", help="some of them (all)")
    parser.add_argument("--minutes", type=float, default=10, help="of processor time each (10)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (1)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--file", type=Path, help="what was tried so far (CACHE/bench/fuzz.jsonl)")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    parser.add_argument("--keep", nargs=2, metavar=("FILE", "TARGET"), help="keep an input")
    given: Any = parser.parse_args(arguments)
    from benchmarks.fuzz.targets import TARGETS

    if given.keep:
        print(keep(Path(given.keep[0]), given.keep[1]).relative_to(ROOT))
        return 0
    unknown = sorted(set(given.parsers or ()) - set(TARGETS))
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in given.parsers or TARGETS]
    path = given.file or HOME / "fuzz.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs ends, too
    runs = read(path)
    before = len(runs)
    if not given.table:
        install()
        wanted = {"seed": given.seed, "minutes": given.minutes, "jobs": given.jobs}
        runs = run(path, chosen, **wanted)
    print(table(runs, {target.name: target for target in chosen}))
    return int(any(one.finding for one in runs[before:]))
