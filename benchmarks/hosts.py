"""`python -m benchmarks dask`: a part of the release map on eight "machines", and on one.

The machines are network namespaces of this one, each with an address and a worker of its own, and
share its cores and its disk. What Dask adds to a trial is taken with one of them, where one trial
runs at a time as it does without; with all of them it is seen whether the verdicts are the same,
not how much faster eight real hosts are. Needs root and `ip`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kit.runner.study import StudyProgress, run_study
from kit.stats.frames import trials_frame
from kit.study.spec import StudySpec
from kit.ui.choices import choose

RELEASES = ("24.05", "24.10")
SCENARIOS = ("control", "cancel-race")
#: What a trial may take beyond itself, more than on this machine without Dask.
TARGET_S = 0.3
NETWORK = "10.231.0"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks dask", description=__doc__)
    parser.add_argument("--hosts", type=int, default=8, metavar="N", help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=4, metavar="N", help="(%(default)s)")
    given = parser.parse_args(words)
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces are to go then, too
    spec = choose(RELEASES, SCENARIOS, requests=60, repeats=given.repeats, name="dask")
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        alone = _timed(spec, Path(scratch) / "alone", on=None)
        with machines(1, Path(scratch)) as address:
            single = _timed(spec, Path(scratch) / "single", on=address)
        with machines(given.hosts, Path(scratch)) as address:
            spread = _timed(spec, Path(scratch) / "spread", on=address)
    print(f"load average before and after: {os.getloadavg()}")
    runs = {"without Dask": alone, "one host": single, f"namespaces: {given.hosts}": spread}
    for name, run in runs.items():
        beyond = sorted(run.beyond_s)
        print(
            f"{name:20} {len(beyond)} trials in {run.wall_s:.1f} s; beyond the trial itself: "
            f"median {statistics.median(beyond):.2f} s, most {beyond[-1]:.2f} s"
        )
    more_s = statistics.median(single.beyond_s) - statistics.median(alone.beyond_s)
    print(f"Dask adds {more_s:.2f} s to a trial (target: {TARGET_S})")
    died = pd.concat({name: run.died for name, run in runs.items()}, axis=1)
    print(f"servers that died, of {given.repeats}:\n{died}")
    same = bool((died > 0).nunique(axis=1).eq(1).all())
    print("the same cells die" if same else "other cells die")
    return int(not same)


@dataclass
class _Run:
    """One study: its wall time, and what was seen of each trial from here."""

    wall_s: float = 0.0
    died: pd.Series = field(default_factory=pd.Series)
    begun_s: dict[str, float] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)
    beyond_s: list[float] = field(default_factory=list)

    def look(self, progress: StudyProgress) -> None:
        now = time.monotonic()
        for trial in progress.running:
            self.begun_s.setdefault(trial.spec.trial_id, now)
        for spec, _ in progress.done:
            self.ended_s.setdefault(spec.trial_id, now)


def _timed(spec: StudySpec, folder: Path, on: str | None) -> _Run:
    """Run the study; from when a trial is handed out to when its result lies in the folder."""
    run, begun = _Run(), time.monotonic()
    study = run_study(spec, folder, parallel=1 if on is None else None, on=on, on_progress=run.look)
    run.wall_s = time.monotonic() - begun
    trials = trials_frame(study).set_index("trial_id")
    run.died = trials.groupby(["release", "scenario"], observed=True)["crashed"].sum()
    run.beyond_s = [
        run.ended_s[name] - run.begun_s[name] - trials.loc[name, "duration_s"]
        for name in run.ended_s
    ]
    return run


@contextlib.contextmanager
def machines(number: int, folder: Path, clock_step_s: int = 0) -> Iterator[str]:
    """A scheduler here and a worker in each of so many namespaces; the scheduler's address.

    clock_step_s: each machine's CLOCK_MONOTONIC is so much ahead of that of the one before it, the
        first one's of ours: a time namespace each. 0: they all have ours.
    """
    bridge, address = f"kb{os.getpid()}"[:15], f"tcp://{NETWORK}.1:8786"
    names = [f"kit{os.getpid()}-{n}" for n in range(number)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for n, name in enumerate(names):
            outer = f"kv{os.getpid()}n{n}"[:15]
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{NETWORK}.{n + 2}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")
        dask = (sys.executable, "-m", "dask")
        scheduler = (*dask, "scheduler", "--host", f"{NETWORK}.1", "--port", "8786")
        stack.enter_context(_running(*scheduler, "--no-dashboard"))
        for n, name in enumerate(names):
            worker = (*dask, "worker", address, "--nthreads", "1", "--no-nanny")
            worker += ("--resources", "trial=1", "--local-directory", str(folder / name))
            ahead = ("unshare", "--fork", "--kill-child", "--time", "--monotonic")
            within = ("ip", "netns", "exec", name)
            within += (*ahead, str((n + 1) * clock_step_s)) if clock_step_s else ()
            stack.enter_context(_running(*within, *worker, "--no-dashboard"))
        _await_workers(address, number)
        yield address


def cap_links(number: int, port: int, rate: str) -> None:
    """Let each of the machines send so much a second to a port, "1mbit" for `tc`, and no more."""
    rules = (
        "qdisc add dev eth0 root handle 1: htb default 2",
        f"class add dev eth0 parent 1: classid 1:1 htb rate {rate} ceil {rate}",
        "class add dev eth0 parent 1: classid 1:2 htb rate 1gbit",
        f"filter add dev eth0 parent 1: protocol ip u32 match ip dport {port} 0xffff flowid 1:1",
    )
    for n in range(number):
        for rule in rules:
            inside = ("ip", "netns", "exec", f"kit{os.getpid()}-{n}", "tc", *rule.split())
            subprocess.run(inside, check=True, capture_output=True)


def _await_workers(address: str, number: int) -> None:
    """All of them are there before the clock starts."""
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(number, timeout=180)


@contextlib.contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # The whole group: unshare, which waits for the worker, does not hear of it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
