"""Reads a study folder as tidy frames: one row a trial, request, token gap or sample.

Interrupted trials, failed requests and requests that were open when the server died all keep
their row; what did not happen is NaN/NA, never 0. Times are milliseconds (`_ms`) for latencies
and seconds (`_s`) otherwise; `t_s` counts from the first load of the trial.

Columns that name the trial stand in every frame: kit.stats.trial_keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import UnknownScenarioError
from kit.stats.size import refuse_large
from kit.stats.timings import DTYPES, ns_as_float, request_timings, token_gaps
from kit.stats.trial_keys import (
    TRIAL_KEYS,
    engine_labels,
    traffic_columns,
    trial_columns,
    trial_keys,
)
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.once import computed_once
from kit.study.recorded import TABLES, open_study
from kit.study.result import Outcome, TrialResult, Verdict
from kit.study.scenarios import get_scenario
from kit.study.spec import OWN_WORKLOAD, ArrivalKind, Engine, TrialSpec


@computed_once
def trials_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a trial, in the order of the folder names.

    The columns of kit.stats.trial_keys, and:

    triton           version the trial ran, e.g. "2.39.0"; NA when not recorded
    kind             "fault" or "control"; NA for a scenario that this kit does not
                     know and for traffic of the user's own
    engine_kind, engine_version
    requests_asked   stop rule of the workload; NA = none
    verdict          kit.study.result.Verdict; "interrupted" also when there is no end marker
    crashed          the event of the survival statistics: the server died, hung, lost its engine
                     or its memory. False = censored
    counted          False: the trial says nothing about the server (interrupted, client fault)
    completed        requests that ended before the server died, or before the trial did
    crash_iteration  `completed` if crashed, else NA
    wave             crash_iteration / concurrency
    in_flight        requests open at the end
    exit_code, signal        as subprocess gives it; the signal's number; NA = still alive
    signature, signature_text    key of the crash signature; the same in one line
    reason           what the verdict was read from
    duration_s       server start to end of the trial
    ready_s          server start to ready
    exposure_s       time under load: load start to death, or to the end of the trial
    time_to_death_s  load start to death; NA = censored
    load_started_ns  CLOCK_MONOTONIC; the zero of every `t_s`
    wall_offset_ns   added to it: nanoseconds since the epoch
    host             of the trials of a cluster: label in hosts.json; NA = the study's own machine
    stopped_early    why the load ended before its last request, by max_errors or
                     max_error_fraction; NA = it did not
    watch_fault      why the watcher ended early; NA = it did not. What has no sample may have been
                     exported all the same
    """
    opened = open_study(study)
    folders = opened.trials()
    traffic = traffic_columns(opened.spec, [folder.spec for folder in folders])
    labels = engine_labels(folder.spec.engine for folder in folders)
    rows = [_trial_row(folder, labels, traffic) for folder in folders]
    keys = {name: TRIAL_DTYPES[name] for name in TRIAL_KEYS}
    dtypes = keys | traffic | TRIAL_DTYPES
    frame = pd.DataFrame(rows, columns=list(dtypes))
    return frame.astype(dtypes)


TRIAL_DTYPES = {
    **dict.fromkeys(["trial_id", "release", "scenario", "engine"], "string"),
    "concurrency": "Int64",
    "protocol": "string",
    "repeat": "Int64",
    **dict.fromkeys(["triton", "kind", "engine_kind", "engine_version"], "string"),
    "requests_asked": "Int64",
    "verdict": "string",
    "crashed": "bool",
    "counted": "bool",
    "completed": "Int64",
    "crash_iteration": "Int64",
    "wave": "Float64",
    "in_flight": "Int64",
    "exit_code": "Int64",
    "signal": "Int64",
    **dict.fromkeys(["signature", "signature_text", "reason"], "string"),
    **dict.fromkeys(["duration_s", "ready_s", "exposure_s", "time_to_death_s"], "float64"),
    "load_started_ns": "Int64",
    "wall_offset_ns": "Int64",
    **dict.fromkeys(["host", "stopped_early", "watch_fault"], "string"),
}


