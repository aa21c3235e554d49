"""The deaths of a study with all that is known of them, and what to do about what was found."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kit.kv.advice import study_advice
from kit.report.crashes import StudyCrash, study_crashes
from kit.stats.client_limits import client_limits, client_sentence
from kit.study.folder import StudyFolder
from kit.study.releases import in_order
from kit.ui.cards import CrashCard, Crashes


def crashes_of_study(study: StudyFolder, trials: pd.DataFrame) -> Crashes:
    """Every kind of death once, commonest first. trials: trials_frame of the study."""
    found = [_card(crash, trials) for crash in study_crashes(study, trials)]
    return Crashes(sorted(found, key=lambda crash: -crash.deaths))


def advice_for(study: StudyFolder, crashes: Sequence[CrashCard]) -> list[str]:
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


def _card(crash: StudyCrash, trials: pd.DataFrame) -> CrashCard:
    ids, group = [death.trial_id for death in crash.group.deaths], crash.group
    cells = trials[
        trials["counted"]
        & trials["release"].isin(group.releases)
        & trials["scenario"].isin(group.scenarios)
    ]
    own = trials[trials["trial_id"].isin(ids)]
    return CrashCard(
        text=crash.text,
        deaths=crash.deaths,
        trials=len(cells),
        releases=tuple(in_order(group.releases)),
        scenarios=group.scenarios,
        iterations=tuple(sorted(int(n) for n in own["crash_iteration"])),
        stack=crash.stack,
        known=tuple(crash.known),
        advice=crash.advice,
        trial_ids=tuple(ids),
    )
