"""What a reader is told of the KV cache, before a run and after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.kv.advice import advise, expected_advice, study_advice, trial_advice
from kit.kv.expect import fits_up_to, footprint
from kit.kv.seen import Seen
from kit.servers.watch import names
from kit.study.paths import RECORDED
from kit.study.plan import plan
from kit.study.recorded import open_study
from kit.study.result import Verdict
from kit.study.spec import (
    ArrivalKind,
    Arrivals,
    Engine,
    ServerKind,
    ServerSpec,
    StudySpec,
    embedded,
    fixed,
)

SMALL = Engine(blocks=32, block_size_tokens=32, max_sequences=32, max_model_tokens=512)


def texts(concurrency: int, measured: list[Seen] | None, *, warning: bool) -> str:
    one = footprint(SMALL, fixed(16), fixed(64))
    advice = advise(SMALL, one, concurrency, measured)
    return "\n".join(row.text for row in advice if row.warning is warning)


def measured(
    peak: float, preemptions: int | None = 0, waiting: float = 0.0, held_back: float = 0.0
) -> Seen:
    return Seen(
        source=names.ENGINE_LOG,
        peak_fraction=peak,
        mean_fraction=peak / 2,
        preemptions=preemptions,
        waiting_share=waiting,
        held_back_share=held_back,
    )


def test_a_cache_that_will_overflow_is_a_warning_with_the_size_that_would_do() -> None:
    warning = texts(16, None, warning=True)

    assert "155%" in warning
    assert "wait for it, or be preempted" in warning
    assert "10 fit" in warning
    assert "49 blocks" in warning
    bigger = Engine(blocks=49, block_size_tokens=32, max_sequences=32, max_model_tokens=512)
    assert fits_up_to(bigger, footprint(bigger, fixed(16), fixed(64))) == 16


def test_a_run_as_expected_is_no_warning() -> None:
    assert texts(4, [measured(0.387)], warning=True) == ""
    assert "39%" in texts(4, [measured(0.387)], warning=False)


def test_preemptions_and_waiting_for_the_cache_make_a_run_kv_limited() -> None:
    assert "6 preemptions" in texts(16, [measured(1.0, preemptions=6)], warning=True)
    held_back = measured(0.9, waiting=0.5, held_back=0.4)
    assert "no room for a waiting request in 40%" in texts(16, [held_back], warning=True)
    assert "limited by" not in texts(8, [measured(0.77)], warning=True)


def test_usage_that_was_not_exported_is_said_and_is_not_zero() -> None:
    text = texts(4, [], warning=True)

    assert names.NOT_EXPORTED in text
    assert "0%" not in text


def test_a_peak_far_from_the_expected_one_is_explained() -> None:
    assert "off by -29%" in texts(4, [measured(0.1)], warning=True)
    assert "off by +51%" in texts(4, [measured(0.9)], warning=True)


def test_sequences_longer_than_the_engine_takes_are_a_warning() -> None:
    one = footprint(SMALL, fixed(500), fixed(64))

    assert "564 tokens" in advise(SMALL, one, 1, None)[0].text


def test_whole_prompts_that_leave_room_are_said_to() -> None:
    text = advise(SMALL, footprint(SMALL, fixed(384), fixed(8)), 3, None)[0].text

    assert "Whole prompts fill 84% of it" in text
    assert "2 fit at a time" in text


def test_a_server_that_died_early_is_not_blamed_for_an_empty_cache() -> None:
    one = footprint(SMALL, fixed(16), fixed(64))
    early = advise(SMALL, one, 8, [measured(0.1)], cut_short=True)

    assert not any(row.warning for row in early)
    assert "measured peak 10%, expected 77%" in early[-1].text


def test_several_engines_are_told_one_by_one() -> None:
    one = footprint(SMALL, fixed(16), fixed(64))
    both = replace(measured(0.39), engine_peaks=(("000", 0.39), ("001", 0.1)))

    assert "39% (engine 000 39% and engine 001 10%)" in advise(SMALL, one, 4, [both])[1].text


def control(**engine: int) -> StudySpec:
    return StudySpec(
        name="s",
        servers=embedded("24.05"),
        scenarios=("control",),
        engines=(replace(SMALL, **engine),),
        grid={"concurrency": (1, 16)},
    )


def test_before_a_run_a_cache_that_fills_is_warned_of() -> None:
    few, many = (expected_advice(trial)[0] for trial in plan(control())[:2])

    assert not few.warning
    assert many.warning
    assert many.text.startswith("At concurrency 16 this traffic needs")
    assert not any(
        row.warning for trial in plan(control(blocks=512)) for row in expected_advice(trial)
    )


def test_an_open_loop_a_dialogue_and_a_model_without_an_engine_are_not_foreseen() -> None:
    [trial] = [t for t in plan(control()) if t.repeat == 0 and "c16" in t.trial_id]
    load = trial.workload
    open_loop = Arrivals(kind=ArrivalKind.POISSON, rate_per_s=9.0, concurrency=16)

    assert expected_advice(trial) != []
    assert expected_advice(replace(trial, workload=replace(load, arrivals=open_loop))) == []
    assert expected_advice(replace(trial, workload=replace(load, turns=2))) == []
    assert expected_advice(replace(trial, model="unary")) == []
    other = replace(trial, server=ServerSpec(kind=ServerKind.CONTAINER, release="24.05", model="m"))
    assert expected_advice(other) == []
    assert expected_advice(other, is_engine_known=True) == expected_advice(trial)


def test_each_recorded_trial_has_its_advice_and_those_under_pressure_a_warning() -> None:
    warned = {
        trial.spec.trial_id: [row.text for row in trial_advice(trial) if row.warning]
        for trial in open_study(RECORDED / "kv_real_and_simulated").trials()
    }
    limited = {name for name, texts in warned.items() if any("limited by" in t for t in texts)}

    assert limited == {
        *("vllm-cpu_64-tokens_c16", "vllm-cpu_mixed_c16"),
        *("simulated_64-tokens_c16", "simulated_mixed_c4", "simulated_mixed_c16"),
    }


def test_waiting_for_the_next_step_is_no_want_of_cache() -> None:
    """At 10 % of the cache, requests that come in the middle of a step are seen to wait."""
    for row in study_advice(RECORDED / "first_light"):
        assert not any("limited by" in advice.text for advice in row.advice)


def test_trials_with_one_traffic_share_their_advice(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05", "24.10"], ["cancel-race"])
    write_trial(study, "24.05", repeat=0)
    write_trial(study, "24.05", repeat=1, kv=False)
    write_trial(study, "24.10", crash_after=9)
    write_trial(study, "24.10", repeat=1, verdict=Verdict.CLIENT_FAULT)
    write_trial(study, "24.10", concurrency=8)
    rows = study_advice(study)

    assert [(row.concurrency, row.trials) for row in rows] == [(4, 4), (8, 1)]
    texts = [advice.text for advice in rows[0].advice if advice.warning]
    assert "KV usage is not exported in 1 of 2 trials." in texts


@pytest.mark.parametrize("verdict", [Verdict.CLIENT_FAULT, Verdict.INTERRUPTED])
def test_a_trial_that_says_nothing_about_its_server_gets_no_advice(
    tmp_path: Path, verdict: Verdict
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", verdict=verdict)

    assert study_advice(study) == []
