"""Claims about kit.stats.frames, on folders written through kit.study.folder."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from synthetic_studies import START_NS, append, first_light, write_study, write_trial

from kit.errors import StoreError
from kit.plots.titles import varying
from kit.stats.frames import (
    TRIAL_DTYPES,
    client_frame,
    engine_labels,
    requests_frame,
    samples_frame,
    token_gaps_frame,
    trials_frame,
)
from kit.stats.trial_keys import TRIAL_KEYS
from kit.study.arrow_file import ArrowAppender
from kit.study.folder import REQUESTS
from kit.study.paths import RECORDED
from kit.study.result import Outcome, Verdict
from kit.study.spec import ArrivalKind, Arrivals, Engine, EngineKind, Fault, FaultKind, Protocol


def test_a_trial_that_outlives_its_requests_is_censored(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", requests=60)
    (row,) = trials_frame(study).to_dict("records")
    assert row["crashed"] is False
    assert row["completed"] == 60
    assert pd.isna(row["crash_iteration"])
    assert pd.isna(row["time_to_death_s"])
    assert row["exposure_s"] > 0


def test_a_crash_carries_its_iteration_wave_signal_and_signature(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=34, concurrency=4)
    (row,) = trials_frame(study.path).to_dict("records")
    assert (row["crash_iteration"], row["wave"], row["in_flight"]) == (34, 8.5, 4)
    assert (row["signal"], row["exit_code"]) == (11, -11)
    assert "IsCancelled" in row["signature_text"]
    assert row["time_to_death_s"] == row["exposure_s"]
    assert row["ready_s"] == 2.5


def test_a_hang_is_an_event_and_a_client_fault_counts_for_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", repeat=0, verdict=Verdict.HUNG)
    write_trial(study, "23.10", repeat=1, verdict=Verdict.CLIENT_FAULT)
    frame = trials_frame(study)
    assert frame["crashed"].tolist() == [True, False]
    assert frame["counted"].tolist() == [True, False]
    assert frame["crash_iteration"].tolist() == [60, pd.NA]


@pytest.mark.filterwarnings("ignore::kit.errors.DamagedStudyWarning")  # its file is cut short
def test_an_interrupted_trial_keeps_its_row_and_its_requests(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    folder = write_trial(study, "23.10", requests=20, finished=False)
    requests_file = folder.path / "requests-0.arrows"
    requests_file.write_bytes(requests_file.read_bytes()[:-40])  # torn by a kill
    (row,) = trials_frame(study).to_dict("records")
    assert row["verdict"] == "interrupted"
    assert row["counted"] is False
    assert row["completed"] == len(requests_frame(study)) == 16  # the torn batch held 4
    assert requests_frame(study)["t_s"].min() >= 0


def test_frames_of_an_empty_study_have_their_columns(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    assert list(trials_frame(study).columns) == list(TRIAL_DTYPES)
    for frame in (requests_frame, token_gaps_frame, samples_frame, client_frame):
        assert list(frame(study).columns)[: len(TRIAL_KEYS)] == TRIAL_KEYS
        assert frame(study).empty


def test_a_folder_that_does_not_exist_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="study folder"):
        trials_frame(tmp_path / "nowhere")


def test_latencies_follow_the_definitions(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    folder = write_trial(study, "23.10", requests=1)
    (folder.path / "requests-0.arrows").unlink()
    ms = 1_000_000
    row = dict.fromkeys(REQUESTS.names) | {
        "request": 0,
        "outcome": "ok",
        "warmup": False,
        "scheduled_ns": START_NS,
        "sent_ns": START_NS + 10 * ms,
        "first_ns": START_NS + 30 * ms,
        "end_ns": START_NS + 95 * ms,
        "token_ns": [START_NS + t * ms for t in (30, 40, 60, 90)],
    }
    append(folder, "requests-0.arrows", REQUESTS, [row])
    (seen,) = requests_frame(study).to_dict("records")
    assert seen["ttft_ms"] == 20
    assert seen["e2e_ms"] == 85
    assert seen["e2e_from_schedule_ms"] == 95
    assert seen["dispatch_ms"] == 10
    assert seen["itl_ms_mean"] == 20  # (90 - 30) / 3
    assert seen["itl_ms_max"] == 30
    assert (seen["t_s"], seen["end_s"]) == (0.01, 0.095)
    gaps = token_gaps_frame(study)
    assert gaps["itl_ms"].tolist() == [10, 20, 30]
    assert gaps["gap"].tolist() == [1, 2, 3]


def test_gaps_never_run_from_one_request_into_the_next(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", requests=30, outcomes={3: Outcome.TIMEOUT, 9: Outcome.RESET})
    requests = requests_frame(study)
    assert (requests["itl_ms_mean"].notna() == requests["ok"]).all()
    np.testing.assert_allclose(
        requests.loc[requests["ok"], "itl_ms_mean"],
        requests.loc[requests["ok"], "itl_ms_max"],
        rtol=1e-5,
    )
    assert len(token_gaps_frame(study)) == 28 * 4


def test_one_body_has_no_first_token(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", protocol=Protocol.HTTP_GENERATE)
    requests = requests_frame(study)
    assert requests["ttft_ms"].isna().all()
    assert requests["first_byte_ms"].notna().all()


def test_failed_and_in_flight_requests_stay_in_the_frame(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=10, concurrency=4, outcomes={2: Outcome.HTTP_ERROR})
    counts = requests_frame(study)["outcome"].value_counts().to_dict()
    assert counts == {"ok": 9, "in_flight": 4, "http_error": 1}


def test_warm_up_and_deliberate_faults_are_not_judged(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10", "24.05"], ["cancel-race"])
    write_trial(study, "23.10", requests=10, warmup=3)
    write_trial(study, "24.05", requests=10, faults=(Fault(kind=FaultKind.DEADLINE),))
    judged = requests_frame(study).groupby("release", observed=True)["judged"].sum()
    assert judged.to_dict() == {"23.10": 7, "24.05": 0}


def test_a_scenario_says_whether_it_is_a_fault_or_a_control(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race", "control", "of-another-kit"])
    for scenario in study.spec.scenarios:
        write_trial(study, "24.05", scenario=scenario)
    kinds = trials_frame(study).set_index("scenario")["kind"]
    assert kinds["cancel-race"] == "fault"
    assert kinds["control"] == "control"
    assert pd.isna(kinds["of-another-kit"])


def test_engines_with_one_name_are_told_apart_by_what_differs() -> None:
    small, large = Engine(blocks=32), Engine(blocks=512)
    vllm = Engine(kind=EngineKind.VLLM_CPU, version="0.4.3")
    labels = engine_labels([small, large, vllm])
    assert labels[small] == "simulated (blocks=32)"
    assert labels[large] == "simulated (blocks=512)"
    assert labels[vllm] == "vllm-cpu 0.4.3"
    assert engine_labels([small, small]) == {small: "simulated"}


def test_samples_and_client_ticks_count_from_load_start(tmp_path: Path) -> None:
    study = first_light(tmp_path / "s", repeats=1)
    samples = samples_frame(study)
    assert samples["t_s"].min() == 0
    assert set(samples["release"].unique()) == {"23.10", "24.10"}  # 24.05 exports nothing
    assert client_frame(study)["t_s"].tolist() == [0.0, 0.25, 0.5, 0.75] * 6


@pytest.mark.slow
def test_a_million_requests_are_read_in_seconds(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    folder = write_trial(study, "23.10", requests=1)
    (folder.path / "requests-0.arrows").unlink()
    n = 1_000_000
    start = np.arange(n) * 1_000 + START_NS
    columns = {name: [None] for name in REQUESTS.names}
    with ArrowAppender(folder.path / "requests-0.arrows", REQUESTS) as file:
        tokens = pa.ListArray.from_arrays(
            np.arange(n + 1) * 3,
            (start[:, None] + np.array([5, 9, 20]) * 1_000_000).ravel(),
        )
        arrays = {name: pa.nulls(n, REQUESTS.field(name).type) for name in columns}
        arrays |= {"scheduled_ns": pa.array(start), "sent_ns": pa.array(start)}
        arrays |= {"first_ns": pa.array(start + 5_000_000), "token_ns": tokens}
        arrays |= {"end_ns": pa.array(start + 20_000_000), "request": pa.array(np.arange(n))}
        arrays |= {"outcome": pa.array(["ok"] * n), "warmup": pa.array([False] * n)}
        file.append_batch(pa.record_batch(list(arrays.values()), schema=REQUESTS))
    began = time.process_time()
    requests = requests_frame(study)
    spent_s = time.process_time() - began
    assert len(requests) == n
    assert requests["itl_ms_mean"].eq(7.5).all()
    assert spent_s < 30  # about 1 s on an idle core; far more would be a loop in Python


def test_trials_under_different_traffic_are_told_apart_whatever_the_grid_says(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])  # without a grid
    for repeat, rate in enumerate((5.0, 20.0)):
        at = Arrivals(kind=ArrivalKind.POISSON, rate_per_s=rate, concurrency=4)
        write_trial(study, "24.05", repeat=repeat, arrivals=at)
    frames = trials_frame(study), requests_frame(study), samples_frame(study), client_frame(study)
    for frame in frames:
        assert list(frame.columns)[: len(TRIAL_KEYS) + 1] == [*TRIAL_KEYS, "rate"]
        assert set(frame["rate"]) == {5, 20}
    assert varying(frames[1]) == ["release", "rate"]


def test_what_the_scenario_or_the_engine_decides_is_no_column(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race", "control"])
    write_trial(study, "24.05", faults=(Fault(kind=FaultKind.DISCONNECT, fraction=0.5),))
    write_trial(study, "24.05", scenario="control")
    assert "disconnect" not in trials_frame(study)
    write_trial(study, "24.05", scenario="control", repeat=1, requests=7)
    assert "requests" not in trials_frame(study), "the same traffic, for longer"


def test_lengths_that_are_numbers_and_distributions_are_text_in_every_frame() -> None:
    recorded = RECORDED / "kv_real_and_simulated"  # an old study: two kinds of traffic, no grid
    for frame in (trials_frame(recorded), requests_frame(recorded)):
        assert set(frame["prompt_tokens"]) == {"16", "uniform(16,128)"}
        assert set(frame["output_tokens"]) == {"64", "uniform(64,256)"}
    assert varying(trials_frame(recorded))[-2:] == ["prompt_tokens", "output_tokens"]
