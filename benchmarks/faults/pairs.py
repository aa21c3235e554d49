"""Two at once: in one study's folder, in one cache, both cleaning, one reading what is written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scripted_server import ScriptedServer
from synthetic_studies import write_study, write_trial

from benchmarks.faults.batch import ROOT, Fault
from benchmarks.faults.commands import _ORPHAN
from benchmarks.faults.ways import Command, Seen, rows_of, until, verdict_of, wrong_of
from kit.servers.cache import cache_root
from kit.servers.processes import SHM

REQUESTS = 300


def pairs(rng: random.Random, folder: Path) -> list[Fault]:
    """Three cheap pairs, and one of loads."""
    found = []
    for number in range(3):
        name = rng.choice(list(CHEAP))
        place = folder / str(number)
        place.mkdir()
        found.append((f"two at once: {name}", CHEAP[name](rng, place)))
    name = rng.choice(list(LOADS))
    place = folder / "loads"
    place.mkdir()
    seen = Seen(0.01)
    with ScriptedServer(seen.respond) as server:
        why = LOADS[name](rng, place, f"http://127.0.0.1:{server.port}", seen)
    return [*found, (f"two at once: {name}", why)]


def _cleans(rng: random.Random, folder: Path) -> str:
    """Several `clean` at once, each of which finds the same orphans."""
    for _ in range(rng.randrange(1, 4)):
        subprocess.run([sys.executable, "-c", _ORPHAN], cwd=ROOT, check=True)
    runs = [path.stem for path in (cache_root() / "runs").glob("*.json")]
    commands = [Command(["clean"], folder / str(number)) for number in range(3)]
    why = next((why for c in commands if (why := c.wrong(frozenset({0})))), "")
    left = [path.name for run in runs for path in SHM.glob(f"tck-{run}-*")]
    left += [path.name for path in (cache_root() / "runs").glob("*.json")]
    return why or (f"left {left}" if left else "")


#: Fills one entry of the cache, slowly, with a file that says who did; prints what lies there.
_FILLER = """
import os, sys, time
from kit.servers.cache import cached, is_whole
def fill(folder):
    for number in range(20):
        (folder / f"f{number}").write_text(str(os.getpid()))
        time.sleep(0.01)
