"""Collects what is known of the commonest crash of a shrinking, or of repeats of a trial."""

from __future__ import annotations

from dataclasses import dataclass

from kit.crash.diagnose import Diagnosis, diagnose
from kit.crash.stack.maps import MemoryMap
from kit.errors import NotEnoughDataError
from kit.reproduce.shrink import Shrunk
from kit.stats.intervals import Interval
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.releases import get_release
from kit.study.result import TrialResult, Verdict
from kit.study.spec import TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCrash:
    """A crash, how often its traffic leads to it, and what is known of it."""

    trial: TrialSpec  # the traffic
    crash: TrialResult  # one of the deaths
    trials: int
    deaths: int
    share: Interval
    iterations: tuple[int, ...]  # requests completed before each death, sorted
    diagnosis: Diagnosis | None  # of that death's log; None: it was not kept
    shrunk: Shrunk | None = None


def finding_of(shrunk: Shrunk, study: StudyFolder) -> FoundCrash:
    """What a shrinking found; `study` holds its trials.

    Raises:
        NotEnoughDataError: no server died in it.
    """
    if shrunk.crash is None or shrunk.share is None:
        raise _no_death(shrunk.original)
    return FoundCrash(
        trial=shrunk.smallest,
        crash=shrunk.crash,
        trials=shrunk.trials,
        deaths=shrunk.deaths,
        share=shrunk.share,
        iterations=shrunk.iterations,
        diagnosis=_diagnosis(study.trial(shrunk.crash.trial_id)),
        shrunk=shrunk,
    )


def title_of(found: FoundCrash) -> str:
    """What happens, as the title of a report: "Triton 23.10 (2.39.0): SIGSEGV in …"."""
    trial = found.trial
    name = f"Triton {trial.release} ({get_release(trial.release).triton})"
    return f"{name}: {what_happens(found)}"


def what_happens(found: FoundCrash) -> str:
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
