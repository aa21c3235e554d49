"""What is removed: the kit's own, all of it, and nothing that is somebody else's."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.batch import ROOT, Fault
from kit.servers.processes import MARKER, SHM, marked, start_ticks
from kit.servers.runs import Run, register, registered
from kit.servers.traces import sweep

GONE = 2**22 + 1  # more than the largest process number
FOREIGN = ["notes.json", "*.json", "0123456789ab.json", "..json", ".hidden", "a b"]


def _changed(run: Run, **changes: object) -> None:
    content = json.loads(run.record.read_text())
    content["owner"] |= changes
    run.record.write_text(json.dumps(content))


def _orphan(rng: random.Random, run: Run) -> bool:
    _changed(run, pid=GONE)
    return True


def _pid_reused(rng: random.Random, run: Run) -> bool:
    _changed(run, pid=os.getppid(), start_ticks=(start_ticks(os.getppid()) or 0) + 1)
    return True


def _other_container(rng: random.Random, run: Run) -> bool:
    _changed(run, pid=GONE, pid_namespace="pid:[1]")
    return False


def _other_machine(rng: random.Random, run: Run) -> bool:
    _changed(run, pid=GONE, boot="another", host="another")
    return False


def _before_boot(rng: random.Random, run: Run) -> bool:
    _changed(run, boot="another")
    return True


def _zeros(rng: random.Random, run: Run) -> bool:
    run.record.write_bytes(bytes(rng.randrange(500)))
    os.utime(run.record, (1, 1))
    return True


def _garbage(rng: random.Random, run: Run) -> bool:
    run.record.write_bytes(rng.randbytes(200))
    return False


def _folder_elsewhere(rng: random.Random, run: Run) -> bool:
    content = json.loads(run.record.read_text())
    content["owner"]["pid"] = GONE
    content["folder"] = rng.choice(["/", "/tmp", f"/tmp/x/../{run.folder.name}", "", "."])
    run.record.write_text(json.dumps(content))
    return False


#: What a record may have become, and whether its run is then known to be over.
RECORD: dict[str, Callable[[random.Random, Run], bool]] = {
    "alive": lambda rng, run: False,
    "its owner gone": _orphan,
    "its owner's number used again": _pid_reused,
    "of another container": _other_container,
    "of another machine": _other_machine,
    "from before the machine started": _before_boot,
    "zeros after a power cut": _zeros,
    "garbage": _garbage,
    "another folder in it": _folder_elsewhere,
}


def registers(rng: random.Random, folder: Path) -> list[Fault]:
    """Eight runs with records of all kinds, foreign files and processes between them."""
    found, made = [], []
    register().forget()
    place = Path(os.environ["TRITON_CRASH_KIT_CACHE"]) / "runs"
    foreign = [place / name for name in FOREIGN]
    for path in foreign:
        path.write_text('{"mine": true}')
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    other = subprocess.Popen(sleeper, env={MARKER: "0" * 12})
    for _ in range(8):
        name = rng.choice(list(RECORD))
        run = register()
        region = SHM / f"{run.shm_prefix}x"
        region.touch()
        near = SHM / f"tck-{run.name}x"
        near.touch()
        process = subprocess.Popen(sleeper, env={MARKER: run.name})
        made.append((name, run, region, near, process, RECORD[name](rng, run)))
    sweep(dry_run=True)
    swept = {trace.run for trace in sweep()}
    for name, run, region, near, process, is_over in made:
        why = ""
        gone = not region.exists(), not run.folder.exists(), process.poll() is not None
        if is_over and not all(gone):
            why = f"left of it: region, folder, process gone: {gone}"
        if not is_over and any(gone):
            why = f"removed of it: region, folder, process gone: {gone}"
        if not near.exists():
            why = "a region of another name was removed"
        if is_over != (run.name in swept):
            why = why or "not what was listed"
        found.append((f"register: {name}", why))
        process.kill()
        process.wait()
        near.unlink(missing_ok=True)
        region.unlink(missing_ok=True)
        run.forget()
    kept = all(path.exists() for path in foreign) and other.poll() is None
    found.append(("register: foreign files and processes", "" if kept else "touched"))
    other.kill()
    other.wait()
    return found


#: Owns a guarded "server" that leaves all that servers leave: regions, children, temp files.
OWNER = """
import json, os, sys, time
from pathlib import Path
from kit.servers.guarded import GuardedProcess
from kit.servers.runs import register

