"""Writes the folder to send with a bug report: reproduce.py and REPORT.md.

`reproduce.py` stands alone and is tried on fresh servers before the report says what it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kit.crash.catalog import known_crashes
from kit.crash.match import best_of
from kit.errors import ExportError
from kit.reproduce.bug_report import render_report
from kit.reproduce.check import ScriptRun, run_often, tally
from kit.reproduce.finding import FoundCrash, title_of
from kit.reproduce.script import check_exportable, is_grpc, render_script
from kit.study.files import write_whole
from kit.study.releases import embedded_releases, get_release
from kit.study.result import TrialResult
from kit.study.scenarios import get_scenario
from kit.study.spec import ServerKind, TrialSpec

SCRIPT, REPORT = "reproduce.py", "REPORT.md"
#: Of the script's runs that have to crash the server before more requests are tried.
ENOUGH_SHARE = 0.5
MORE_REQUESTS = 4
#: A release without the known crash is tried so often, to be set beside the one that dies.
BESIDE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and what the script did to fresh servers."""

    folder: Path
    trial: TrialSpec  # the traffic of the script
    crash: TrialResult  # what it is to do
    runs: tuple[ScriptRun, ...]  # on the release that dies; empty: not tried
    beside: tuple[ScriptRun, ...]  # on a release that is not known to have the crash

    @property
    def crashed(self) -> int:
        """Runs on the release that dies in which it died of that crash."""
        return tally(self.runs, self.crash).same


def write_reproducer(
    found: FoundCrash, into: Path, *, times: int = 5, parallel: int = 2
) -> Exported:
    """Write reproduce.py and REPORT.md into `into`.

    times: fresh servers that the script is tried on; 0 does not try it. Where its own small model
    dies too seldom it gets more requests, at last the traffic that the crash was found with.

    Raises:
        ExportError: no script can be written for it; nothing was written.
    """
    check_exportable(found.trial)
    into.mkdir(parents=True, exist_ok=True)
    script = into / SCRIPT
    best: tuple[TrialSpec, list[ScriptRun]] | None = None
    for trial in _traffics(found):
        write_whole(script, render_script(trial, title_of(found)).encode())
        runs = try_script(script, trial, trial.release, times=times, parallel=parallel)
        crashes = tally(runs, found.crash).same
        if best is None or crashes > tally(best[1], found.crash).same:
            best = trial, runs
        if crashes >= ENOUGH_SHARE * times:
            break
    assert best is not None
    trial, runs = best
    write_whole(script, render_script(trial, title_of(found)).encode())
    script.chmod(0o755)
    safe = release_beside(found)
    beside = (
        try_script(script, trial, safe, times=min(times, BESIDE), parallel=parallel) if safe else []
    )
    write_whole(into / REPORT, render_report(found, trial, runs, beside).encode())
    return Exported(
        folder=into, trial=trial, crash=found.crash, runs=tuple(runs), beside=tuple(beside)
    )


def try_script(
    script: Path, trial: TrialSpec, release: str, *, times: int, parallel: int
) -> list[ScriptRun]:
    """Runs of the script on fresh servers of `release`; none where it has no wheel."""
    embedded = trial.server.kind is ServerKind.EMBEDDED and get_release(release).wheel
    if not embedded or times < 1:
        return []
    return run_often(
        script,
        release,
        grpc=is_grpc(trial),
        extra_args=get_scenario(trial.scenario).extra_args,
        times=times,
        parallel=parallel,
    )


def release_beside(found: FoundCrash) -> str | None:
    """The next embedded release, else the last before, without any known crash that fits or that
    this traffic leads to.
    """
    matches = best_of(found.diagnosis.matches) if found.diagnosis else ()
    scenario = get_scenario(found.trial.scenario)
    ids = {match.id for match in matches}
    known = [c for c in known_crashes().values() if c.id in ids or scenario.name in c.scenarios]
    names = [release.release for release in embedded_releases()]
    able = [n for n in names if not _lacks(n, scenario.needs)]
    free = [n for n in able if not any(crash.hits(n) for crash in known)]
    later = [n for n in free if n > found.trial.release]
    return later[0] if later else next((n for n in reversed(free)), None) if known else None


def _lacks(release: str, needs: Sequence[str]) -> bool:
    has = get_release(release)
    return (
        ("generate" in needs and not has.has_generate)
        or ("cancellation" in needs and not has.has_cancellation)
        or ("stream-status" in needs and not has.has_stream_status)
    )


def _traffics(found: FoundCrash) -> Iterator[TrialSpec]:
    """The traffic found, more requests of it, and what it was found with."""
    trial, original = found.trial, found.shrunk.original if found.shrunk else found.trial
    yield trial
    most = original.workload.requests or 0
    count = (trial.workload.requests or 0) * MORE_REQUESTS
    if 0 < count < most:
        longer = replace(trial.workload, requests=count)
        yield replace(trial, workload=longer)
    if original.workload != trial.workload:
        try:
            check_exportable(original)
        except ExportError:
            return
        yield original
