"""Shows a study's progress: text with a bar on a terminal, HTML in a notebook."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TextIO

from kit.cleaning import clean_text, safe_html
from kit.study.result import TrialResult, Verdict
from kit.study.spec import TrialSpec

if TYPE_CHECKING:
    from kit.runner.place import RunningTrial
    from kit.runner.study import StudyProgress

BAR_CELLS = 24
#: Where nothing can be redrawn (a pipe, a log file), a line at least this often.
HEARTBEAT_S = 15.0
#: Of the study, before its end is guessed from how it went.
LEAST_SHARE = 0.02
PREPARING = "<i>preparing the servers; a release that is not in the cache is fetched</i>"

_ENDINGS = {
    Verdict.SURVIVED: "survived",
    Verdict.CRASHED: "crashed after",
    Verdict.HUNG: "hung after",
    Verdict.ENGINE_DIED: "lost its engine after",
    Verdict.OUT_OF_MEMORY: "ran out of memory after",
    Verdict.ANSWERS_STOPPED: "stopped answering after",
    Verdict.CLIENT_FAULT: "says nothing (the kit's own side failed) after",
    Verdict.INTERRUPTED: "was interrupted after",
}


def name_of(spec: TrialSpec) -> str:
    """Which trial it is, in fixed columns: release, scenario, concurrency, repeat from 1."""
    clients = spec.workload.arrivals.concurrency
    concurrency = "" if clients is None else f"x{clients}"
    text = f"{spec.release:<6} {spec.scenario:<24} {concurrency:<5} #{spec.repeat + 1}"
    return clean_text(text, lines=False)


def ending_of(result: TrialResult) -> str:
    """What became of a trial, in a few words, with the mark that makes it easy to find."""
    mark = "✗" if result.verdict.is_death else "·"
    if result.verdict is Verdict.SURVIVED:
        mark = "✓"
    unit = "request" if result.completed == 1 else "requests"
    text = f"{mark} {_ENDINGS[result.verdict]} {result.completed} {unit}"
    if result.verdict in (Verdict.CLIENT_FAULT, Verdict.INTERRUPTED):
        return clean_text(f"{text}: {result.reason}", lines=False)
    if result.signature is not None and result.signature.text:
        return clean_text(f"{text}, {result.signature.text}", lines=False)
    return text


def state_of(trial: RunningTrial) -> str:
    """What a running trial is at: its phase, and how many requests have ended."""
    if trial.phase != "loading":
        return clean_text(trial.phase, lines=False)
    asked = trial.spec.workload.requests
    return f"{trial.ended:,} of {asked:,} requests" if asked else f"{trial.ended:,} requests"


def share_done(progress: StudyProgress) -> float:
    """0 to 1: whole trials, and of the running ones the requests that have ended."""
    if progress.total == 0:
        return 1.0
    counted = ((t.ended, t.spec.workload.requests) for t in progress.running)
    parts = sum(min(1.0, ended / asked) for ended, asked in counted if asked)
    return min(1.0, (len(progress.done) + parts) / progress.total)


def bar(share: float, cells: int = BAR_CELLS) -> str:
    full = round(share * cells)
    return "█" * full + "░" * (cells - full)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def expected_left_s(progress: StudyProgress, share_before: float) -> float | None:
    """Seconds until the study's end if it goes on as since its start; None: too soon to tell.

    share_before: what was done already when it was started, 0 to 1.
    """
    share = share_done(progress)
    gained = share - share_before
    return None if gained < LEAST_SHARE else progress.elapsed_s * (1 - share) / gained


def summary_line(progress: StudyProgress, left_s: float | None = None) -> str:
    """One line: bar, trials done, time so far and to come, and what runs now."""
    now = "; ".join(f"{' '.join(name_of(t.spec).split())}: {state_of(t)}" for t in progress.running)
    counts = f"{len(progress.done)} of {progress.total} trials"
    left = "" if left_s is None else f", about {clock(left_s)} left"
    return (
        f"{bar(share_done(progress))} {counts}  {clock(progress.elapsed_s)}{left}  {now}".rstrip()
    )


class TextProgress:
    """Writes a line for every trial that ends and, on a terminal, keeps a bar below them."""

    def __init__(
        self, stream: TextIO, *, columns: int | None = None, every_s: float = HEARTBEAT_S
    ) -> None:
        self._stream = stream
        self._every_s = every_s
        self._redraws = stream.isatty()
        self._columns = columns or shutil.get_terminal_size().columns
        self._written: set[str] | None = None
        self._remarked = 0
        self._share_before = 0.0
        self._last_line_s = 0.0
        self._bar = ""

    def __call__(self, progress: StudyProgress) -> None:
        self._clear()
        if self._written is None:
            self._begin(progress)
        for remark in progress.remarks[self._remarked :]:
            self._write(clean_text(remark, lines=False))
        self._remarked = len(progress.remarks)
        for spec, result in progress.done:
            self._write_ending(spec, result, progress)
        self._keep_below(progress)
        self._stream.flush()

    def _keep_below(self, progress: StudyProgress) -> None:
        if self._redraws:
            self._bar = self._summary(progress)[: self._columns - 1]
            self._stream.write(self._bar)
        elif progress.running and progress.elapsed_s - self._last_line_s >= self._every_s:
            self._write(f"  {self._summary(progress)}")
            self._last_line_s = progress.elapsed_s

    def _summary(self, progress: StudyProgress) -> str:
        return summary_line(progress, expected_left_s(progress, self._share_before))

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")

    def close(self) -> None:
        """Take the bar away, so that what is written next begins on a line of its own."""
        self._clear()
        self._stream.flush()

    def _begin(self, progress: StudyProgress) -> None:
        """Trials that ended in an earlier run of the same study are counted, not listed."""
        self._written = {spec.trial_id for spec, _ in progress.done}
        self._share_before = len(progress.done) / progress.total if progress.total else 0.0
        if self._written:
            self._write(
                f"resumed: {len(self._written)} of {progress.total} trials were there already"
            )

    def _write_ending(self, spec: TrialSpec, result: TrialResult, progress: StudyProgress) -> None:
        assert self._written is not None
        if spec.trial_id in self._written:
            return
        self._written.add(spec.trial_id)
        number = f"{len(self._written):>{len(str(progress.total))}}/{progress.total}"
        self._write(f"{number}  {name_of(spec)}  {ending_of(result)}")
        self._last_line_s = progress.elapsed_s

    def _clear(self) -> None:
        if self._bar:
            self._stream.write("\r" + " " * len(self._bar) + "\r")
            self._bar = ""


def remarks_html(progress: StudyProgress) -> str:
    """What there is to know of where the study runs, a paragraph a remark."""
    return "".join(f"<p>{safe_html(remark)}</p>" for remark in progress.remarks)


def progress_html(progress: StudyProgress) -> str:
    """The same for a notebook; it takes its colours from the page, so dark themes are fine."""
    share = share_done(progress)
    running = "".join(
        f"<tr><td>{safe_html(name_of(t.spec))}</td><td>{safe_html(state_of(t))}</td></tr>"
        for t in progress.running
    )
    ended = "".join(
        f"<tr><td>{safe_html(name_of(spec))}</td><td>{safe_html(ending_of(result))}</td></tr>"
        for spec, result in reversed(progress.done)
    )
    return (
        f'<div class="kit-progress">{remarks_html(progress)}'
        f'<progress value="{share:.3f}" max="1" style="width: 24em"></progress> '
        f"{len(progress.done)} of {progress.total} trials, {clock(progress.elapsed_s)}"
        f'<table style="white-space: pre; text-align: left">{running}{ended}</table></div>'
    )
