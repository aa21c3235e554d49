"""The kit's commands as real processes, and the checks that follow each fault.

A command's end is clean if it said no traceback and moved no cursor, gave one of its exit codes,
and an error with a hint where it failed; if nothing of it runs any more, and its temp files are
gone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripted_server import Script, answer, generate

from benchmarks.faults.batch import ROOT
from kit.cleaning import clean_text
from kit.study.folder import TrialFolder
from kit.study.result import Verdict

#: In the environment of everything that a fault's command starts.
MARK = "TRITON_CRASH_KIT_FAULT"
#: What a command may end with (kit.ui.cli.EXIT_CODES): of itself,
ITS_OWN = frozenset({0, 1, 2, 3, 4})
#: and by a signal that it took: 128 and its number, or the signal itself before it listened.
BY_SIGNAL = frozenset(
    code
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
    for code in (128 + number, -number)
)
#: Of a fault that came from outside; anything else would be said of the server.
FAIR = frozenset({Verdict.INTERRUPTED, Verdict.CLIENT_FAULT, Verdict.SURVIVED})
#: An operating system's or Python's words of a process that ends without having been asked.
_TRACEBACK = re.compile("Traceback \\(most recent|Fatal Python error|Exception ignored")
GOES_AWAY_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command's end: its exit status (negative: the signal), and all that it said."""

    code: int
    out: str
    err: str


class Command:
    """`python -m kit WORDS` in a folder of its own, from its start to its checks."""

    def __init__(
        self,
        words: Sequence[str | Path],
        folder: Path,
        *,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        module: str = "kit",
        stdout: Path | None = None,
        temp: Path | None = None,
    ) -> None:
        """folder: of its output and temp files, made here. before: a program that runs it.
        stdout: written to instead of a file of `folder`; temp: where its temp files go."""
        folder.mkdir(parents=True, exist_ok=True)
        self.temp = temp or folder / "t"
        self.temp.mkdir(exist_ok=True)
        self.mark = str(folder)
        self._files = [stdout or folder / "out", folder / "err"]
        # Without the cache of modules: under a limit of files' size CPython 3.11 damages it.
        own = {MARK: self.mark, "TMPDIR": str(self.temp)}
        own |= {"PYTHONDONTWRITEBYTECODE": "1"} if before else {}
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-P", "-m", module, *map(str, words)],
                cwd=ROOT,
                env={**os.environ, **own, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def ended(self, timeout_s: float = 150.0) -> Ended:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it does not end; it was killed.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        texts = [path.read_text(errors="replace") if path.is_file() else "" for path in self._files]
        return Ended(code=code, out=texts[0], err=texts[1])

    def left(self) -> str:
        """What still runs or lies there some seconds after its end; "": nothing."""
        deadline = time.monotonic() + GOES_AWAY_S
        while True:
            found = [f"process {words}" for words in marked(self.mark)]
            found += [f"temp file {path.name}" for path in self.temp.iterdir()]
            if not found or time.monotonic() > deadline:
                return ", ".join(found)
            time.sleep(0.1)

    def wrong(self, codes: frozenset[int] = ITS_OWN, timeout_s: float = 150.0) -> str:
        """What is wrong with its end, or with what it left; "": nothing."""
        try:
            ended = self.ended(timeout_s)
        except subprocess.TimeoutExpired:
            return f"it did not end within {timeout_s:.0f} s"
        return wrong_of(ended, codes) or (left and f"left: {left}" if (left := self.left()) else "")


def wrong_of(ended: Ended, codes: frozenset[int] = ITS_OWN) -> str:
    """What is wrong with a command's exit status and its words."""
    said = ended.out + ended.err
    last = (ended.err.strip().splitlines() or [""])[-1][:300]
    if _TRACEBACK.search(said):
        return f"a traceback: {last}"
    if clean_text(said.replace("\r", "")) != said.replace("\r", "").replace("\r\n", "\n"):
        return "terminal control"
    if ended.code not in codes:
        return f"it ended with {ended.code}: {last}"
    if ended.code == 1 and not ("error: " in ended.err and "hint: " in ended.err):
        return f"an error without a name: {last}"
    return ""


def marked(mark: str) -> list[str]:
    """The commands of processes that carry the mark and have not ended."""
    needle, found = f"{MARK}={mark}".encode(), []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if needle in Path(entry.path, "environ").read_bytes().split(b"\0"):
                words = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                if words:  # else: a zombie
                    found.append(f"{entry.name} {words[:120].decode(errors='replace')}")
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


def until(met: Callable[[], bool], timeout_s: float = 90.0) -> None:
    """Wait for it.

    Raises:
        TimeoutError: it did not come to that.
    """
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to that")
        time.sleep(0.01)


class Seen:
    """How many requests a server had seen, and when."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._times: list[float] = []

    def respond(self, head: bytes, body: bytes) -> Script:
        """A Triton that is ready, and answers well after `delay_s`."""
        if head.startswith(b"GET"):
            return [answer(b"{}")]
        self._times.append(time.monotonic())
        return [self.delay_s, *generate(head, body)]

    @property
    def count(self) -> int:
        return len(self._times)

    def before(self, moment: float) -> int:
        """How many had come by then."""
        return sum(at <= moment for at in self._times)


def verdict_of(study: Path) -> str:
    """What is said of the server that a fault from outside does not show; "": nothing is."""
    for folder in sorted(study.glob("trials/*")):
        result = TrialFolder(folder).result
        if result is not None and result.verdict not in FAIR:
            return f"{result.verdict.value}: {result.reason}"
    return ""


def rows_of(study: Path) -> int:
    """Records of all trials of a study that can be read."""
    return sum(TrialFolder(path).requests().num_rows for path in study.glob("trials/*"))
