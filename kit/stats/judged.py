"""The rows that a search for a limit and a soak judge: requests that count, and KV usage."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from kit.servers.watch.names import KV_SOURCES, KV_USAGE
from kit.study.result import Outcome


def judged_requests(requests: pd.DataFrame, dead: Collection[str]) -> pd.DataFrame:
    """Rows of a requests frame that count, in the order in which they were sent.

    dead: trials whose server died. What was open there counts; what our own end of another trial
    cut short does not.
    """
    cut = (requests["outcome"] == Outcome.IN_FLIGHT.value) & ~requests["trial_id"].isin(dead)
    kept = requests["judged"].to_numpy(bool) & ~cut.to_numpy(bool)
    return requests[kept].sort_values("t_s", kind="stable")


def kv_usage(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows of KV usage in the order of time, of the source that is nearest to the engine.

    No rows: no source told it.
    """
    usage = samples[samples["name"] == KV_USAGE]
    told = [source for source in KV_SOURCES if (usage["source"] == source).any()]
    return usage[usage["source"] == told[-1]].sort_values("t_s") if told else usage
