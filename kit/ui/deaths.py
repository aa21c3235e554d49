"""The deaths of a study with all that is known of them, and what to do about what was found."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kit.crash.catalog import known_crashes
from kit.crash.diagnose import crashes_of
from kit.crash.match import Match, best_of
from kit.kv.advice import study_advice
from kit.report.crashes import crash_groups
from kit.report.sentences import frame_text
from kit.stats.client_limits import client_limits, client_sentence
from kit.study.folder import StudyFolder
from kit.study.releases import in_order
from kit.ui.cards import Crash, Crashes


def crashes_of_study(study: StudyFolder, trials: pd.DataFrame) -> Crashes:
    """Every kind of death once, commonest first. trials: trials_frame of the study."""
    dead = trials[trials["crashed"]]
    found = []
    for group in crash_groups(study, trials):
        own = dead[dead["signature_text"] == group.text]
        seen, first = group.diagnosis, group.builds[0]
        if seen is not None:
            known, stack, advice = best_of(seen.matches), seen.stack, seen.advice
        else:  # its log was not kept
            known, stack = _known(study, first.example), tuple(map(frame_text, first.frames))
            advice = " ".join(known_crashes()[match.id].advice for match in known)
        found.append(
            _crash(group.text, own, trials, stack=stack, known=tuple(known), advice=advice)
        )
    silent = dead[dead["signature"].isna()]
    for verdict, own in silent.groupby("verdict"):
        text = f"{str(verdict).replace('_', ' ')}, without a stack"
        found.append(_crash(text, own, trials))
    return Crashes(sorted(found, key=lambda crash: -crash.deaths))


def advice_for(study: StudyFolder, crashes: Sequence[Crash]) -> list[str]:
    """What to do: about each crash, about a client that was too slow, about the KV cache."""
    words = [f"{crash.text}: {crash.advice}" for crash in crashes if crash.advice]
    limits = client_limits(study)
    if len(limits) and limits["limited"].any():
        words.append(client_sentence(limits))
    warnings = (
        f"{row.scenario}: {one.text}"
        for row in study_advice(study)
        for one in row.advice
        if one.warning
    )
    return [*words, *dict.fromkeys(warnings)]


def _known(study: StudyFolder, trial_id: str) -> list[Match]:
    """The crashes of the catalog that a death fits by its signature alone."""
    trial = study.trial(trial_id)
    signature = trial.result.signature if trial.result else None
    releases = (trial.spec.release,)
    found = crashes_of(signature, releases=releases, log="", crashes=known_crashes())
    return best_of(found)


def _crash(
    text: str,
    own: pd.DataFrame,
    trials: pd.DataFrame,
    **known: object,
) -> Crash:
    cells = trials[
        trials["counted"]
        & trials["release"].isin(own["release"])
        & trials["scenario"].isin(own["scenario"])
    ]
    empty: dict[str, object] = {"stack": (), "known": (), "advice": ""}
    return Crash(
        text=text,
        deaths=len(own),
        trials=len(cells),
        releases=tuple(in_order(own["release"])),
        scenarios=tuple(dict.fromkeys(own["scenario"])),
        iterations=tuple(sorted(int(n) for n in own["crash_iteration"])),
        trial_ids=tuple(own["trial_id"]),
        **(empty | known),  # type: ignore[arg-type]
    )
