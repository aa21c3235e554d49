"""Tabulates expected and observed KV usage, a row a trial and a column a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.kv.expect import expect, footprint
from kit.kv.seen import Seen, labels_of, room, seen
from kit.servers.watch.agree import agreement, by_chance
from kit.servers.watch.names import (
    ENGINE_LOG,
    ENGINE_STEPS,
    KV_USAGE,
    STEP,
    TRITON_METRICS,
    VIA,
    VIA_HOOK,
    VIA_MODEL,
    VLLM_METRICS,
    kv_state,
)
from kit.stats.trial_keys import engine_labels
from kit.study.engines import VLLM_MODEL
from kit.study.folder import StudyFolder
from kit.study.recorded import open_study
from kit.study.spec import TrialSpec

#: Rows nearer than this are about the same moment. A gauge is up to 0.1 s old when it is read, and
#: so is a line of the log, so the two ages cancel out but for their difference.
WITHIN_S: Final = 0.05
#: Sources in the order in which a figure is taken from them, the one that counts most often first.
PREFERRED: Final = (TRITON_METRICS, VLLM_METRICS, ENGINE_LOG)


def kv_table(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a trial with a closed loop, in the order of the folder names.

    trial_id, engine, concurrency
    varied                           lengths differ: the expected peak is then an upper estimate
    expected_peak, expected_mean     kit.kv.expect.expect; fractions of the usable blocks, 0-1
    sources                          that told KV usage, in words; or "not exported"
    via                              through which remedy, where one was needed; else ""
    log_peak, metrics_peak           highest sample of the source; NaN = not exported
    step_peak, step_mean             over the steps, where the engine logs them; else NaN
    measured_peak, measured_from     of the steps, else the highest of any source, and its source
    preemptions, preemptions_from    as the metrics count them, else the log (V0 only); NA = nobody
    waiting_share, waiting_from      of the samples, those with requests waiting
    limited                          preemptions, or no room for a waiting request
    log_agrees, metrics_agrees       share of the source's samples that are among the engine's
                                     steps of the same moment; of the log without steps: among the
                                     metrics, which is too little by what changed between two of
                                     them (the other way its lines are too far apart)
    log_chance, metrics_chance       the same if the source's values were shuffled
    """
    folders = open_study(study).trials()
    labels = engine_labels(folder.spec.engine for folder in folders)
    rows = [
        table_row(folder.spec, folder.samples(), labels[folder.spec.engine])
        for folder in folders
        if folder.spec.workload.arrivals.concurrency is not None
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"preemptions": "Int64"}) if rows else frame


def table_row(spec: TrialSpec, samples: pa.Table, engine: str) -> dict[str, object]:
    """The row of one trial; engine: its name in the table."""
    workload = spec.workload
    concurrency = workload.arrivals.concurrency or 1
    one = expected = within = None
    if spec.engine.has_known_cache:
        one = footprint(spec.engine, workload.prompt_tokens, workload.output_tokens)
        expected = expect(spec.engine, one, concurrency)
        within = room(spec.engine, one, concurrency)
    found = {row.source: row for row in seen(samples, within)}
    steps = found.get(ENGINE_STEPS)
    fullest = steps or max(found.values(), key=lambda row: row.peak_fraction, default=None)
    preempted = _told(found, lambda row: row.preemptions)
    waited = _told(found, lambda row: row.waiting_share)
    log_share, log_chance = agreements(samples, ENGINE_LOG, TRITON_METRICS)
    metrics_share, metrics_chance = agreements(samples, TRITON_METRICS, None)
    return {
        "trial_id": spec.trial_id,
        "engine": engine,
        "concurrency": concurrency,
        "varied": one.varied if one else None,
        "expected_peak": expected.peak_fraction if expected else np.nan,
        "expected_mean": expected.mean_fraction if expected else np.nan,
        "sources": str(kv_state(samples)),
        "via": remedies(spec, samples),
        "log_peak": _peak(found.get(ENGINE_LOG)),
        "metrics_peak": _peak(found.get(TRITON_METRICS)),
        "step_peak": _peak(steps),
        "step_mean": steps.mean_fraction if steps else np.nan,
        "measured_peak": _peak(fullest),
        "measured_from": fullest.source if fullest else None,
        "preemptions": preempted.preemptions if preempted else None,
        "preemptions_from": preempted.source if preempted else None,
        "waiting_share": waited.waiting_share if waited else np.nan,
        "waiting_from": waited.source if waited else None,
        "limited": any(row.limited for row in found.values()),
        "log_agrees": log_share,
        "log_chance": log_chance,
        "metrics_agrees": metrics_share,
        "metrics_chance": metrics_chance,
    }


def remedies(spec: TrialSpec, samples: pa.Table) -> str:
    """Through which of the kit's remedies KV usage was told, as the samples' labels say.

    A trial installs no hook. Recordings from before the model had a mark of its own have the
    hook's word on the lines that the model asked vLLM for; they are given the model's.
    """
    usage = samples.filter(pc.equal(samples["name"], KV_USAGE))
    texts = pc.unique(usage["labels"]).to_pylist()
    words = {str(via) for text in texts if text and (via := labels_of(text).get(VIA)) is not None}
    if spec.model == VLLM_MODEL and VIA_HOOK in words:
        words = words - {VIA_HOOK} | {VIA_MODEL}
    return ", ".join(sorted(words))


def _told(found: dict[str, Seen], figure: Callable[[Seen], object]) -> Seen | None:
    """The first source that tells the figure."""
    there: Iterable[Seen] = (found[source] for source in PREFERRED if source in found)
    return next((row for row in there if figure(row) is not None), None)


def agreements(samples: pa.Table, source: str, other: str | None) -> tuple[float, float]:
    """Agreement with the steps, or where there are none with the source `other`; and by chance."""
    is_step = pc.match_substring(samples["labels"], f'"{STEP}"')
    steps, rest = samples.filter(is_step), samples.filter(pc.invert(is_step))
    if steps.num_rows:
        # Renamed, since the steps are in the log, too.
        place = steps.schema.get_field_index("source")
        steps = steps.set_column(place, "source", pa.array([ENGINE_STEPS] * steps.num_rows))
        rest, other = pa.concat_tables([rest, steps]), ENGINE_STEPS
    if other is None:
        return np.nan, np.nan
    shares = [measure(rest, source, other, within_s=WITHIN_S) for measure in (agreement, by_chance)]
    share, chance = (np.nan if value is None else value for value in shares)
    return share, chance


def _peak(row: Seen | None) -> float:
    return row.peak_fraction if row else np.nan
