"""Lists a study's deaths, grouped by crash, each with what is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kit.crash.catalog import known_crashes
from kit.crash.diagnose import Diagnosis, crashes_of, diagnose
from kit.crash.groups import CrashGroup, TrialDeath, group_deaths
from kit.crash.match import Match, best_of
from kit.crash.stack.maps import MemoryMap
from kit.plots.crash import VERBS
from kit.report.sentences import frame_text
from kit.study.folder import StudyFolder
from kit.study.result import Frame
from kit.study.words import listing


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildDeaths:
    """Deaths of one group in one build of the server, where every offset is the same."""

    deaths: int
    where: str  # "23.10 under cancel-race (5 of 5 trials)"
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class StudyCrash:
    """A group of deaths in a study, with what its logs and the catalog tell of it."""

    group: CrashGroup
    study: StudyFolder
    trials: pd.DataFrame  # trials_frame, all of those that the study is asked about

    @property
    def text(self) -> str:
        return self.group.text

    @property
    def deaths(self) -> int:
        return len(self.group.deaths)

    @cached_property
    def builds(self) -> list[BuildDeaths]:
        """The most frequent first; empty: it left no stack."""
        return [
            BuildDeaths(
                deaths=len(deaths),
                where=_where(deaths, self.trials),
                frames=deaths[0].signature.frames,
            )
            for deaths in self.group.builds
            if deaths[0].signature is not None
        ]

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """Of the first build's first death; None: it left no stack, or its log was not kept.

        The server's binaries are not looked at, so that it is quick.
        """
        if not self.group.has_stack:
            return None
        trial = self.study.trial(self.group.builds[0][0].trial_id)
        log, maps = trial.log_text(), trial.memory_map()
        if log is None:
            return None
        parsed = MemoryMap.parse(maps) if maps else None
        found = diagnose(log, believed_release=trial.spec.release, maps=parsed)
        return found if found.died else None

    @cached_property
    def known(self) -> list[Match]:
        """Crashes of the catalog that fit as well as the best one; empty: it is not in there."""
        if self.diagnosis is not None:
            return best_of(self.diagnosis.matches)
        first = self.group.builds[0][0]
        if first.signature is None:
            return []
        releases, known = (first.release,), known_crashes()
        return best_of(crashes_of(first.signature, releases=releases, log="", crashes=known))

    @property
    def stack(self) -> tuple[str, ...]:
        """From the fault outward, one line a frame; empty: it left none."""
        if self.diagnosis is not None:
            return tuple(self.diagnosis.stack)
        return tuple(frame_text(frame) for build in self.builds[:1] for frame in build.frames)

    @property
    def advice(self) -> str:
        if self.diagnosis is not None:
            return self.diagnosis.advice
        return " ".join(known_crashes()[match.id].advice for match in self.known)


def study_crashes(study: StudyFolder, trials: pd.DataFrame) -> list[StudyCrash]:
    """Every kind of death once: those with a stack first, then the commonest first.

    trials: trials_frame of the study, or the rows of it that are asked about.
    """
    deaths = []
    for trial_id in trials.loc[trials["crashed"], "trial_id"]:
        trial = study.trial(str(trial_id))
        if trial.result is not None:
            deaths.append(
                TrialDeath(
                    trial_id=trial.spec.trial_id,
                    release=trial.spec.release,
                    scenario=trial.spec.scenario,
                    verdict=trial.result.verdict,
                    signature=trial.result.signature,
                )
            )
    return [StudyCrash(group, study, trials) for group in group_deaths(deaths)]


def _where(deaths: Iterable[TrialDeath], trials: pd.DataFrame) -> str:
    """ "23.10 under cancel-race (5 of 5 trials) and …"."""
    counts: dict[tuple[str, str], int] = {}
    for death in deaths:
        key = (death.release, death.scenario)
        counts[key] = counts.get(key, 0) + 1
    said = []
    for (release, scenario), died in counts.items():
        cell = trials[trials["release"].eq(release) & trials["scenario"].eq(scenario)]
        tally = f"{died} of {int(cell['counted'].sum())} trials"
        said.append(f"{release} under {scenario} ({tally})")
    return listing(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDo:
    """What to do about crashes that share their remedy."""

    where: str  # the crashes, in one line
    advice: str


def to_do(crashes: Iterable[StudyCrash]) -> list[ToDo]:
    """Each remedy once, that of the commonest crash first."""
    found: dict[str, list[str]] = {}
    for crash in crashes:
        if crash.diagnosis:
            found.setdefault(crash.diagnosis.advice, []).append(crash.text)
    return [ToDo(where=listing(texts), advice=advice) for advice, texts in found.items()]


def without_stack(crashes: Iterable[StudyCrash]) -> list[str]:
    """Deaths that left no stack, a sentence a verdict: "2 servers hung: 23.10 under …"."""
    said = []
    for crash in crashes:
        if crash.group.has_stack:
            continue
        servers = f"{crash.deaths} server{'s' if crash.deaths > 1 else ''}"
        verb = VERBS.get(crash.group.deaths[0].verdict.value, "died")
        where = _where(crash.group.deaths, crash.trials)
        said.append(f"{servers} {verb} without a stack: {where}.")
    return said
