"""Survival statistics: Kaplan-Meier curves, at-risk tables and log-rank tests.

The clock is requests (`over="completed"`) or seconds under load (`over="exposure_s"`). Trials
with `counted` False are left out; those that survived are right-censored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from kit.errors import NotEnoughDataError

#: Ways to deal trials out anew of which all, or so many, are looked at.
SHUFFLES = 10_000

Clock = Literal["completed", "exposure_s"]


def survival_table(
    trials: pd.DataFrame,
    *,
    by: str = "release",
    over: Clock = "completed",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Kaplan-Meier estimate: one row a group and a time at which something happened.

    trials: columns of kit.stats.frames.trials_frame; reads `by`, `over`, crashed, counted.
    Returns columns

        group     value of `by`, in order of first appearance
        t         requests or seconds; the first row of a group is t = 0
        survival  share still alive after t
        low, high log-log interval with Greenwood's variance (Kalbfleisch and Prentice 1980);
                  NaN where the estimate is 0 or 1, for which it does not exist: there use the
                  exact share of kit.stats.intervals
        at_risk   trials alive just before t
        events, censored   trials that died / were last seen alive at t

    Raises:
        NotEnoughDataError: no trial counts.
    """
    from lifelines import KaplanMeierFitter  # not above: it takes seconds to import

    rows = []
    for name, group in counted_trials(trials, over).groupby(by, sort=False, observed=True):
        fitter = KaplanMeierFitter(alpha=1 - confidence)
        fitter.fit(group[over].astype(float), group["crashed"].astype(bool))
        events = fitter.event_table
        survival = fitter.survival_function_.iloc[:, 0].to_numpy()
        bounds = fitter.confidence_interval_.to_numpy()
        bounds[(survival <= 0) | (survival >= 1)] = np.nan
        rows.append(
            pd.DataFrame(
                {
                    "group": name,
                    "t": events.index.to_numpy(float),
                    "survival": survival,
                    "low": bounds[:, 0],
                    "high": bounds[:, 1],
                    "at_risk": events["at_risk"].to_numpy(int),
                    "events": events["observed"].to_numpy(int),
                    "censored": events["censored"].to_numpy(int),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def at_risk_table(
    trials: pd.DataFrame, times: Sequence[float], *, by: str = "release", over: Clock = "completed"
) -> pd.DataFrame:
    """Trials not yet dead or censored just before each time: one row a group, one column a time."""
    counted = counted_trials(trials, over)
    clock = counted[over].to_numpy(float)
    alive = pd.DataFrame({t: clock >= t for t in times}, index=counted.index)
    return alive.groupby(counted[by], sort=False, observed=True).sum()


def median_survival(table: pd.DataFrame) -> pd.Series:
    """Per group of a survival_table: the time by which half have died; NaN if fewer have."""
    dead = table[table["survival"] <= 0.5]
    first = dead.groupby("group", sort=False)["t"].min()
    return first.reindex(table["group"].unique())


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRank:
    """A log-rank test of "all groups die alike"."""

    statistic: float
    degrees: int
    p_value: float
    observed: dict[str, float]
    expected: dict[str, float]


def log_rank(
    trials: pd.DataFrame,
    *,
    by: str = "release",
    strata: Sequence[str] = (),
    over: Clock = "completed",
) -> LogRank:
    """Log-rank test (Mantel 1966; Peto and Peto 1972) over all groups of `by`.

    strata: columns whose combinations are compared within themselves only, for example
        ["scenario", "concurrency"]; observed, expected and variance are summed over them.

    Raises:
        NotEnoughDataError: fewer than two groups, or no trial died.
    """
    counted = counted_trials(trials, over)
    names = list(dict.fromkeys(counted[by]))
    if len(names) < 2:
        raise NotEnoughDataError(
            f"one group of {by}: {', '.join(map(str, names))}", "two or more", f"add another {by}"
        )
    observed, expected = np.zeros(len(names)), np.zeros(len(names))
    variance = np.zeros((len(names), len(names)))
    # An open loop has no concurrency: its trials are a stratum of their own.
    grouped = counted.groupby(list(strata), observed=True, dropna=False) if strata else None
    layers = [counted] if grouped is None else [layer for _, layer in grouped]
    for layer in layers:
        codes = pd.Categorical(layer[by], categories=names).codes
        parts = _log_rank_parts(
            layer[over].to_numpy(float), layer["crashed"].to_numpy(bool), codes, len(names)
        )
        observed, expected, variance = (
            observed + parts[0],
            expected + parts[1],
            variance + parts[2],
        )
    if not observed.sum():
        raise NotEnoughDataError(
            "no trial that died", "at least one death", "state the upper bounds instead"
        )
    excess = (observed - expected)[:-1]
    inner = variance[:-1, :-1]
    statistic = float(excess @ np.linalg.pinv(inner) @ excess)
    degrees = int(np.linalg.matrix_rank(inner))
    if degrees == 0:
        raise NotEnoughDataError(
            "groups that were never at risk at the same time",
            "a time at which two groups were alive",
            "run trials of equal length, or leave out strata",
        )
    keys = [str(name) for name in names]
    return LogRank(
        statistic=statistic,
        degrees=degrees,
        p_value=float(special.chdtrc(degrees, statistic)),
        observed=dict(zip(keys, observed.tolist(), strict=True)),
        expected=dict(zip(keys, expected.tolist(), strict=True)),
    )


def log_rank_exact(
    trials: pd.DataFrame, *, by: str = "release", over: Clock = "completed", seed: int = 0
) -> float:
    """p-value of the log-rank test of two groups by permutation: right however few trials.

    Observed minus expected deaths of a group are the sum of its trials' scores (Peto and Peto
    1972); all ways to deal the groups out anew are gone through, or SHUFFLES of them.

    Raises:
        NotEnoughDataError: not two groups, or no trial died.
    """
    counted = counted_trials(trials, over)
    names, died = list(dict.fromkeys(counted[by])), counted["crashed"].to_numpy(bool)
    if len(names) != 2 or not died.any():
        raise NotEnoughDataError(
            f"{len(names)} groups of {by} with {int(died.sum())} deaths",
            "two groups and a death",
            "choose two, or state the upper bounds instead",
        )
    clock = counted[over].to_numpy(float)
    times = np.unique(clock[died])
    deaths = (clock[died][:, None] == times).sum(axis=0)
    hazard = deaths / (clock[:, None] >= times).sum(axis=0)
    scores = died - (clock[:, None] >= times) @ hazard
    first = (counted[by] == names[0]).to_numpy(bool)
    n, k = first.size, int(first.sum())
    if math.comb(n, k) <= SHUFFLES:
        dealt = np.array(list(combinations(range(n), k)))
        own = 0
    else:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (SHUFFLES, 1)), axis=1)
        dealt, own = order[:, :k], 1  # the one that was seen is one of those that could be
    seen = abs(float(scores[first].sum()))
    as_far = int((np.abs(scores[dealt].sum(axis=1)) >= seen - 1e-9).sum())
    return (own + as_far) / (own + len(dealt))


def _log_rank_parts(
    clock: np.ndarray, died: np.ndarray, codes: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed, expected and their hypergeometric covariance within one stratum."""
    times = np.unique(clock[died])
    member = codes[:, None] == np.arange(groups)
    at_risk = ((clock[:, None] >= times).T.astype(float)) @ member  # times x groups
    deaths = ((clock[:, None] == times) & died[:, None]).T.astype(float) @ member
    n, d = at_risk.sum(1), deaths.sum(1)
    part = at_risk / n[:, None]
    spread = d * np.divide(n - d, n - 1, out=np.zeros_like(n), where=n > 1)
    diagonal = np.einsum("t,ti,ij->ij", spread, part, np.eye(groups))
    return deaths.sum(0), d @ part, diagonal - np.einsum("t,ti,tj->ij", spread, part, part)


def counted_trials(trials: pd.DataFrame, over: Clock) -> pd.DataFrame:
    """The trials that count and have a clock.

    Raises:
        NotEnoughDataError: none does.
    """
    kept = trials[trials["counted"] & trials[over].notna()] if "counted" in trials else trials
    if kept.empty:
        raise NotEnoughDataError(
            "no trial that counts", "trials that ended with a verdict on the server", "run some"
        )
    return kept