@computed_once
def requests_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a request: TRIAL_KEYS, the columns of kit.study.folder.REQUESTS without the raw
    times, and:

    prompt_tokens_sent   length of this request's prompt (prompt_tokens there: a grid's field has
                    that name)
    tokens_by       who counted the tokens of a request that was answered well: "server" (`usage` in
                    its answer), "tokenizer" (the workload's file) or "words" (a word is taken for
                    a token); NA of any other, and of requests that an older kit recorded
    tokens_in, tokens_out   of its prompt and of its answer, both counted by that
    open_loop       requests had a schedule, whatever became of those before them
    ok              the whole and right answer came
    judged          part of the latency population: not warm-up, nothing done to it on purpose
    t_s, end_s      sent and ended, seconds from load start
    ttft_ms         time to first token: first token - sent. Streams only
    first_byte_ms   first token or first byte of the body - sent. Every protocol
    e2e_ms          end-to-end latency: end - sent, whatever the outcome
    e2e_from_schedule_ms   end - scheduled: counts the wait of a request that the client could
                    not send when it was due, so that a stalled server is not flattered
    dispatch_ms     sent - scheduled: that wait alone
    itl_ms_mean, itl_ms_max   inter-token latency: the gaps between consecutive token events;
                    the mean equals (end of last token - first token) / (token events - 1)

    Definitions: TTFT, ITL and end-to-end latency as in NVIDIA's NIM LLM benchmarking guide
    ("Metrics"), where the gaps likewise exclude the first token and ITL is the same as time per
    output token; latency from the scheduled time after G. Tene, "How NOT to Measure Latency"
    (2013), who named the error that it avoids coordinated omission.
    Which of the two end-to-end latencies a figure is to show: kit.stats.timings.measured.
    A latency of a request that did not end well is the time it took to fail: filter by `ok`, or
    count it as unanswered (kit.stats.latency).

    Raises:
        TooLargeError: the study has more than kit.stats.size.MOST_ROWS
            requests.
    """
    opened = open_study(study)
    refuse_large(opened, "requests")
    return _gather(opened, "requests", _requests_of)


@computed_once
def token_gaps_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a gap between consecutive token events of a judged request: TRIAL_KEYS and

    request  number in the trial's traffic
    gap      1 = between the first token and the second
    itl_ms   the gap

    Raises:
        TooLargeError: the study has more than kit.stats.size.MOST_ROWS
            requests.
    """
    opened = open_study(study)
    refuse_large(opened, "tokens")
    return _gather(opened, "requests", _gaps_of)


@computed_once
def samples_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a value that a watcher saw: TRIAL_KEYS, t_s, source, name, value, labels.

    Names and sources as in kit.study.folder.SAMPLES. No row = not exported; that is a finding.
    """
    return _gather(study, "samples", _timed)


@computed_once
def client_frame(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a tick of a load worker: TRIAL_KEYS, t_s and columns of kit.study.folder.CLIENT."""
    return _gather(study, "client", _timed)


def _trial_row(
    folder: TrialFolder, labels: dict[Engine, str], traffic: dict[str, str]
) -> dict[str, object]:
    spec = folder.spec
    result = folder.result or _unfinished(folder, spec)
    keys = trial_keys(spec, labels, traffic)
    crashed = result.verdict.is_death
    concurrency = spec.workload.arrivals.concurrency
    died = (result.died_ns or result.ended_ns) if crashed else None
    signature = result.signature
    return keys | {
        "triton": result.versions.get("triton"),
        "kind": _kind(spec.scenario),
        "engine_kind": spec.engine.kind.value,
        "engine_version": spec.engine.version,
        "requests_asked": spec.workload.requests,
        "verdict": result.verdict.value,
        "crashed": crashed,
        "counted": result.verdict.is_counted,
        "completed": result.completed,
        "crash_iteration": result.crash_iteration,
        "wave": result.completed / concurrency if crashed and concurrency else None,
        "in_flight": result.in_flight,
        "exit_code": result.exit_code,
        "signal": _signal(result),
        "signature": signature.key if signature else None,
        "signature_text": signature.text if signature else None,
        "reason": result.reason,
        "duration_s": _seconds(result.started_ns, result.ended_ns),
        "ready_s": _seconds(result.started_ns, result.ready_ns),
        "exposure_s": _seconds(result.load_started_ns, died or result.ended_ns),
        "time_to_death_s": _seconds(result.load_started_ns, died),
        "load_started_ns": result.load_started_ns,
        "wall_offset_ns": result.wall_offset_ns or None,
        "host": result.host,
        "stopped_early": result.stopped_early,
        "watch_fault": result.watch_fault,
    }


