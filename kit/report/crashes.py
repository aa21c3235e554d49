"""Lists a study's deaths, grouped by crash, each with what is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from kit.crash.diagnose import Diagnosis, diagnose
from kit.crash.stack.maps import MemoryMap
from kit.plots.crash import VERBS
from kit.report.sentences import SeenSignature, signatures
from kit.study.folder import StudyFolder
from kit.study.words import listing


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashGroup:
    """Deaths with one signature text; offsets differ from build to build, which makes `builds`."""

    text: str
    deaths: int
    builds: tuple[SeenSignature, ...]
    diagnosis: Diagnosis | None  # of the first build's example; None: its log was not kept


def crash_groups(study: StudyFolder, trials: pd.DataFrame) -> list[CrashGroup]:
    """Commonest first."""
    seen = sorted(signatures(study, trials), key=lambda s: s.text)
    groups = [(text, tuple(builds)) for text, builds in groupby(seen, key=lambda s: s.text)]
    found = [
        CrashGroup(
            text=text,
            deaths=sum(build.trials for build in builds),
            builds=builds,
            diagnosis=_diagnosis(study, builds[0].example),
        )
        for text, builds in groups
    ]
    return sorted(found, key=lambda group: -group.deaths)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDo:
    """What to do about crashes that share their remedy."""

    where: str  # the crashes, in one line
    advice: str


def to_do(groups: Iterable[CrashGroup]) -> list[ToDo]:
    """Each remedy once, that of the commonest crash first."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.diagnosis:
            found.setdefault(group.diagnosis.advice, []).append(group.text)
    return [ToDo(where=listing(texts), advice=advice) for advice, texts in found.items()]


def _diagnosis(study: StudyFolder, trial_id: str) -> Diagnosis | None:
    """What the log of that trial tells; the binaries are not looked at, so that it is quick."""
    trial = study.trial(trial_id)
    release = trial.spec.release
    log, maps = trial.log_text(), trial.memory_map()
    if log is None:
        return None
    parsed = MemoryMap.parse(maps) if maps else None
    found = diagnose(log, believed_release=release, maps=parsed)
    return found if found.died else None


def without_stack(trials: pd.DataFrame) -> Iterable[str]:
    """Deaths that left no stack, a sentence a verdict: "2 servers hung: 23.10 under …"."""
    silent = trials[trials["crashed"] & trials["signature"].isna()]
    for verdict, group in silent.groupby("verdict"):
        where = group.groupby(["release", "scenario"], sort=False).size()
        cells = [
            f"{release} under {scenario} ({n})"
            for (release, scenario), n in zip(where.index, where, strict=True)
        ]
        servers = f"{len(group)} server{'s' if len(group) > 1 else ''}"
        yield f"{servers} {VERBS.get(str(verdict), 'died')} without a stack: {listing(cells)}."
