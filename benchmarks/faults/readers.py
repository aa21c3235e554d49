"""What is read: damaged and hostile study folders, logs, specs. The reader lives and says so."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from synthetic_studies import write_study, write_trial

from benchmarks.faults.batch import ROOT, Fault
from kit.cleaning import clean_text
from kit.crash.diagnose import diagnose_chunks
from kit.crash.verdict import Evidence, judge
from kit.errors import KitError
from kit.stats.frames import requests_frame, samples_frame, trials_frame
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder
from kit.study.plan import plan
from kit.study.result import Verdict
from kit.study.spec import StudySpec

SECRET = "a secret of another folder"
#: Of a processor: by the wall clock a busy machine would be what is slow.
SLOW_S = 30.0


def _flip(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes()) or bytearray(1)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _replaced(make: Callable[[Path], object]) -> Callable[[random.Random, Path], None]:
    def change(rng: random.Random, path: Path) -> None:
        path.unlink()
        make(path)

    return change


def _said(text: bytes) -> Callable[[random.Random, Path], None]:
    return lambda rng, path: _write(path, text)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _hostile_text(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"cancel-race", b"\\u001b[2J\\u202e<script>x"))


def _swapped(rng: random.Random, path: Path) -> None:
    folder = path.parent if path.name != "study.json" else path.parent / "trials"
    others = [other for other in sorted(folder.rglob("*")) if other.is_file() and other != path]
    path.write_bytes(rng.choice(others).read_bytes())


FOLDER: dict[str, Callable[[random.Random, Path], None]] = {
    "a flipped bit": _flip,
    "cut short": lambda rng, p: _write(p, p.read_bytes()[: rng.randrange(1 + p.stat().st_size)]),
    "nothing but zeros": lambda rng, p: _write(p, bytes(p.stat().st_size)),
    "zeros at the end": lambda rng, p: _write(p, p.read_bytes() + bytes(4096)),
    "empty": _said(b""),
    "garbage": lambda rng, p: _write(p, rng.randbytes(3000)),
    "garbage behind": lambda rng, p: _write(p, p.read_bytes() + rng.randbytes(300)),
    "a folder in its place": _replaced(Path.mkdir),
    "a pipe in its place": _replaced(os.mkfifo),
    "a device in its place": _replaced(lambda p: p.symlink_to("/dev/zero")),
    "a link out": _replaced(lambda p: p.symlink_to(p.parents[3] / "outside")),
    "a link to itself": _replaced(lambda p: p.symlink_to(p)),
    "gone": lambda rng, p: p.unlink(),
    "deep JSON": _said(b"[" * 300_000),
    "a huge number": _said(b'{"completed": 1' + b"0" * 400 + b"}"),
    "no UTF-8": _said(b'{"trial_id": "\xff\xfe"}'),
    "hostile words": _hostile_text,
    "another file in its place": _swapped,
}


def folders(rng: random.Random, folder: Path) -> list[Fault]:
    """A study of two trials, of which one file is damaged, 20 times anew."""
    whole = write_study(folder / "whole", ["24.05"], ["cancel-race"])
    for repeat in range(2):
        write_trial(whole, "24.05", repeat=repeat, crash_after=30)
    rows = len(requests_frame(whole))
    outside = folder / "outside"
    outside.write_text(SECRET)
    found = []
    for number in range(20):
        name = rng.choice(list(FOLDER))
        study = folder / f"s{number}"
        shutil.copytree(whole.path, study)
        files = sorted(path for path in study.glob("trials/*/*") if path.is_file())
        path = rng.choice([*files, study / "study.json"])
        FOLDER[name](rng, path)
        why = _of_folder(study, rows, is_there=path.name.endswith(".arrows") and name != "gone")
        if outside.read_text() != SECRET:
            why = "wrote outside"
        found.append((f"folder: {name}", f"{path.name}: {why}" if why else ""))
        shutil.rmtree(study)
    return found


def _of_folder(path: Path, rows: int, *, is_there: bool) -> str:
    began = time.process_time()
    study = StudyFolder(path)
    try:
        frames = trials_frame(study), requests_frame(study), samples_frame(study)
        logs = [trial.log_text() or "" for trial in study.trials()]
    except KitError as error:
        return "" if clean_text(str(error)) == str(error) else "an error that is not clean"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"
    if time.process_time() - began > SLOW_S:
        return "slow"
    if any(SECRET in log for log in logs) or SECRET in frames[1].to_string():
        return "read outside"
    if len(frames[1]) > rows:
        return "rows that nobody wrote"
    if len(frames[1]) < rows and is_there and not study.damage:
        return f"{rows - len(frames[1])} rows were lost and nobody said so"
    return ""


ALIVE = "I0101 10:00:00.000000 1 grpc_server.cc:2513] Started GRPCInferenceService at 0.0.0.0:1\n"
ASKED = "I0101 10:00:01.000000 1 model.py:20] request: "
LOG: dict[str, Callable[[random.Random, str, str], str]] = {
    "garbage within": lambda rng, a, b: _inserted(rng, a, rng.randbytes(400).decode("latin-1")),
    "controls within": lambda rng, a, b: _inserted(rng, a, "\x1b[2J\u202e\r\x00\x9b" * 20),
    "a line of a megabyte": lambda rng, a, b: _inserted(rng, a, "x" * 1_000_000),
    "a million brackets": lambda rng, a, b: _inserted(rng, a, "[" * 1_000_000),
    "cut short": lambda rng, a, b: a[: rng.randrange(len(a))],
    "lines in disorder": lambda rng, a, b: "\n".join(rng.sample(a.split("\n"), len(a.split("\n")))),
    "two logs in one": lambda rng, a, b: "\n".join(
        line for pair in zip(a.split("\n"), b.split("\n"), strict=False) for line in pair
    ),
    "a thousand times": lambda rng, a, b: a[:2000] * 1000,
    "UTF-16 as UTF-8": lambda rng, a, b: a.encode("utf-16").decode(errors="replace"),
    "nothing but zeros": lambda rng, a, b: "\0" * 100_000,
    "quoted in a request": lambda rng, a, b: ALIVE + ASKED + json.dumps({"text_input": a}) + "\n",
}


def _inserted(rng: random.Random, log: str, piece: str) -> str:
    at = rng.randrange(len(log))
    return log[:at] + piece + log[at:]


def logs(rng: random.Random, folder: Path) -> list[Fault]:
    """Logs of the tests, changed, through `kit diagnose` and through the verdict."""
    texts = [
        path.read_text(errors="replace")
        for path in sorted((ROOT / "tests/crash/stacks").glob("*.log"))
    ]
    found = []
    for _ in range(20):
        name = rng.choice(list(LOG))
        log = LOG[name](rng, rng.choice(texts), rng.choice(texts))
        began, why = time.process_time(), ""
        try:
            diagnosis = diagnose_chunks([log])
            verdict, _ = judge(Evidence(ended=9, ok=9, load_finished=True, ready=True, log=log))
            if name == "quoted in a request" and (
                diagnosis.died or verdict is not Verdict.SURVIVED
            ):
                why = f"words of a client were believed: {diagnosis.summary[:200]}"
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            why = f"{type(error).__name__}: {error}"
        if time.process_time() - began > SLOW_S:
            why = "slow"
        found.append((f"log: {name}", why))
    return found


HOSTILE = [
    "x$(touch /tmp/P)y",
    "../../x",
    "a b",
    "<b>",
    "\u202e",
    "\0",
    "a" * 5000,
    "*",
    "",
    "a\nb",
]
SPEC: dict[str, Callable[[random.Random], object]] = {
    "a hostile word": lambda rng: rng.choice(HOSTILE),
    "a huge number": lambda rng: 10 ** rng.randrange(10, 400),
    "a negative number": lambda rng: -rng.randrange(1, 10**6),
    "no value": lambda rng: None,
    "a list": lambda rng: [[]],
    "an object": lambda rng: {"a": {}},
    "a fraction": lambda rng: rng.random() * 1e308,
}


def specs(rng: random.Random, folder: Path) -> list[Fault]:
    """A study's spec of which one value is another: a named error, or a plan."""
    whole = json.loads(to_json(write_study(folder / "s", ["24.05"], ["cancel-race"]).spec))
    found = []
    for _ in range(40):
        name = rng.choice(list(SPEC))
        changed = json.loads(json.dumps(whole))
        place, key = _somewhere(rng, changed)
        place[key] = SPEC[name](rng)
        began, why = time.process_time(), ""
        try:
            plan(from_json(json.dumps(changed).encode(), StudySpec))
        except KitError as error:
            if clean_text(str(error)) != str(error):
                why = "an error that is not clean"
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            why = f"{key}: {type(error).__name__}: {error}"
        if time.process_time() - began > SLOW_S:
            why = f"{key}: slow"
        found.append((f"spec: {name}", why))
    return found


def _somewhere(rng: random.Random, value: object) -> tuple[dict[str, object], str]:
    """A place in the spec, drawn at any depth."""
    places: list[tuple[dict[str, object], str]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            places += [(one, key) for key in one]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return rng.choice(places)
