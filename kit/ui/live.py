"""The live view of a study, read from its folder alone: what runs now, how fast, what has died.

It needs nothing of the process that runs the study, so a panel of another kernel, or one made
after a reload, shows the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow.compute as pc

from kit.cleaning import safe_html
from kit.errors import StoreError
from kit.runner.study import STOP
from kit.servers.watch.names import KV_USAGE, WAITING
from kit.study.files import modified_s, read_end, size_bytes
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.grid import COLUMNS
from kit.study.locks import is_locked
from kit.study.plan import most_trials
from kit.study.remarks import read_remarks
from kit.study.result import Outcome, TrialResult
from kit.study.spec import StudySpec, TrialSpec
from kit.study.words import milliseconds, percent
from kit.ui.progress import clock, ending_of, name_of

#: Latencies and the request rate are of the requests that ended in so many seconds.
WINDOW_S = 5.0
#: Files larger than this are not read again at each look.
MOST_BYTES = 24 * 2**20
LOG_LINES = 4
#: A view reads the folder at most this often, and takes at most this share of a core.
LOOK_S = 0.5
SHARE = 0.04

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTrial:
    """One trial under way; what is not known is None."""

    spec: TrialSpec
    phase: str
    sent: int = 0
    ended: int = 0
    in_flight: int = 0
    per_s: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    kv_usage: float | None = None
    waiting: int | None = None
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStudy:
    """A study at one moment."""

    path: Path
    total: int  # at most
    done: tuple[tuple[TrialSpec, TrialResult], ...]  # the last to end is last
    running: tuple[LiveTrial, ...]
    is_running: bool
    left_s: float | None = None  # None: not known yet
    varied: tuple[str, ...] = ()  # words of the traffic that tell cells apart, beside concurrency
    remarks: tuple[str, ...] = ()  # what its run said of itself: hosts that differ, a budget


def read_again(read: Callable[[], T], *, times: int = 5, wait_s: float = 0.2) -> T:
    """What `read` makes of a study that is being run, tried again if a file was not there.

    A trial that is run anew takes its folder away for a moment.

    Raises:
        StoreError: the last try's.
    """
    for _ in range(times - 1):
        try:
            return read()
        except StoreError:
            time.sleep(wait_s)
    return read()


class LiveReader:
    """Reads one study folder again and again; a result that stays is not read twice."""

    def __init__(self, path: Path) -> None:
        self.study = StudyFolder(path)
        self._total: int | None = None
        self._done: dict[str, tuple[TrialSpec, TrialResult]] = {}
        self._specs: dict[str, TrialSpec] = {}
        self._first: tuple[float, int] | None = None

    def read(self) -> LiveStudy:
        """The study now.

        Raises:
            StoreError, SpecError: the folder holds no study that can be read.
        """
        return read_again(self._read)

    def _read(self) -> LiveStudy:
        if self._total is None:
            self._total = most_trials(self.study.spec)
        running = is_running(self.study.path)
        live, ended = [], []
        again: list[tuple[TrialSpec, TrialResult]] = []  # they say nothing of a server
        for place in sorted(self.study.path.glob("trials/*/spec.json")):
            name = place.parent.name
            if name in self._done:
                continue
            folder = TrialFolder(place.parent)
            spec = self._specs.setdefault(name, folder.spec)
            result = folder.result
            if result is None:
                if running:
                    live.append(_live(folder, spec))
            elif result.verdict.is_counted:
                ended.append(((result.ended_ns or 0) + result.wall_offset_ns, name, spec, result))
            elif not running:  # else it waits to be run once more, or is being run
                again.append((spec, result))
        for _, name, spec, result in sorted(ended, key=lambda row: row[0]):
            self._done[name] = spec, result
        return LiveStudy(
            path=self.study.path,
            total=self._total,
            done=(*again, *self._done.values()),
            running=tuple(live),
            is_running=running,
            left_s=self._left_s(len(live)) if running else None,
            varied=_varied(self.study.spec),
            remarks=read_remarks(self.study.path),
        )

    def _left_s(self, running: int) -> float | None:
        now, done = time.monotonic(), len(self._done)
        if self._first is None:
            self._first = now, done
        began, before = self._first
        if done == before or self._total is None:
            return None
        return (now - began) / (done - before) * max(0, self._total - done - running / 2)


def _varied(spec: StudySpec) -> tuple[str, ...]:
    names = [n for n, values in spec.grid.items() if n in COLUMNS and len(values) > 1]
    if spec.limit is not None:
        names.append(spec.limit.by.value)
    return tuple(name for name in dict.fromkeys(names) if name != "concurrency")


def next_look_s(began_s: float) -> float:
    """When a view that began to read at `began_s` (time.monotonic) may read again."""
    return began_s + max(LOOK_S, (time.monotonic() - began_s) / SHARE)


def is_running(path: Path) -> bool:
    """True if a process of this machine, this one included, holds the study's lock."""
    try:
        with (path / "lock").open("r") as file:
            return is_locked(file)
    except OSError:
        return False


def running_study(root: Path) -> Path | None:
    """The newest study below `root` that is being run now; None: none is."""
    locks = sorted(root.glob("*/lock"), key=modified_s, reverse=True)
    return next((lock.parent for lock in locks if is_running(lock.parent)), None)


def ask_to_stop(path: Path) -> None:
    """Have whichever process runs the study end its trials; what is done is kept."""
    (path / STOP).touch()


