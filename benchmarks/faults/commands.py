"""Every way in as a real command, on hostile input, and signals to the command itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripted_server import ScriptedServer
from synthetic_studies import write_study, write_trial

from benchmarks.faults.batch import ROOT, Fault
from benchmarks.faults.readers import FOLDER, HOSTILE, LOG, SECRET, SPEC, _somewhere
from benchmarks.faults.ways import (
    BY_SIGNAL,
    ITS_OWN,
    Command,
    Seen,
    rows_of,
    until,
    verdict_of,
)
from kit.study.encoding import to_json
from kit.study.spec import ServerKind, ServerSpec, StudySpec, Workload

#: Nobody listens there.
NOBODY = "http://127.0.0.1:1"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A command line, and what surrounds it."""

    words: list[str | Path]
    environment: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    stdout: Path | None = None


def _hostile_word(rng: random.Random) -> str:
    return rng.choice([word for word in HOSTILE if "\0" not in word])  # no program can be given it


def _hostile_path(rng: random.Random, folder: Path) -> Path:
    """What is not the file that a command wants."""
    place = folder / "input"
    made: dict[str, Callable[[], object]] = {
        "garbage": lambda: place.write_bytes(rng.randbytes(5000)),
        "empty": place.touch,
        "zeros": lambda: place.write_bytes(bytes(100_000)),
        "a folder": place.mkdir,
        "a pipe": lambda: os.mkfifo(place),
        "a device": lambda: place.symlink_to("/dev/zero"),
        "a link to itself": lambda: place.symlink_to(place),
        "gone": lambda: None,
        "deep JSON": lambda: place.write_text("[" * 300_000),
        "a long line": lambda: place.write_text("x" * 3_000_000),
        "a log": lambda: place.write_text(_log(rng)),
    }
    made[rng.choice(list(made))]()
    return place


def _log(rng: random.Random) -> str:
    texts = sorted((ROOT / "tests/crash/stacks").glob("*.log"))
    one, other = (rng.choice(texts).read_text(errors="replace") for _ in range(2))
    return LOG[rng.choice(list(LOG))](rng, one, other).encode(errors="replace").decode()


