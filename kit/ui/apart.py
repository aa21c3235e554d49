"""Runs a study of the application in a process of its own, which a closed page does not end.

Voilà ends a page's kernel when the page is closed or loaded again. The study goes on without it:
the panel of the next page finds it by its lock, shows it and can stop it. It stops, with what is
done kept, when the application ends, or its budget.

    python -P -m kit.ui.apart FOLDER [--minutes M] [--on ADDRESS] --owner PID:BEGAN  < STUDY.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import psutil

from kit.errors import KitError
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder
from kit.study.spec import StudySpec

#: How often it is looked whether the application is still there.
LOOK_S = 0.5


def run_apart(
    spec: StudySpec,
    folder: Path,
    *,
    stop: threading.Event,
    minutes: float | None = None,
    on: str | None = None,
) -> StudyFolder:
    """As kit.runner.study.run_study, in a process that outlives this one, but not the parent of
    this one: the application, of which a page's kernel is a child.

    minutes: budget, kept also if this process ends before; None: no limit. on: as of run_study, an
        address or "local".

    Raises:
        KitError: as run_study, with its words.
        ChildProcessError: something that the kit does not expect; its text is the traceback.

    Example:
        >>> run_apart(spec, Path("studies/mine"), stop=threading.Event())  # doctest: +SKIP
    """
    parent = psutil.Process().parent() or psutil.Process()
    command = [sys.executable, "-P", "-m", "kit.ui.apart", str(folder)]
    command += ["--owner", f"{parent.pid}:{parent.create_time()!r}"]
    command += [] if minutes is None else ["--minutes", str(minutes)]
    command += [] if on is None else ["--on", on]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a kernel is ended with its group
    ) as child:
        given: bytes | None = to_json(spec)
        while True:
            try:
                said, _ = child.communicate(given, timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                given = None
                if stop.is_set():
                    child.terminate()
    if stop.is_set() and child.returncode == -signal.SIGTERM:
        return StudyFolder.create(folder, spec)  # stopped before it listened: nothing was begun
    failure = json.loads(said) if said else {}
    if child.returncode != 0 and not failure:  # killed: nobody said why
        failure = {"traceback": f"the process that ran the study ended with {child.returncode}"}
    if "traceback" in failure:
        raise ChildProcessError(failure["traceback"])
    if failure:
        raise KitError(failure["given"], failure["expected"], failure["hint"])
    return StudyFolder(folder)


def main() -> None:
    """Run the study; say on standard output, in JSON, why it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m kit.ui.apart", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--owner", required=True, metavar="PID:BEGAN")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--on")
    asked = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    pid, began = asked.owner.split(":")
    threading.Thread(target=_stop_without, args=(int(pid), float(began), stop), daemon=True).start()
    if asked.minutes:
        timer = threading.Timer(asked.minutes * 60, stop.set)
        timer.daemon = True
        timer.start()
    try:
        from kit.runner.study import run_study

        spec = from_json(sys.stdin.buffer.read(), StudySpec)
        run_study(spec, asked.folder, stop=stop, on=asked.on)
    except KitError as error:
        _say({"given": error.given, "expected": error.expected, "hint": error.hint})
    except Exception:  # noqa: BLE001 - the panel shows it; nobody else would see it
        _say({"traceback": traceback.format_exc()})


def _stop_without(pid: int, began: float, stop: threading.Event) -> None:
    """Set `stop` when the process has ended, or the pid is another one's."""
    while not stop.wait(LOOK_S):
        try:
            owner = psutil.Process(pid)
            if owner.create_time() != began or owner.status() == psutil.STATUS_ZOMBIE:
                break
        except psutil.NoSuchProcess:
            break
    stop.set()


def _say(failure: dict[str, str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the kernel has gone; the study keeps its own
        print(json.dumps(failure), flush=True)


if __name__ == "__main__":
    main()