def _live(folder: TrialFolder, spec: TrialSpec) -> LiveTrial:
    try:
        told = msgspec.json.decode(folder.progress.read_bytes(), type=dict[str, str | int])
        counts = {name: int(told.get(name, 0)) for name in ("sent", "ended", "in_flight")}
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return LiveTrial(spec=spec, phase="waiting")
    per_s, p50, p95 = _pace(folder)
    return LiveTrial(
        spec=spec,
        phase=str(told.get("phase", "")),
        **counts,
        per_s=per_s,
        p50_ms=p50,
        p95_ms=p95,
        kv_usage=_last(folder, KV_USAGE),
        waiting=None if (w := _last(folder, WAITING)) is None else int(w),
        log=_log_tail(folder.log),
    )


def _is_small(folder: TrialFolder, pattern: str) -> bool:
    return sum(size_bytes(path) for path in folder.path.glob(pattern)) <= MOST_BYTES


def _pace(folder: TrialFolder) -> tuple[float | None, float | None, float | None]:
    """Requests a second, median and p95 of those that ended in the last WINDOW_S."""
    is_here = any(folder.path.glob("requests-*.arrows"))  # else on another host, or not begun
    if not is_here or not _is_small(folder, "requests-*.arrows"):
        return None, None, None
    table = folder.requests().select(["sent_ns", "end_ns", "outcome"])
    recent = table.filter(pc.greater(table["end_ns"], time.monotonic_ns() - int(WINDOW_S * 1e9)))
    if not recent.num_rows:
        return 0.0, None, None
    answered = recent.filter(pc.equal(recent["outcome"], Outcome.OK.value))
    span_s = (pc.max(recent["end_ns"]).as_py() - pc.min(recent["sent_ns"]).as_py()) / 1e9
    per_s = recent.num_rows / max(0.25, min(WINDOW_S, span_s))
    if not answered.num_rows:
        return per_s, None, None
    took = sorted(pc.subtract(answered["end_ns"], answered["sent_ns"]).to_pylist())
    return (
        per_s,
        took[len(took) // 2] / 1e6,
        took[min(len(took) - 1, int(0.95 * len(took)))] / 1e6,
    )


def _last(folder: TrialFolder, name: str) -> float | None:
    """The newest value of a figure; None: not exported."""
    if not _is_small(folder, "samples-*.arrows"):
        return None
    table = folder.samples()
    own = table.filter(pc.equal(table["name"], name))
    if not own.num_rows:
        return None
    newest = pc.index(own["t_ns"], pc.max(own["t_ns"])).as_py()
    return float(own["value"][newest].as_py())


def _log_tail(log: Path) -> tuple[str, ...]:
    text = read_end(log, 4096).decode(errors="replace")
    return tuple(line.strip()[:160] for line in text.splitlines()[-LOG_LINES:])


def facts_of(trial: LiveTrial) -> list[tuple[str, str]]:
    """Name and value of what is known of a running trial; what is not exported says so."""
    asked = trial.spec.workload.requests
    facts = [("requests", f"{trial.ended:,} of {asked:,}" if asked else f"{trial.ended:,}")]
    if trial.per_s is not None:
        facts.append(("requests/s", f"{trial.per_s:.1f}"))
    if trial.p50_ms is not None and trial.p95_ms is not None:
        facts.append(("p50", milliseconds(trial.p50_ms)))
        facts.append(("p95", milliseconds(trial.p95_ms)))
    facts.append(("in flight", str(trial.in_flight)))
    facts.append(("waiting", "not exported" if trial.waiting is None else str(trial.waiting)))
    kv = "not exported" if trial.kv_usage is None else percent(trial.kv_usage)
    facts.append(("KV cache", kv))
    return facts


def live_html(live: LiveStudy) -> str:
    """The live view for a notebook, in the colours of its page; every text is escaped."""
    share = len(live.done) / live.total if live.total else 1.0
    left = f", about {clock(live.left_s)} left" if live.left_s is not None else ""
    head = (
        f'<progress value="{share:.3f}" max="1" aria-label="trials done"></progress> '
        f"{len(live.done)} of {live.total} trials{left}"
    )
    running = "".join(
        f'<section class="kit-live-trial"><h4>{safe_html(" ".join(name_of(t.spec).split()))} '
        f"<small>{safe_html(t.phase)}</small></h4><dl>"
        + "".join(
            f"<div><dt>{safe_html(n)}</dt><dd>{safe_html(v)}</dd></div>" for n, v in facts_of(t)
        )
        + "</dl>"
        + (f"<pre>{safe_html(chr(10).join(t.log))}</pre>" if t.log else "")
        + "</section>"
        for t in live.running
    )
    ended = "".join(
        f"<li>{safe_html(' '.join(name_of(spec).split()))} {safe_html(ending_of(result))}</li>"
        for spec, result in live.done[:-9:-1]
    )
    when = "" if live.is_running else "while it ran: "
    remarks = "".join(f"<p><small>{when}{safe_html(text)}</small></p>" for text in live.remarks)
    return (
        f'<div class="kit-progress"><p>{head}</p>{remarks}{crash_html(live)}{running}'
        f'<ul class="kit-ended">{ended}</ul></div>'
    )


def last_death(live: LiveStudy) -> tuple[str, str] | None:
    """How many servers died, and the last one's end; None: none died."""
    died = [(spec, result) for spec, result in live.done if result.verdict.is_death]
    if not died:
        return None
    spec, result = died[-1]
    last = f"Last: {' '.join(name_of(spec).split())} {ending_of(result)}"
    return f"{len(died)} of {len(live.done)} servers died.", last


def crash_html(live: LiveStudy) -> str:
    """The newest death, announced."""
    if (died := last_death(live)) is None:
        return ""
    tally, last = map(safe_html, died)
    return f'<p class="kit-crash" role="status"><strong>{tally}</strong> {last}</p>'
