"""What the recorded KV experiment on real vLLM shows; its claims, asserted on its data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kit.kv.experiment import KV_STUDY, fit_recorded, kv_study, pace_study
from kit.kv.table import agreements, kv_table, table_row
from kit.servers.watch import names
from kit.stats.frames import requests_frame, trials_frame
from kit.study.paths import RECORDED
from kit.study.recorded import open_study

PACE, KV = RECORDED / "vllm_pace", RECORDED / "kv_real_and_simulated"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return kv_table(KV)


def rows(table: pd.DataFrame, engine: str, traffic: str) -> pd.DataFrame:
    return table[table["trial_id"].str.startswith(f"{engine}_{traffic}_")].set_index("concurrency")


def test_vllms_peak_is_the_expected_one_at_each_concurrency(table: pd.DataFrame) -> None:
    real = rows(table, "vllm-cpu", "64-tokens").sort_index()

    assert list(real.index) == [1, 4, 8, 16]
    assert real["step_peak"].to_numpy() == pytest.approx(real["expected_peak"], rel=0.1)
    assert list(real["preemptions"] > 0) == [False, False, False, True]


def test_log_and_metrics_agree_with_the_engine_within_one_sample(table: pd.DataFrame) -> None:
    real = table[table["engine"].str.startswith("vllm-cpu")]

    for source in ("log", "metrics"):
        share, chance = real[f"{source}_agrees"], real[f"{source}_chance"]
        assert share.notna().all()
        assert chance.notna().all()
        assert share.min() >= 0.85
        assert share.mean() >= 0.95
        assert (share - chance).min() >= 0.15
        assert (share - chance).mean() >= 0.35


@pytest.mark.parametrize("change", ["zero", "reverse", "late"])
def test_metrics_that_are_wrong_do_not_agree(change: str) -> None:
    """A source that always says 0, one that runs backwards, and one that is seconds late."""
    recorded = open_study(KV).trial("vllm-cpu_mixed_c4").samples()
    samples = recorded.to_pandas()
    told = (samples["source"] == names.TRITON_METRICS) & (samples["name"] == names.KV_USAGE)
    values = samples.loc[told, "value"].to_numpy()
    changed = {"zero": 0.0 * values, "reverse": values[::-1], "late": np.roll(values, 20)}
    samples.loc[told, "value"] = changed[change]
    wrong = pa.Table.from_pandas(samples, schema=recorded.schema, preserve_index=False)
    share, _ = agreements(wrong, names.TRITON_METRICS, None)

    assert share < 0.5


def test_the_recorded_lines_came_through_the_kits_model_and_not_through_a_hook(
    table: pd.DataFrame,
) -> None:
    """The recording is older than the model's own mark, and says what the hook's would."""
    real = table["engine"].str.startswith("vllm-cpu")

    assert set(table.loc[real, "via"]) == {f"{names.VIA_MODEL}, {names.VIA_METRICS}"}
    assert set(table.loc[~real, "via"]) == {""}


def test_pressure_is_taken_from_the_log_where_the_metrics_do_not_tell_it() -> None:
    trial = open_study(KV).trial("vllm-cpu_mixed_c16")
    samples = trial.samples()
    log_only = samples.filter(pc.equal(samples["source"], names.ENGINE_LOG))
    row = table_row(trial.spec, log_only, "vllm")

    assert row["waiting_from"] == names.ENGINE_LOG
    assert row["waiting_share"] > 0.5
    assert row["preemptions"] is None, "V1 logs none"
    assert row["limited"]


def test_the_expected_peak_is_right_to_a_tenth_where_lengths_are_the_same(
    table: pd.DataFrame,
) -> None:
    told = pd.concat([table, kv_table(PACE)])
    open_ended = told[(told["expected_peak"] < 1.0) | (told["measured_peak"] < 1.0)]
    off = open_ended["measured_peak"] / open_ended["expected_peak"] - 1

    assert off[~open_ended["varied"]].abs().max() < 0.1
    assert off[open_ended["varied"]].max() < 0.1, "an upper estimate"
    assert off[open_ended["varied"]].min() < -0.1


def test_the_simulated_engine_preempts_as_often_as_vllm(table: pd.DataFrame) -> None:
    for traffic in ("64-tokens", "mixed"):
        real = rows(table, "vllm-cpu", traffic)["preemptions"]
        simulated = rows(table, "simulated", traffic)["preemptions"]
        assert simulated.reindex(real.index).to_list() == pytest.approx(
            real.to_list(), rel=0.2, abs=3
        )


def test_the_simulated_engine_serves_at_vllms_pace() -> None:
    """Median latency of each kind of traffic; the machine had other work beside."""
    latencies = requests_frame(KV)
    median = latencies[latencies["ok"]].groupby("trial_id", observed=True)["e2e_ms"].median()
    for name in (n for n in median.index if n.startswith("vllm-cpu")):
        simulated = median[name.replace("vllm-cpu", "simulated")]
        assert np.log(simulated / median[name]) == pytest.approx(0.0, abs=np.log(1.5))


def test_the_recorded_pace_is_what_the_simulated_engine_ran_at() -> None:
    fit = fit_recorded(PACE)
    ran = {t.spec.trial_id: t.spec for t in open_study(KV).trials()}
    planned = {trial.trial_id: trial for trial in kv_study(fit)[1]}

    assert fit.median_error_fraction < 0.2
    assert ran.keys() == planned.keys()
    for name, spec in ran.items():
        assert spec.workload == planned[name].workload
        assert spec.engine.decode_step_ms == pytest.approx(
            planned[name].engine.decode_step_ms, rel=0.05
        )


KEYS = ["trial_id", "request", "prompt_tokens_sent", "output_tokens_asked"]


def test_real_and_simulated_had_the_same_traffic() -> None:
    asked = requests_frame(KV)[KEYS]
    of_trial = {
        name: frame.sort_values("request").drop(columns="trial_id").to_numpy().tolist()
        for name, frame in asked.groupby("trial_id", observed=True)
    }
    for name in (n for n in of_trial if n.startswith("vllm-cpu")):
        assert of_trial[name] == of_trial[name.replace("vllm-cpu", "simulated")]


def test_nothing_waited_in_the_trials_that_the_pace_was_fitted_to() -> None:
    pace = kv_table(PACE)

    assert set(pace["concurrency"]) == {t.workload.arrivals.concurrency for t in pace_study()[1]}
    assert pace["step_peak"].isna().all()
    assert pace["metrics_peak"].max() < 0.5
    assert (pace["preemptions"] == 0).all()


def test_every_trial_survived_since_nothing_asked_too_late() -> None:
    trials = trials_frame(KV)

    assert set(trials["verdict"]) == {"survived"}
    assert open_study(KV).spec.name == KV_STUDY
