"""Hazard ratios by Cox regression over release, concurrency, protocol and engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.survival import Clock, counted_trials

if TYPE_CHECKING:
    from lifelines import CoxPHFitter

#: Ridge penalty where the plain estimate is infinite, for example as some level never died.
PENALTY = 0.1
#: A log hazard ratio beyond this (1 to 22,000) is an estimate on its way to infinity.
RUNAWAY = 10.0


def hazard_ratios(
    trials: pd.DataFrame,
    factors: Sequence[str] = ("release",),
    *,
    baselines: dict[str, object] | None = None,
    strata: Sequence[str] = (),
    over: Clock = "completed",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How many times the baseline's hazard each level of each factor has (Cox 1972, Efron ties).

    trials: columns of kit.stats.frames.trials_frame. factors: columns; numbers (concurrency) count
    per doubling, words level by level against the baseline. baselines: level per factor, else the
    one with most deaths, against which the others can be estimated best. strata: columns whose
    combinations have baseline hazards of their own.

    Returns one row a comparison:

        factor, level, baseline   "concurrency", "per doubling", "" for a number
        ratio, low, high          hazard ratio with Wald interval
        p_value
        trials, deaths            of that level (of all for a number)
        penalised                 True: some estimate is infinite (a level without deaths, or one
                                  that always dies first); the fit has a ridge penalty PENALTY,
                                  which draws ratios towards 1: read it as "at least so
                                  different", and take bounds from kit.stats.intervals

    Raises:
        NotEnoughDataError: fewer than two deaths, nothing to compare, or no convergence.
        SpecError: a factor is missing in some trials, as concurrency is in an open loop.
    """
    counted = counted_trials(trials, over)
    deaths = int(counted["crashed"].sum())
    if deaths < 2:
        raise NotEnoughDataError(
            f"{deaths} deaths in {len(counted)} trials",
            "two or more",
            "run more trials, or state the upper bounds of the rates",
        )
    design, rows = _design(counted, factors, baselines or {})
    if not rows:
        raise NotEnoughDataError(
            f"only one level of {', '.join(factors)}", "a factor that varies", "add levels"
        )
    clock = counted[over].to_numpy(float)
    if over == "completed":
        clock = np.maximum(clock, 0.5)  # death at the first request; Cox needs a time above 0
    data = design.assign(
        _t=clock,
        _died=counted["crashed"].to_numpy(bool),
        **{f"_stratum_{name}": counted[name].astype(str).to_numpy() for name in strata},
    )
    stratum_columns = [f"_stratum_{name}" for name in strata] or None
    fitter = _fit(data, stratum_columns, penalty=0.0, alpha=1 - confidence)
    separated = fitter is None
    if fitter is None:
        fitter = _fit(data, stratum_columns, penalty=PENALTY, alpha=1 - confidence)
    if fitter is None:
        raise NotEnoughDataError(
            f"a Cox fit over {', '.join(factors)} that does not converge",
            "factors that are not each other's copies",
            "leave one of them out, or use it as a stratum",
        )
    summary = fitter.summary
    for row, column in zip(rows, design.columns, strict=True):
        estimate = summary.loc[column]
        row["ratio"] = float(np.exp(estimate["coef"]))
        row["low"] = float(np.exp(estimate[f"coef lower {100 * confidence:g}%"]))
        row["high"] = float(np.exp(estimate[f"coef upper {100 * confidence:g}%"]))
        row["p_value"] = float(estimate["p"])
        row["penalised"] = separated
    columns = ["factor", "level", "baseline", "ratio", "low", "high", "p_value"]
    return pd.DataFrame(rows, columns=[*columns, "trials", "deaths", "penalised"])


def _design(
    trials: pd.DataFrame, factors: Sequence[str], baselines: dict[str, object]
) -> tuple[pd.DataFrame, list[dict[str, object]]]:
    """One column a comparison, and what each compares."""
    columns: dict[str, np.ndarray] = {}
    rows: list[dict[str, object]] = []
    died = trials["crashed"].to_numpy(bool)
    for factor in factors:
        values = trials[factor]
        if values.isna().any():
            raise SpecError(
                f"{int(values.isna().sum())} of {len(trials)} trials without {factor}",
                "a value for every trial; open loops have no concurrency",
                f"leave those trials out, or compare them with {factor} as a stratum",
            )
        if values.nunique() < 2:
            continue
        if pd.api.types.is_numeric_dtype(values):
            columns[factor] = np.log2(values.to_numpy(float))
            level, baseline, member = "per doubling", "", np.ones(len(trials), bool)
            rows.append(_row(factor, level, baseline, member, died))
            continue
        baseline = str(baselines.get(factor, trials.loc[died, factor].mode().iloc[0]))
        for level in dict.fromkeys(map(str, values)):
            if level != baseline:
                member = (values.astype(str) == level).to_numpy()
                columns[f"{factor}={level}"] = member.astype(float)
                rows.append(_row(factor, level, baseline, member, died))
    return pd.DataFrame(columns, index=trials.index), rows


def _row(
    factor: str, level: str, baseline: str, member: np.ndarray, died: np.ndarray
) -> dict[str, object]:
    return {
        "factor": factor,
        "level": level,
        "baseline": baseline,
        "trials": int(member.sum()),
        "deaths": int((member & died).sum()),
    }


def _fit(
    data: pd.DataFrame, strata: list[str] | None, *, penalty: float, alpha: float
) -> CoxPHFitter | None:
    """The fit; None if an estimate runs off to infinity (separation) or nothing converges."""
    from lifelines import CoxPHFitter  # not above: it takes seconds to import
    from lifelines.exceptions import ConvergenceError

    fitter = CoxPHFitter(penalizer=penalty, alpha=alpha)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is what None says
            fitter.fit(data, "_t", "_died", strata=strata)
    except ConvergenceError:
        return None
    coefficients = fitter.params_.to_numpy()
    finite = np.isfinite(coefficients).all() and np.abs(coefficients).max() < RUNAWAY
    return fitter if finite else None
