"""Throughput of each cell: right answers a second, per trial, with what trials differ by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from scipy import special

from kit.stats.intervals import CONFIDENCE

COLUMNS = ["trials", "n", "failed_fraction", "answers_per_s", "low_per_s", "high_per_s"]


def throughput_table(
    requests: pd.DataFrame,
    by: Sequence[str] = ("release", "concurrency"),
    *,
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """One row a group: `by`, trials, n, failed_fraction, answers_per_s, low_per_s, high_per_s.

    requests: kit.stats.frames.requests_frame; reads trial_id, judged, ok, t_s, end_s. A trial's
    throughput is its whole and right answers over the seconds from its first request to its last
    end, which is its death if it died. The interval is Student's t over the trials; NaN for one
    trial, which tells nothing of how much trials differ.
    """
    rows = []
    for key, group in requests.groupby(list(by), observed=True, sort=False, dropna=False):
        judged = group[group["judged"].to_numpy(bool)]
        rates = [
            rate
            for _, own in judged.groupby("trial_id", observed=True)
            if not math.isnan(rate := _answers_per_s(own))
        ]
        if not rates:
            continue
        mean = sum(rates) / len(rates)
        reach = math.nan
        if len(rates) > 1:
            t = float(special.stdtrit(len(rates) - 1, 0.5 + confidence / 2))
            reach = t * float(pd.Series(rates).std()) / math.sqrt(len(rates))
        rows.append(
            dict(zip(by, key, strict=True))
            | {
                "trials": len(rates),
                "n": len(judged),
                "failed_fraction": float(1 - judged["ok"].mean()),
                "answers_per_s": mean,
                "low_per_s": max(0.0, mean - reach) if reach == reach else math.nan,
                "high_per_s": mean + reach,
            }
        )
    return pd.DataFrame(rows, columns=[*by, *COLUMNS])


def offered_rate(requests: pd.DataFrame) -> pd.Series:
    """Of each row: requests a second that its trial's schedule had, to two significant digits.

    requests: requests_frame of an open loop; reads trial_id, end_s, e2e_from_schedule_ms. NaN for
    a trial of fewer than two requests.
    """
    due_s = requests["end_s"] - requests["e2e_from_schedule_ms"] / 1e3
    of_trial = {
        trial: rounded_rate(due.max() - due.min(), due.count())
        for trial, due in due_s.groupby(requests["trial_id"], observed=True)
    }
    return requests["trial_id"].map(of_trial).astype(float)


def rounded_rate(seconds: float, count: int) -> float:
    """Requests a second, to two significant digits; NaN for fewer than two requests."""
    return float(f"{(count - 1) / seconds:.2g}") if count > 1 and seconds > 0 else math.nan


def _answers_per_s(own: pd.DataFrame) -> float:
    seconds = float(own["end_s"].max() - own["t_s"].min())
    return float(own["ok"].sum()) / seconds if seconds > 0 else math.nan