def _damaged(rng: random.Random, folder: Path, name: str = "study") -> Path:
    """A study of one crashed trial, of which one file is damaged."""
    (folder / "outside").write_text(SECRET)
    study = write_study(folder / name / "whole", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", crash_after=30)
    files = [path for path in sorted(study.path.rglob("*")) if path.is_file()]
    path = rng.choice(files)
    FOLDER[rng.choice([n for n in FOLDER if n != "a link out"])](rng, path)
    return study.path


def _spec(rng: random.Random, folder: Path) -> Path:
    """A study.json of which one value is another; whatever is left of it reaches nobody."""
    server = ServerSpec(kind=ServerKind.ATTACHED, url=NOBODY, model="m")
    spec = StudySpec(
        name="s", servers=(server,), scenarios=(), workload=Workload(requests=2), repeats=1
    )
    content = json.loads(to_json(spec))
    place, key = _somewhere(rng, content)
    if key != "url":
        place[key] = SPEC[rng.choice(list(SPEC))](rng)
    (folder / "spec.json").write_text(json.dumps(content))
    return folder / "spec.json"


#: Each by its command and what it is given; none of them can start a server.
INPUTS: dict[str, Callable[[random.Random, Path], Asked]] = {
    "`diagnose` of a hostile file": lambda rng, f: Asked(words=["diagnose", _hostile_path(rng, f)]),
    "`report` of a damaged study": lambda rng, f: Asked(
        words=["report", _damaged(rng, f), "--out", f / "r"]
    ),
    "`report` of what is no study": lambda rng, f: Asked(
        words=["report", _hostile_path(rng, f), "--out", f / "r"]
    ),
    "`compare` of a damaged study": lambda rng, f: Asked(
        words=["compare", _damaged(rng, f, "a"), _damaged(rng, f, "b")]
    ),
    "`history` of damaged studies": lambda rng, f: Asked(
        words=["history", _damaged(rng, f).parent]
    ),
    "`pack` of a damaged study": lambda rng, f: Asked(words=["pack", _damaged(rng, f)]),
    "`shrink` of what is no study": lambda rng, f: Asked(words=["shrink", _hostile_path(rng, f)]),
    "`run` of a hostile spec": lambda rng, f: Asked(
        words=["run", "--spec", _spec(rng, f), "--out", f / "s", "--reports", f / "r", "--yes"]
    ),
    "`run` of a hostile file": lambda rng, f: Asked(
        words=["run", "--spec", _hostile_path(rng, f), "--out", f / "s", "--yes"]
    ),
    "`run` with a hostile word": lambda rng, f: Asked(
        words=[
            *("run", "--server", NOBODY, "--model", "m", "--requests", "2", "--yes", "--out"),
            *(f / "s", rng.choice(["--scenario", "--engine", "--protocol", "--seed"])),
            _hostile_word(rng),
        ]
    ),
    "`map` with a hostile word": lambda rng, f: Asked(
        words=["map", "--release", _hostile_word(rng), "--out", f / "s"]
    ),
    "`bisect` with a hostile word": lambda rng, f: Asked(
        words=["bisect", _hostile_word(rng), "--release", "24.05", "--out", f / "s"]
    ),
    "`load` with a hostile word": lambda rng, f: Asked(
        words=[
            *("load", NOBODY, "--model", _hostile_word(rng), "--requests", "2", "--out", f / "s"),
            rng.choice(["--concurrency", "--rate", "--protocol", "--prompt-set", "--workload"]),
            _hostile_word(rng),
        ]
    ),
    "`load` of a hostile address": lambda rng, f: Asked(
        words=[
            "load",
            rng.choice(["http://", "http://[::", "http://a..b", "x:y", "http://1:99999"]),
            *("--model", "m", "--out", f / "s"),
        ]
    ),
    "`load` with hostile secrets": lambda rng, f: Asked(
        words=["load", NOBODY, "--model", "m", "--requests", "2", "--out", f / "s"],
        environment={
            rng.choice(["KIT_HEADERS", "KIT_BEARER_TOKEN", "KIT_CA_FILE"]): _hostile_word(rng)
            or "["
        },
    ),
    "`clean` of a hostile cache": lambda rng, f: Asked(
        words=["clean"],
        environment={
            "TRITON_CRASH_KIT_CACHE": rng.choice(
                ["/dev/null", "/proc", "/", str(_hostile_path(rng, f)), "~nobody/x", "a/b"]
            )
        },
    ),
    "a hostile environment": lambda rng, f: Asked(
        words=rng.choice([["scenarios"], ["releases"], ["doctor"], ["diagnose", "README.md"]]),
        environment=rng.choice(
            [
                {"HOME": "/nonexistent"},
                {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
                {"COLUMNS": rng.choice(["0", "-1", "99999999999999999999", "x"])},
                {"TERM": "\x1b[2J", "NO_COLOR": "\u202e"},
                {"TZ": "../../../etc/passwd"},
                {"XDG_CACHE_HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null"},
            ]
        ),
    ),
    "a full standard output": lambda rng, f: Asked(
        words=rng.choice([["scenarios"], ["releases", "--json"], ["diagnose", "README.md"]]),
        stdout=Path("/dev/full"),
    ),
    "a closed standard output": lambda rng, f: Asked(
        words=rng.choice([["scenarios"], ["releases", "--json"], ["diagnose", "README.md"]]),
        before=("bash", "-c", f'exec "$@" {rng.choice([">&-", "2>&-", "<&-", ">&- 2>&-"])}', "-"),
    ),
    "a reader that has gone": lambda rng, f: Asked(
        words=rng.choice([["scenarios"], ["releases", "--json"], ["diagnose", "README.md"]]),
        before=("bash", "-c", 'set -o pipefail; "$@" | true', "-"),
    ),
}


def inputs(rng: random.Random, folder: Path) -> list[Fault]:
    """Eight commands, each given something hostile."""
    found = []
    for number in range(8):
        name, place = rng.choice(list(INPUTS)), folder / str(number)
        place.mkdir()
        asked = INPUTS[name](rng, place)
        command = Command(
            asked.words,
            place / "c",
            before=asked.before,
            environment=asked.environment,
            stdout=asked.stdout,
        )
        why = command.wrong(ITS_OWN, 100.0)
        if not why and Path("/tmp/P").exists():
            why = "a word was run by a shell"
        words = " ".join(map(repr, map(str, asked.words)))
        found.append((f"input: {name}", why and f"{why} ({words}, {asked.environment})"[:600]))
        shutil.rmtree(place, ignore_errors=True)
    return found


STRIKES: dict[str, list[signal.Signals]] = {
    "SIGINT": [signal.SIGINT],
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "SIGKILL": [signal.SIGKILL],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
    "SIGTERM and SIGINT": [signal.SIGTERM, signal.SIGINT],
    "SIGSTOP and SIGCONT": [signal.SIGSTOP, signal.SIGCONT],
    "SIGSTOP, SIGTERM, SIGCONT": [signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT],
}
REQUESTS, CLIENTS = 600, 4
#: Records of requests that ended so long before a signal are there afterwards.
KEPT_S = 0.75


def strike(command: Command, rng: random.Random, name: str, pause_s: float = 0.3) -> None:
    """Signals to the command itself, with moments between."""
    for number in STRIKES[name]:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            command.process.send_signal(number)
        time.sleep(rng.random() * pause_s)


def codes_after(name: str) -> frozenset[int]:
    """What a command that was struck so may end with."""
    if name == "SIGKILL":
        return ITS_OWN | {-signal.SIGKILL}
    return ITS_OWN if name == "SIGSTOP and SIGCONT" else ITS_OWN | BY_SIGNAL


def strikes(rng: random.Random, folder: Path) -> list[Fault]:
    """Signals to cheap commands at any moment, and to one that sends traffic."""
    found = [_struck(rng, folder / str(number)) for number in range(4)]
    return [*found, _struck_load(rng, folder / "load")]


def _struck(rng: random.Random, folder: Path) -> Fault:
    name = rng.choice(list(STRIKES))
    folder.mkdir()
    log = folder / "log"
    log.write_text("I0101 10:00:00.000000 1 server.cc:1] Started\n" * 20_000)
    words = rng.choice([["diagnose", log], ["clean"], ["scenarios"], ["releases"]])
    command = Command(words, folder / "c")
    time.sleep(rng.random() * 1.2)
    strike(command, rng, name, 0.1)
    return f"strike: {name} to `{words[0]}`", command.wrong(codes_after(name))


def _struck_load(rng: random.Random, folder: Path) -> Fault:
    name, way = rng.choice(list(STRIKES)), rng.choice(["load", "run"])
    early = rng.random() < 0.4
    kind = f"strike: {name} to `{way}`, {'at the start' if early else 'under load'}"
    seen, study = Seen(0.01), folder / "s"
    with ScriptedServer(seen.respond) as server:
        url = f"http://127.0.0.1:{server.port}"
        words: list[str | Path] = {
            "load": ["load", url],
            "run": ["run", "--server", url, "--repeats", "1", "--yes", "--reports", folder / "r"],
        }[way]
        words += ["--model", "m", "--out", study, "--timeout-s", "30"]
        words += ["--requests", str(REQUESTS), "--concurrency", str(CLIENTS)]
        command = Command(words, folder / "first")
        if early:
            time.sleep(4.0 * rng.random())
        else:
            until(lambda: seen.count > 20 or command.process.poll() is not None)
            time.sleep(rng.random())
        struck = time.monotonic()
        strike(command, rng, name)
        why = command.wrong(codes_after(name)) or verdict_of(study)
        lost = seen.before(struck - KEPT_S) - CLIENTS - rows_of(study)
        if not why and lost > 0:
            why = f"{lost} rows were lost"
        if not why and not (study / "done.json").exists():
            seen.delay_s = 0.0
            why = Command(words, folder / "again").wrong(frozenset({0}))
            why = why and f"resumed: {why}"
        if not why and rows_of(study) != REQUESTS:
            why = f"{rows_of(study)} rows of {REQUESTS}"
    return kind, why


def foreigners(rng: random.Random, folder: Path) -> list[Fault]:
    """Processes and files that look like the kit's own, beside `kit clean` and a load."""
    found = []
    names = ["tritonserver", "triton_python_backend_stub", "kit.load.worker.worker"]
    for number in range(3):
        place = folder / str(number)
        place.mkdir()
        name = rng.choice(names)
        program = place / name
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        words = [program, "600"]
        environment = rng.choice([{}, {"TRITON_CRASH_KIT_RUN": "0" * 12}, {"TMPDIR": "/tmp/tck-x"}])
        process = subprocess.Popen(words, env={**os.environ, **environment})
        regions = [Path("/dev/shm") / n for n in (f"triton_python_backend_shm_{os.getpid()}",)]
        regions.append(Path(f"/dev/shm/tck-{os.getpid()}-x"))
        for region in regions:
            region.touch()
        before = (sys.executable, "-c", _ORPHAN) if rng.random() < 0.7 else ()
        if before:  # something to clean, made by a process that is gone
            subprocess.run([*before], cwd=ROOT, check=True, env=dict(os.environ))
        way = rng.choice([["clean"], ["clean", "--dry-run"], ["clean", "--json"]])
        why = Command(way, place / "c").wrong(frozenset({0}))
        if process.poll() is not None:
            why = "the foreign process was ended"
        if not all(region.exists() for region in regions):
            why = "foreign shared memory was removed"
        process.kill()
        process.wait()
        for region in regions:
            region.unlink(missing_ok=True)
        found.append((f"foreign: a {name} beside `{' '.join(way)}`", why))
    Command(["clean"], folder / "last").ended()
    return found


_ORPHAN = """
from pathlib import Path
from kit.servers.runs import register
Path("/dev/shm", f"{register().shm_prefix}x").touch()
"""