entry = cached("entries/one", fill)
assert is_whole(entry)
print(len({(entry / f"f{n}").read_text() for n in range(20)}), flush=True)
"""


def _entries(rng: random.Random, folder: Path) -> str:
    """One entry of the cache that several processes fill, of which one is killed meanwhile."""
    children = [
        subprocess.Popen([sys.executable, "-c", _FILLER], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    time.sleep(rng.random() * 0.6)
    victim = rng.choice(children)
    victim.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    said = [(child.communicate()[0], child.returncode) for child in children if child != victim]
    victim.communicate()
    if any(out.strip() != b"1" or code for out, code in said):
        return f"the entry was not one's: {said}"
    scratch = [path.name for path in (cache_root() / "entries").iterdir()]
    scratch = [name for name in scratch if name.startswith(".tck-")]
    Command(["clean"], folder / "c").ended()
    left = [path.name for path in (cache_root() / "entries").glob(".tck-*")]
    return f"left {left}" if left else ""


def _reports(rng: random.Random, folder: Path) -> str:
    """Two reports of one study into one folder."""
    study = _small(folder)
    words = ["report", study, "--out", folder / "r"]
    commands = [Command(words, folder / f"c{number}") for number in range(2)]
    why = next((why for c in commands if (why := c.wrong(frozenset({0})))), "")
    pages = [path.read_text().rstrip() for path in (folder / "r").glob("*.html")]
    whole = pages and all(page.endswith("</html>") for page in pages)
    return why or ("" if whole else f"half a page of {len(pages)}")


def _packs(rng: random.Random, folder: Path) -> str:
    """Two that pack a study, while a third reads it."""
    study = _small(folder)
    before = rows_of(study)
    commands = [Command(["pack", study], folder / f"c{number}") for number in range(2)]
    commands.append(Command(["compare", study, study], folder / "c"))
    why = next((why for c in commands if (why := c.wrong())), "")
    return why or ("" if rows_of(study) == before else f"{rows_of(study)} rows of {before}")


def _small(folder: Path) -> Path:
    study = write_study(folder / "s", ["24.05"], ["cancel-race"])
    for repeat in range(2):
        write_trial(study, "24.05", repeat=repeat, crash_after=30)
    return study.path


CHEAP: dict[str, Callable[[random.Random, Path], str]] = {
    "`clean`": _cleans,
    "one entry of the cache": _entries,
    "`report` into one folder": _reports,
    "`pack` and a reader": _packs,
}


def _words(url: str, study: Path) -> list[str | Path]:
    words: list[str | Path] = ["load", url, "--model", "m", "--out", study]
    return [*words, "--requests", str(REQUESTS), "--concurrency", "4"]


def _whole(study: Path) -> str:
    why = verdict_of(study)
    if not why and (rows_of(study), (study / "done.json").exists()) != (REQUESTS, True):
        why = f"{rows_of(study)} rows of {REQUESTS}"
    return why


def _one_folder(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """The first one runs; the other says that it does, or that it has."""
    first = Command(_words(url, folder / "s"), folder / "a")
    time.sleep(rng.random() * 3)
    second = Command(_words(url, folder / "s"), folder / "b")
    ends = [first.ended(), second.ended()]
    why = next((why for end in ends if (why := wrong_of(end))), "")
    if not why and sorted(end.code for end in ends) != [0, 1]:
        why = f"they ended with {[end.code for end in ends]}"
    return why or _whole(folder / "s") or first.left() or second.left()


def _one_cache(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """Each runs, and one is killed; what the other runs stays."""
    first = Command(_words(url, folder / "a/s"), folder / "a")
    second = Command(_words(url, folder / "b/s"), folder / "b")
    until(lambda: seen.count > 20)
    second.process.kill()
    second.ended()
    return first.wrong(frozenset({0})) or _whole(folder / "a/s") or second.left()


def _cleaned(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """`clean`, again and again, beside a load."""
    load = Command(_words(url, folder / "s"), folder / "a")
    why = ""
    for number in range(20):
        if load.process.poll() is not None or why:
            break
        why = Command(["clean"], folder / f"c{number}").wrong(frozenset({0}))
    return why or load.wrong(frozenset({0})) or _whole(folder / "s")


def _read_meanwhile(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """Readers of a study that is being written: what they see grows, and is never damaged."""
    load = Command(_words(url, folder / "s"), folder / "a")
    before, why = 0, ""
    while load.process.poll() is None and not why:
        rows = rows_of(folder / "s")
        why = f"{rows} rows after {before}" if rows < before else ""
        before = rows
        time.sleep(0.05)
    return load.wrong(frozenset({0})) or why or _whole(folder / "s")


def _folder_gone(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """Somebody moves the study's folder away while it is written."""
    load = Command(_words(url, folder / "s"), folder / "a")
    until(lambda: seen.count > 20 or load.process.poll() is not None)
    time.sleep(rng.random())
    os.rename(folder / "s", folder / "elsewhere")
    why = load.wrong()
    rows = rows_of(folder / "elsewhere")
    return why or verdict_of(folder / "elsewhere") or ("" if rows else "no row is left")


def _spec_changed(rng: random.Random, folder: Path, url: str, seen: Seen) -> str:
    """Another study's spec in the folder of one that runs."""
    load = Command(_words(url, folder / "s"), folder / "a")
    until(lambda: seen.count > 20 or load.process.poll() is not None)
    content = json.loads((folder / "s/study.json").read_text())
    (folder / "s/study.json").write_text(json.dumps(content | {"name": "another"}))
    why = load.wrong()
    return why or verdict_of(folder / "s")


LOADS: dict[str, Callable[[random.Random, Path, str, Seen], str]] = {
    "loads into one folder": _one_folder,
    "loads with one cache": _one_cache,
    "a load and `clean`": _cleaned,
    "a load and its reader": _read_meanwhile,
    "a load and who moves its folder": _folder_gone,
    "a load and who changes its spec": _spec_changed,
}
