"""Latencies of a study that is too large for a frame: counted in narrow classes, part by part.

A study of up to MOST_ROWS requests is a frame of one row a request (kit.stats.frames). Above that
`latencies_frame` reads the records part by part, in constant memory if the study is packed
(kit.study.pack), and counts the requests of each trial whose latency lies between two bounds.
Counts, shares and "never" are exact; a latency is that of its class, at most ERROR_FRACTION off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kit.stats.frames import (
    requests_frame,
    zero_ns,
)
from kit.stats.latency import COUNT, MEASURE, OFFERED
from kit.stats.size import MOST_ROWS, is_large
from kit.stats.throughput import rounded_rate
from kit.stats.timings import request_timings
from kit.stats.trial_keys import trial_columns
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.once import computed_once
from kit.study.recorded import open_study
from kit.study.spec import ArrivalKind

#: Classes an octave of time: each is 2**(1/512) = 1.0014 times as long as the one before.
PER_OCTAVE = 512
#: How far a latency may be from the one that its class stands for: half a class.
ERROR_FRACTION = 2 ** (0.5 / PER_OCTAVE) - 1
_CLASSES = 63 * PER_OCTAVE + 1  # of 1 ns and of all that 64 bits hold
#: What is read of each request.
_COLUMNS = (
    "warmup",
    "fault",
    "outcome",
    "token_ns",
    "scheduled_ns",
    "sent_ns",
    "first_ns",
    "end_ns",
)
MEASURES = ("e2e_ms", "e2e_from_schedule_ms", "ttft_ms", "itl_ms_mean")


def latencies_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """What latency figures read: requests_frame, or counts of it for more than MOST_ROWS requests.

    Counts have the trial's columns of requests_frame and one row a trial, measure and class:

    measure      which of MEASURES it counts; ttft_ms and itl_ms_mean of streams alone,
                 e2e_from_schedule_ms of open loops alone
    requests     how many
    judged, ok, open_loop    as there; a measure other than e2e_ms counts the judged ones alone
    offered_per_s    open loops: kit.stats.throughput.offered_rate of the trial
    e2e_ms, e2e_from_schedule_ms, ttft_ms, itl_ms_mean    the class's latency, in the column that
                 `measure` names. NaN: it never came, or is of a request that is not judged

    kit.stats.latency reads either.
    """
    opened = open_study(study)
    return _counts_frame(opened) if is_large(opened) else requests_frame(opened)


@computed_once
def _counts_frame(study: StudyFolder | Path) -> pd.DataFrame:
    opened = open_study(study)
    folders = opened.trials()
    parts: list[pd.DataFrame] = []
    which: list[NDArray[np.intp]] = []
    for number, folder in enumerate(folders):
        counts = _counted(folder)
        parts.append(counts)
        which.append(np.full(len(counts), number))
    heads = trial_columns(opened, folders, np.concatenate(which))
    rows = pd.concat(parts, ignore_index=True)
    return pd.concat([heads, rows.astype({MEASURE: "category"})], axis=1)


def class_note(latencies: pd.DataFrame) -> str:
    """What is to be said beneath a figure of counted latencies; "" if they are exact."""
    if COUNT not in latencies:
        return ""
    return f"latencies within {100 * ERROR_FRACTION:.2f} % (more than {MOST_ROWS:,} requests)"


def _counted(folder: TrialFolder) -> pd.DataFrame:
    """The counts of one trial, without the columns that name it."""
    arrivals = folder.spec.workload.arrivals.kind
    open_loop = arrivals is not ArrivalKind.CLOSED
    streamed = folder.spec.workload.protocol.is_streamed
    measures = [
        *("e2e_ms", "e2e_from_schedule_ms")[: 1 + open_loop],
        *("ttft_ms", "itl_ms_mean")[: 2 * streamed],
    ]
    answered = {name: np.zeros(_CLASSES, np.int64) for name in measures}
    never = dict.fromkeys(measures, 0)
    put_aside = {True: 0, False: 0}  # not judged: how many of them were ok
    zero = zero_ns(folder)
    first_s, last_s, due = np.inf, -np.inf, 0
    for table in folder.parts("requests", _COLUMNS):
        rows = request_timings(
            table,
            zero_ns=np.full(table.num_rows, zero),
            streamed=np.full(table.num_rows, streamed),
            open_loop=np.full(table.num_rows, open_loop),
        )
        judged, ok = rows["judged"].to_numpy(bool), rows["ok"].to_numpy(bool)
        for is_ok in put_aside:
            put_aside[is_ok] += int((~judged & (ok == is_ok)).sum())
        due_s = rows["end_s"] - rows["e2e_from_schedule_ms"] / 1e3
        first_s, last_s = min(first_s, due_s.min()), max(last_s, due_s.max())
        due += int(due_s.count())
        for name in measures:
            ms = rows[name].to_numpy(float)
            came = judged & ok & ~np.isnan(ms)
            never[name] += int(judged.sum() - came.sum())
            answered[name] += np.bincount(_class_of(ms[came]), minlength=_CLASSES)
    offered = {OFFERED: rounded_rate(last_s - first_s, due)} if open_loop else {}
    return pd.concat(
        [
            frame.assign(open_loop=open_loop, **offered)
            for frame in _rows(answered, never, put_aside)
            if len(frame)
        ]
        or [_block("e2e_ms", np.empty(0), np.empty(0, np.int64), judged=True, ok=True)]
    )


def _rows(
    answered: dict[str, NDArray[np.int64]], never: dict[str, int], put_aside: dict[bool, int]
) -> Iterator[pd.DataFrame]:
    for name, counts in answered.items():
        filled = np.flatnonzero(counts)
        yield _block(name, _latency_ms(filled), counts[filled], judged=True, ok=True)
        if never[name]:
            yield _block(name, np.array([np.nan]), np.array([never[name]]), judged=True, ok=False)
    for is_ok, count in put_aside.items():
        if count:
            yield _block("e2e_ms", np.array([np.nan]), np.array([count]), judged=False, ok=is_ok)


def _block(
    measure: str, ms: NDArray[np.float64], counts: NDArray[np.int64], *, judged: bool, ok: bool
) -> pd.DataFrame:
    values = {name: ms if name == measure else np.nan for name in MEASURES}
    same = {MEASURE: measure, "judged": judged, "ok": ok}
    frame = pd.DataFrame({COUNT: counts, **values, **same}, index=range(len(counts)))
    return frame.astype(dict.fromkeys(MEASURES, "float64"))


def _class_of(ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of each latency; what is below a nanosecond is in the first."""
    octaves = np.log2(np.maximum(ms * 1e6, 1.0))
    return np.minimum((octaves * PER_OCTAVE).astype(np.int64), _CLASSES - 1)


def _latency_ms(classes: NDArray[np.intp]) -> NDArray[np.float64]:
    """What a class stands for: its middle, on a logarithmic scale."""
    return np.asarray(np.exp2((classes + 0.5) / PER_OCTAVE) / 1e6)
