"""Collects what is known of the commonest crash of a shrinking, or of repeats of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kit.crash.diagnose import Diagnosis, diagnose
from kit.crash.groups import commonest_death, same_crash
from kit.crash.stack.maps import MemoryMap
from kit.errors import NotEnoughDataError
from kit.reproduce.shrink import Shrunk
from kit.stats.intervals import Interval, share
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.releases import get_release
from kit.study.result import TrialResult, Verdict
from kit.study.spec import TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A crash, how often its traffic leads to it, and what is known of it."""

    trial: TrialSpec  # the traffic
    crash: TrialResult  # one of the deaths
    trials: int
    deaths: int
    share: Interval
    iterations: tuple[int, ...]  # requests completed before each death, sorted
    diagnosis: Diagnosis | None  # of that death's log; None: it was not kept
    shrunk: Shrunk | None = None


def finding_of(shrunk: Shrunk, study: StudyFolder) -> Finding:
    """What a shrinking found; `study` holds its trials.

    Raises:
        NotEnoughDataError: no server died in it.
    """
    if shrunk.crash is None or shrunk.share is None:
        raise _no_death(shrunk.original)
    return Finding(
        trial=shrunk.smallest,
        crash=shrunk.crash,
        trials=shrunk.trials,
        deaths=shrunk.deaths,
        share=shrunk.share,
        iterations=shrunk.iterations,
        diagnosis=_diagnosis(study.trial(shrunk.crash.trial_id)),
        shrunk=shrunk,
    )


def finding_of_trials(trials: Sequence[TrialFolder]) -> Finding:
    """What repeats of one trial found. The commonest crash is the one that counts.

    Raises:
        NotEnoughDataError: none of their servers died.
    """
    ended = [(t, r) for t in trials if (r := t.result) and r.verdict.is_counted]
    deaths = [(t, r) for t, r in ended if r.verdict.is_death]
    if not deaths:
        raise _no_death(trials[0].spec if trials else None)
    found = commonest_death(deaths, lambda death: death[1])
    assert found is not None, "there are deaths"
    folder, crash = found
    same = [r for _, r in deaths if same_crash(r, crash)]
    return Finding(
        trial=folder.spec,
        crash=crash,
        trials=len(ended),
        deaths=len(same),
        share=share(len(same), len(ended)),
        iterations=tuple(sorted(result.completed for result in same)),
        diagnosis=_diagnosis(folder),
    )


def title_of(found: Finding) -> str:
    """What happens, as the title of a report: "Triton 23.10 (2.39.0): SIGSEGV in …"."""
    trial = found.trial
    name = f"Triton {trial.release} ({get_release(trial.release).triton})"
    return f"{name}: {what_happens(found)}"


def what_happens(found: Finding) -> str:
    """The death in a few words."""
    signature = found.crash.signature
    if signature is not None:
        return signature.text
    return {
        Verdict.HUNG: "requests that are never answered",
        Verdict.ENGINE_DIED: "a model that is dead behind a server that says it is ready",
        Verdict.OUT_OF_MEMORY: "killed for want of memory",
        Verdict.ANSWERS_STOPPED: "answers no more",
    }.get(found.crash.verdict, "the server dies")


def _diagnosis(folder: TrialFolder) -> Diagnosis | None:
    release = folder.spec.release
    log, maps = folder.log_text(), folder.memory_map()
    if log is None:
        return None
    parsed = MemoryMap.parse(maps) if maps else None
    found = diagnose(log, believed_release=release, maps=parsed)
    return found if found.died else None


def _no_death(trial: TrialSpec | None) -> NotEnoughDataError:
    name = f"{trial.release} under {trial.scenario}" if trial else "no trial"
    return NotEnoughDataError(
        f"{name}, without a death", "a trial whose server died", "run more trials of it"
    )