SERVER = '''
import os, subprocess, sys, time
open("/dev/shm/" + sys.argv[1] + "region", "w").close()
open(os.path.join(os.environ["TMPDIR"], "scratch"), "w").close()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("up", flush=True)
time.sleep(600)
'''
run = register()
server = GuardedProcess(run, [sys.executable, "-c", SERVER, run.shm_prefix], dict(os.environ),
                        Path(sys.argv[1]))
while b"up" not in Path(sys.argv[1]).read_bytes():
    time.sleep(0.02)
print(json.dumps({"run": run.name, "guard": server._guard.pid, "server": server.pid,
                  "folder": str(run.folder), "shm": run.shm_prefix}), flush=True)
server.wait(600)
server.stop(0.0)
"""
#: Who is hit with what, in this order; then the rest has to go by itself, or with the next sweep.
STRIKES: dict[str, list[tuple[str, signal.Signals]]] = {
    "SIGKILL to the owner": [("owner", signal.SIGKILL)],
    "SIGTERM to the owner": [("owner", signal.SIGTERM)],
    "SIGTERM to the guard": [("guard", signal.SIGTERM)],
    "SIGHUP to the guard": [("guard", signal.SIGHUP)],
    "SIGINT to the guard": [("guard", signal.SIGINT)],
    "SIGKILL to the guard": [("guard", signal.SIGKILL)],
    "SIGKILL to the server": [("server", signal.SIGKILL)],
    "SIGSEGV to the server": [("server", signal.SIGSEGV)],
    "SIGSTOP to the server, SIGKILL to the owner": [
        ("server", signal.SIGSTOP),
        ("owner", signal.SIGKILL),
    ],
    "SIGSTOP to the guard, SIGKILL to the owner, SIGCONT": [
        ("guard", signal.SIGSTOP),
        ("owner", signal.SIGKILL),
        ("guard", signal.SIGCONT),
    ],
    "SIGKILL to owner and guard": [("owner", signal.SIGKILL), ("guard", signal.SIGKILL)],
    "SIGKILL to all three": [
        ("owner", signal.SIGKILL),
        ("guard", signal.SIGKILL),
        ("server", signal.SIGKILL),
    ],
}


def guards(rng: random.Random, folder: Path) -> list[Fault]:
    """Signals to the processes around a server, at a random moment of its life."""
    return [_struck(rng, folder / str(number), rng.choice(list(STRIKES))) for number in range(5)]


def _struck(rng: random.Random, folder: Path, name: str) -> Fault:
    folder.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder / "log")], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    told = json.loads(owner.stdout.readline())
    pids = {"owner": owner.pid, "guard": told["guard"], "server": told["server"]}
    time.sleep(rng.random() * 0.2)
    for who, number in STRIKES[name]:
        with contextlib.suppress(ProcessLookupError):  # it went with the one before it
            os.kill(pids[who], number)
        time.sleep(rng.random() * 0.05)
    needs_sweep = "owner and guard" in name or "all three" in name
    deadline = time.monotonic() + 60
    while (left := _left_of(told)) and time.monotonic() < deadline:
        time.sleep(0.1)
        if needs_sweep and owner.poll() is not None:
            sweep()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    why = f"left: {', '.join(left)}" if left else ""
    if not why and told["run"] in {run.name for run in registered()}:
        why = "still on the register"
    return f"guard: {name}", why


def _left_of(told: dict[str, str]) -> list[str]:
    left = [f"process {pid}" for pid in marked(told["run"])]
    left += [path.name for path in SHM.glob(f"{told['shm']}*")]
    return left + ([told["folder"]] if Path(told["folder"]).exists() else [])
