"""A study in, a row a trial out: what was expected of its KV cache and what each source saw."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.frames import engine_labels
from kit.kv import Seen, expect, footprint, seen
from kit.recorded import open_study
from kit.records import TrialSpec
from kit.store import StudyFolder
from kit.watch.agree import agreement
from kit.watch.names import ENGINE_LOG, TRITON_METRICS

#: What the log says of single steps is the engine's own word, not a sample of it.
STEP_LABEL: Final = '"step"'
#: A gauge is set at most so often, and the log is read at most so often (kit.watch.sampler).
STALE_S: Final = 0.1


def kv_table(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a trial with a closed loop, in the order of the folder names.

    trial_id, engine, concurrency
    expected_peak, expected_mean     kit.kv.expect; fractions of the usable blocks, 0-1
    log_peak, metrics_peak           highest sample of the source; NaN = not exported
    step_peak, step_mean             over the steps, where the engine logs them; else NaN
    preemptions                      as the metrics count them; NA = not exported
    waiting_share                    of the samples, those with requests waiting
    log_agrees, metrics_agrees       share of the source's samples that agree with the engine's
                                     steps within one sample; of the log without steps: with the
                                     metrics (the other way its lines are too far apart)
    """
    folders = open_study(study).trials()
    labels = engine_labels(folder.spec.engine for folder in folders)
    rows = [
        _row(folder.spec, folder.samples(), labels[folder.spec.engine])
        for folder in folders
        if folder.spec.workload.arrivals.concurrency is not None
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"preemptions": "Int64"}) if rows else frame


def _row(spec: TrialSpec, samples: pa.Table, engine: str) -> dict[str, object]:
    workload = spec.workload
    concurrency = workload.arrivals.concurrency or 1
    one = footprint(spec.engine, workload.prompt_tokens, workload.output_tokens)
    expected = expect(spec.engine, one, concurrency)
    is_step = pc.match_substring(samples["labels"], STEP_LABEL)
    steps, rest = samples.filter(is_step), samples.filter(pc.invert(is_step))
    by_source = {row.source: row for row in seen(rest)}
    own = next(iter(seen(steps)), None)
    log, metrics = by_source.get(ENGINE_LOG), by_source.get(TRITON_METRICS)
    within_s = spec.sample_interval_s + STALE_S
    return {
        "trial_id": spec.trial_id,
        "engine": engine,
        "concurrency": concurrency,
        "expected_peak": expected.peak_fraction,
        "expected_mean": expected.mean_fraction,
        "log_peak": _peak(log),
        "metrics_peak": _peak(metrics),
        "step_peak": _peak(own),
        "step_mean": own.mean_fraction if own else np.nan,
        "preemptions": metrics.preemptions if metrics else None,
        "waiting_share": _or_nan(metrics.waiting_share if metrics else None),
        "log_agrees": _agrees(steps, rest, ENGINE_LOG, TRITON_METRICS, within_s),
        "metrics_agrees": _agrees(steps, rest, TRITON_METRICS, None, within_s),
    }


def _agrees(
    steps: pa.Table, rest: pa.Table, source: str, other: str | None, within_s: float
) -> float:
    """Agreement with the steps, or where there are none with the source `other`."""
    if steps.num_rows == 0:
        found = agreement(rest, source, other, within_s=within_s) if other else None
        return _or_nan(found)
    # Renamed, since the steps are in the log, too.
    renamed = steps.set_column(
        steps.schema.get_field_index("source"), "source", pa.array(["step"] * steps.num_rows)
    )
    busy = rest.filter(pc.greater(rest["value"], 0.0))  # an idle engine has no steps
    both = pa.concat_tables([busy, renamed])
    return _or_nan(agreement(both, source, "step", within_s=within_s))


def _peak(row: Seen | None) -> float:
    return row.peak_fraction if row else np.nan


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
