"""What is known beyond a study: of its releases and its traffic, what its own trials do not say."""

from __future__ import annotations

import pandas as pd

from kit.crash.outlook import Outlook, outlook
from kit.crash.traffic import traffic_of
from kit.study.folder import StudyFolder
from kit.study.spec import OWN_WORKLOAD


def known_beyond(study: StudyFolder, trials: pd.DataFrame) -> Outlook:
    """What measurement, reports and source say of the study's releases under its traffic, without
    what its own trials show.

    trials: as from trials_frame; reads trial_id, release, crashed, counted.
    """
    own = [trial for trial in study.trials() if trial.spec.scenario == OWN_WORKLOAD]
    of_own = {trial.spec.trial_id: traffic_of(trial.spec) for trial in own}
    traffic: dict[str, None] = {}
    died, measured = set(), set()
    for row in trials[["trial_id", "release", "scenario", "crashed", "counted"]].itertuples():
        names = of_own.get(str(row.trial_id), (str(row.scenario),))
        traffic.update(dict.fromkeys(names))
        pairs = {(str(row.release), name) for name in names}
        if row.counted:
            measured |= pairs
        if row.crashed:
            died |= pairs
    releases = trials["release"].dropna().astype(str).unique()
    return outlook(releases, list(traffic), died=died, measured=measured)
