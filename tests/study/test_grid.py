"""The words for traffic that a study varies, and the studies of older versions of the kit."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from kit.errors import SpecError
from kit.study.distribution import as_distribution, fixed, uniform
from kit.study.encoding import from_json, to_json
from kit.study.grid import FIELDS, as_grid, number_of, tag_of, value_of, with_traffic
from kit.study.plan import count, plan, trials_of
from kit.study.spec import (
    ArrivalKind,
    Arrivals,
    Engine,
    EngineKind,
    Fault,
    FaultKind,
    Protocol,
    ServerKind,
    ServerSpec,
    StudySpec,
    TrialSpec,
    Workload,
    embedded,
)

SAMPLE = Path(__file__).with_name("traffic_files") / "azure.csv"
#: A value of every field that differs from what a workload has by itself.
OTHER = {
    "concurrency": 3,
    "rate": 2.5,
    "arrivals": "constant",
    "burstiness_cv": 2.0,
    "trace": str(SAMPLE),
    "trace_speed": 2,
    "trace_lengths": 0.5,
    "protocol": "grpc-stream",
    "prompt_tokens": "16:64",
    "output_tokens": 7,
    "shared_prefix_tokens": 5,
    "turns": 2,
    "prompt_set": "mine, and yours",
    "tokenizer": f"tokenizer.json#tokenizer_sha256={'0' * 64}",
    "disconnect": 0.25,
    "cancel": 0.5,
    "deadline_s": 0.2,
    "requests": 11,
    "duration_s": 4,
    "warmup_requests": 6,
    "timeout_s": 9,
    "max_errors": 8,
    "max_error_fraction": 0.25,
    "answer_check": "echo",
    "processes": 2,
    "load_hosts": 2,
    "grpc_client": "kit",
    "stream_errors": "status",
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_a_workload_and_is_read_back_from_it(name: str) -> None:
    base = Workload(arrivals="gamma", rate=1) if name == "burstiness_cv" else Workload(rate=1)
    base = Workload(trace=SAMPLE) if name in ("trace_speed", "trace_lengths") else base
    (value,) = as_grid({name: OTHER[name]})[name]
    changed = with_traffic(base, {name: value})
    assert value_of(name, base) != value_of(name, changed)
    assert changed == with_traffic(base, {name: value})
    assert value_of(name, changed) in (value, number_of(value))


@pytest.mark.parametrize("name", FIELDS)
def test_a_workload_can_be_written_with_every_field(name: str) -> None:
    more: dict[str, object] = {"rate": 1} if name in ("arrivals", "burstiness_cv") else {}
    more |= {"trace": SAMPLE} if name in ("trace_speed", "trace_lengths") else {}
    written = Workload(**{name: OTHER[name], **more})  # type: ignore[arg-type]
    assert value_of(name, written) is not None
    assert from_json(to_json(written), Workload) == written


def test_a_share_of_nobody_is_no_fault() -> None:
    leaving = Workload(disconnect=0.5)
    assert leaving.faults[0].kind is FaultKind.DISCONNECT
    assert leaving.changed(disconnect=0).faults == ()


def test_another_share_keeps_when_clients_leave() -> None:
    fault = Fault(kind=FaultKind.CANCEL, after=uniform(3, 4))
    assert Workload(faults=[fault]).changed(cancel=0.1).faults == (replace(fault, fraction=0.1),)


def test_a_rate_keeps_the_kind_of_open_loop_and_its_cap() -> None:
    bursty = Workload(arrivals="gamma", rate=2, burstiness_cv=3, concurrency=64)
    faster = bursty.changed(rate=9)
    assert faster.arrivals == Arrivals(
        kind=ArrivalKind.GAMMA, rate_per_s=9, burstiness_cv=3, concurrency=64
    )


def test_the_clients_of_a_closed_loop_are_no_cap_of_an_open_one() -> None:
    assert Workload(concurrency=16).changed(rate=5).concurrency is None
    assert Workload(concurrency=16).changed(rate=5, concurrency=32).concurrency == 32


def test_a_duration_alone_ends_a_trial() -> None:
    assert Workload(duration_s=60).requests is None
    assert Workload().changed(duration_s=60).requests is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("32", fixed(32)),
        ("16:64", uniform(16, 64)),
        ("uniform(16, 64)", uniform(16, 64)),
        ("geometric(32,high=512)", as_distribution("x", "geometric(32, high=512)")),
    ],
)
def test_lengths_are_read_from_short_text_and_written_as_such(text: str, meant: object) -> None:
    found = as_distribution("output_tokens", text)
    assert found == meant
    assert as_distribution("output_tokens", str(found)) == found


def test_twelve_thousand_trials_are_counted_by_multiplication() -> None:
    spec = StudySpec(
        name="large",
        servers=embedded("23.10", "24.05"),
        scenarios=("cancel-race", "control"),
        grid={"concurrency": range(1, 31), "output_tokens": range(1, 11)},  # type: ignore[dict-item]
        repeats=10,
    )
    began = time.process_time()
    assert count(spec) == 12_000
    assert time.process_time() - began < 0.5, "milliseconds, on a quiet machine"
    few = list(islice(trials_of(spec), 3))
    assert [trial.repeat for trial in few] == [0, 0, 0]


def test_every_point_of_a_grid_has_trials_of_its_own_name_and_traffic() -> None:
    spec = StudySpec(
        name="mine",
        servers=embedded("24.05"),
        workload=Workload(protocol="grpc-stream"),
        grid={"rate": (5, 20), "output_tokens": ("16:64", 32), "prompt_set": ("a/b", "a b")},  # type: ignore[dict-item]
        repeats=2,
    )
    trials = plan(spec)
    assert len(trials) == count(spec) == 16
    assert len({trial.trial_id for trial in trials}) == len({t.workload.seed for t in trials}) == 16
    assert not any(set(trial.trial_id) & set("/ ,()") for trial in trials)


def test_a_slow_rate_gets_the_time_that_it_needs() -> None:
    spec = StudySpec(
        name="slow", servers=embedded("24.05"), workload=Workload(rate=0.5, requests=200)
    )
    assert plan(spec)[0].timeout_s > 400


def test_a_closed_and_an_open_loop_are_never_mixed() -> None:
    with pytest.raises(SpecError, match="closed and open loop"):
        as_grid({"arrivals": ["closed", "poisson"]})


def test_values_that_do_not_go_together_are_refused_before_the_first_trial() -> None:
    spec = StudySpec(
        name="s",
        servers=embedded("24.05"),
        workload=Workload(),
        grid={"disconnect": (0.6,), "cancel": (0.6,)},
    )
    with pytest.raises(SpecError, match="120%"):
        count(spec)


def test_tags_name_the_field_and_its_value() -> None:
    assert tag_of("rate", 5.0) == "rate5"
    assert tag_of("output_tokens", uniform(16, 64)) == "outuniform-16-64"
    assert tag_of("protocol", "grpc-stream") == "protogrpc-stream"


def test_a_study_of_schema_1_opens_as_the_same_study() -> None:
    old = {
        "name": "old",
        "releases": ["23.10", "24.05"],
        "scenarios": ["control"],
        "concurrencies": [1, 16],
        "requests": None,
        "repeats": 2,
        "seed": 3,
        "server_kind": "embedded",
        "schema": 1,
    }
    spec = from_json(json.dumps(old).encode(), StudySpec)
    assert spec.releases == ("23.10", "24.05")
    assert [trial.trial_id for trial in plan(spec)][:2] == [
        "23.10_control_c1_r0",
        "24.05_control_c1_r0",
    ]
    assert from_json(to_json(spec), StudySpec) == spec


def test_a_load_of_schema_1_opens_though_its_address_was_not_kept() -> None:
    old = {
        "trial_id": "attached",
        "release": "attached",
        "scenario": "attached",
        "model": "llama",
        "server_kind": "attached",
        "schema": 1,
    }
    trial = from_json(json.dumps(old).encode(), TrialSpec)
    assert (trial.release, trial.server.kind) == ("attached", ServerKind.ATTACHED)


def test_a_misspelt_field_of_schema_1_is_still_an_error() -> None:
    with pytest.raises(SpecError, match="repeat"):
        from_json(
            b'{"name": "x", "releases": ["24.05"], "scenarios": ["control"], "repeat": 3, '
            b'"schema": 1}',
            StudySpec,
        )


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"release": 24.10}, "quotes"),
        ({}, "release"),
        ({"kind": "attached", "url": "http://a"}, "model"),
        ({"kind": "container"}, "release or image"),
        ({"kind": "atached", "model": "m"}, "'attached'"),
    ],
)
def test_a_server_without_what_its_kind_needs_is_refused(
    given: dict[str, object], word: str
) -> None:
    with pytest.raises(SpecError, match=word):
        ServerSpec(**given)  # type: ignore[arg-type]


def test_an_attached_server_needs_no_scenario_and_no_known_answers() -> None:
    server = ServerSpec(kind=ServerKind.ATTACHED, url="http://llm.example:9000", model="llama")
    spec = StudySpec(
        name="a",
        servers=(server,),
        engines=(Engine(kind=EngineKind.VLLM),),
        workload=Workload(protocol=Protocol.OPENAI_CHAT),
    )
    trial = plan(spec)[0]
    assert trial.release == "llm.example:9000"
    assert trial.model == "llama"
    assert trial.workload.answer_check == "none"
