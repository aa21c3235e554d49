"""Summarises trials, one row a cell: how many died, how often, how surely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kit.stats.intervals import CONFIDENCE, evidence_sentence, rate, rate_upper_bound, share
from kit.study.grid import COLUMNS

CELL = ("release", "scenario", "engine", "concurrency")


def cell_columns(trials: pd.DataFrame) -> list[str]:
    """What tells the cells of a study apart: CELL, and what else of the traffic it varied.

    Trials that differ in nothing but how many requests they were asked for are one cell: they are
    the same traffic, watched for longer.
    """
    columns = [*CELL, *(name for name in COLUMNS if name in trials.columns and name not in CELL)]
    protocols = trials.groupby("scenario", observed=True)["protocol"].nunique()
    if not len(protocols) or protocols.max() < 2:
        columns.remove("protocol")
    return columns


def crash_table(
    trials: pd.DataFrame, by: Sequence[str] = ("release",), confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """One row a group, in order of first appearance.

    trials: columns of kit.stats.frames.trials_frame. Returns `by` and

        trials             that count
        crashed            of them, died (also: hung, lost the engine, out of memory)
        share, share_low, share_high     of trials that crashed; Clopper-Pearson
        requests           requests that the servers faced: completed, and the one that killed
        per_1000, per_1000_low, per_1000_high   crashes per 1,000 requests; Garwood
        per_1000_at_most   one-sided upper bound, the number to state when nothing crashed
        iterations         crash iterations, sorted
        median_iteration   of the trials that crashed; survivors need kit.stats.survival
        left_out           trials that say nothing about the server
        says               "0 crashes in 40,000 requests: at most 1 in 13,000 at 95 %"
    """
    counted = trials["counted"].to_numpy(bool)
    died = counted & trials["crashed"].to_numpy(bool)
    completed = trials["completed"].to_numpy(np.int64, na_value=0)
    iteration = trials["crash_iteration"].to_numpy(float, na_value=np.nan)
    rows = []
    for key, places in places_by(trials, by):
        dead = places[died[places]]
        telling = places[counted[places]]
        requests = int(completed[telling].sum()) + len(dead)
        row: dict[str, object] = dict(zip(by, key, strict=True))
        row |= {
            "trials": len(telling),
            "crashed": len(dead),
            "requests": requests,
            "iterations": sorted(int(i) for i in iteration[dead]),
            "median_iteration": float(np.median(iteration[dead])) if len(dead) else None,
            "left_out": len(places) - len(telling),
            "says": evidence_sentence(len(dead), requests, confidence),
        }
        if len(telling):
            of_trials = share(len(dead), len(telling), confidence)
            row |= {"share": of_trials.value}
            row |= {"share_low": of_trials.low, "share_high": of_trials.high}
        if requests:
            per_request = rate(len(dead), requests, confidence)
            row |= {"per_1000": 1000 * per_request.value}
            row |= {"per_1000_low": 1000 * per_request.low}
            row |= {"per_1000_high": 1000 * per_request.high}
            row["per_1000_at_most"] = 1000 * rate_upper_bound(len(dead), requests, confidence)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, *_COLUMNS])


def places_by(
    frame: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], NDArray[np.intp]]]:
    """Each group's values of `by` and the places of its rows, in order of first appearance.

    As frame.groupby(by), but without a frame for each group: to make one takes milliseconds, and
    a report asks for thousands.
    """
    columns = list(by)
    keys = frame[columns]
    number = keys.groupby(columns, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    firsts = keys.take(order[starts]).itertuples(index=False, name=None)
    bounds = pairwise([*starts, len(order)])
    for key, (start, end) in zip(firsts, bounds, strict=True):
        yield key, order[start:end]


_COLUMNS = [
    *("trials", "crashed", "share", "share_low", "share_high"),
    *("requests", "per_1000", "per_1000_low", "per_1000_high", "per_1000_at_most"),
    *("iterations", "median_iteration", "left_out", "says"),
]