def _unfinished(folder: TrialFolder, spec: TrialSpec) -> TrialResult:
    """What can be said of a trial without an end marker: its recorded requests."""
    requests = folder.requests()
    ended = pc.is_in(requests["outcome"], pa.array([o.value for o in Outcome if o.has_ended]))
    first, last = pc.min(requests["scheduled_ns"]).as_py(), pc.max(requests["end_ns"]).as_py()
    return TrialResult(
        trial_id=spec.trial_id,
        verdict=Verdict.INTERRUPTED,
        reason="there is no end marker: the trial was interrupted or is still running",
        completed=pc.sum(ended).as_py() or 0,
        load_started_ns=first,
        ended_ns=last,
    )


def _kind(scenario: str) -> str | None:
    if scenario == OWN_WORKLOAD:  # neither meant to kill a server nor known to spare it
        return None
    try:
        return get_scenario(scenario).kind
    except UnknownScenarioError:  # a study that was recorded with another kit
        return None


def _signal(result: TrialResult) -> int | None:
    if result.signature and result.signature.signal:
        return result.signature.signal
    return -result.exit_code if result.exit_code is not None and result.exit_code < 0 else None


def _seconds(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trials:
    """What the rows of a table need to know of their trials: one value a row."""

    which: np.ndarray  # number of the row's trial
    zero_ns: np.ndarray  # CLOCK_MONOTONIC of its load's start
    specs: list[TrialSpec]  # one a trial

    def of_rows(self, value: Callable[[TrialSpec], bool]) -> np.ndarray:
        """A property of its trial for each row."""
        return np.asarray(np.array([value(spec) for spec in self.specs], bool)[self.which])


#: A table of all trials, to the frame that it makes and the trial that each of its rows is of.
_RowsOf = Callable[[pa.Table, _Trials], tuple[pd.DataFrame, np.ndarray]]


def _gather(study: StudyFolder | Path, name: str, rows_of: _RowsOf) -> pd.DataFrame:
    """A frame of one table (kit.study.recorded.TABLES) of all trials, behind trial_columns."""
    opened = open_study(study)
    folders = opened.trials()
    specs = [folder.spec for folder in folders]
    parts: list[pa.Table] = [getattr(folder, name)() for folder in folders]
    counts = [part.num_rows for part in parts]
    filled = [part for part in parts if part.num_rows]
    whole = pa.concat_tables(filled) if filled else TABLES[name].empty_table()
    zeros = [zero_ns(f) if n else 0 for f, n in zip(folders, counts, strict=True)]
    rows, which = rows_of(
        whole,
        _Trials(
            which=np.repeat(np.arange(len(folders)), counts),
            zero_ns=np.repeat(np.array(zeros, np.int64), counts),
            specs=specs,
        ),
    )
    return pd.concat([trial_columns(opened, folders, which), rows], axis=1)


def zero_ns(folder: TrialFolder) -> int:
    """CLOCK_MONOTONIC of the load's start; without an end marker the first request's due time."""
    result = folder.result
    if result and result.load_started_ns is not None:
        return result.load_started_ns
    return pc.min(folder.requests()["scheduled_ns"]).as_py() or 0


def _requests_of(table: pa.Table, trials: _Trials) -> tuple[pd.DataFrame, np.ndarray]:
    frame = request_timings(
        table.rename_columns({"prompt_tokens": "prompt_tokens_sent"}),
        zero_ns=trials.zero_ns,
        streamed=trials.of_rows(lambda spec: spec.workload.protocol.is_streamed),
        open_loop=trials.of_rows(
            lambda spec: spec.workload.arrivals.kind is not ArrivalKind.CLOSED
        ),
    )
    return frame, trials.which


def _gaps_of(table: pa.Table, trials: _Trials) -> tuple[pd.DataFrame, np.ndarray]:
    frame, row = token_gaps(table)
    return frame, trials.which[row]


def _timed(table: pa.Table, trials: _Trials) -> tuple[pd.DataFrame, np.ndarray]:
    """The table with `t_s` in the place of `t_ns`."""
    t_s = (ns_as_float(table["t_ns"]) - trials.zero_ns) / 1e9
    rest: pd.DataFrame = table.drop_columns(["t_ns"]).to_pandas(types_mapper=DTYPES.get)
    rest.insert(0, "t_s", t_s)
    return rest, trials.which
