"""The /metrics reader against real bodies of Triton and vLLM, and against bodies gone wrong."""

from __future__ import annotations

import math
import time

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_bodies import TRITON
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kit.servers.watch import names
from kit.servers.watch.metrics_text import MAX_LINE_CHARS, parse_metrics
from kit.servers.watch.names import Sample
from kit.servers.watch.rates import CounterRates


def values(body: bytes, *models: str) -> dict[str, float]:
    """The last value of each name; without models, of all of them."""
    return {s.name: s.value for s in parse_metrics(body, t_ns=5, models=models or None)}


def test_triton_metrics_keep_their_names_and_the_engines_get_the_kits() -> None:
    assert values(TRITON, "simulated") == {
        "nv_inference_request_success": 12,
        "nv_cpu_utilization": 0.25,
        names.KV_USAGE: 0.5,
        "vllm:time_to_first_token_seconds_count": 1,
    }


def test_a_body_with_nv_metrics_is_tritons_and_any_other_is_vllms_own() -> None:
    own = b'vllm:num_requests_running{engine="0",model_name="/models/tiny"} 3.0\n'

    assert {s.source for s in parse_metrics(TRITON, t_ns=0)} == {names.TRITON_METRICS}
    assert {s.source for s in parse_metrics(own, t_ns=0)} == {names.VLLM_METRICS}


def test_a_torn_body_without_an_nv_line_is_still_of_the_server_that_was_asked() -> None:
    torn = TRITON[TRITON.index(b"vllm:kv") :]
    [kv, *_] = parse_metrics(torn, t_ns=0, source=names.TRITON_METRICS)

    assert (kv.source, kv.name) == (names.TRITON_METRICS, names.KV_USAGE)


def test_the_models_that_a_model_calls_are_kept_and_no_other() -> None:
    body = TRITON + b'vllm:num_requests_running{model="other",version="1"} 7\n'

    assert values(body, "bls", "simulated")[names.KV_USAGE] == 0.5
    assert names.RUNNING not in values(body, "bls", "simulated")
    assert names.KV_USAGE not in values(body, "bls")


def counters(t_s: float, prompt: float, generation: float, *, more: bytes = b"") -> list[Sample]:
    body = (
        b'vllm:prompt_tokens_total{model="m"} %f\nvllm:generation_tokens_total{model="m"} %f\n'
        % (prompt, generation)
    )
    return parse_metrics(body + more, t_ns=int(t_s * 1e9), source=names.TRITON_METRICS)


def test_two_scrapes_of_the_token_counters_tell_the_throughput() -> None:
    rates = CounterRates()
    assert rates.read(counters(10.0, 100, 50)) == []
    found = rates.read(counters(12.0, 140, 51))

    assert {s.name: s.value for s in found} == {
        names.PROMPT_RATE: pytest.approx(20.0),
        names.GENERATION_RATE: pytest.approx(0.5),
    }
    assert {(s.source, s.labels, s.t_ns) for s in found} == {
        (names.TRITON_METRICS, '{"model": "m"}', 12_000_000_000)
    }


def test_a_counter_that_began_anew_and_a_rate_that_is_told_give_no_rate() -> None:
    rates = CounterRates()
    rates.read(counters(10.0, 100, 50))
    told = b"vllm:avg_prompt_throughput_toks_per_s 9\n"

    assert rates.read(counters(11.0, 5, 5)) == []
    assert [s.name for s in rates.read(counters(12.0, 9, 9, more=told))] == [names.GENERATION_RATE]


def test_vllms_own_metrics_are_kept_whatever_its_model_is_called() -> None:
    own = b'vllm:num_requests_running{engine="0",model_name="/models/tiny"} 3.0\n'

    assert values(own, "simulated") == {names.RUNNING: 3}


@pytest.mark.parametrize("exported", sorted(names.VLLM_NAMES))
def test_each_name_that_vllm_ever_used_is_known(exported: str) -> None:
    assert values(f"{exported} 0.5\n".encode()) == {names.VLLM_NAMES[exported]: 0.5}


def test_of_two_names_for_one_figure_the_newer_is_taken_wherever_it_stands() -> None:
    old, new = b"vllm:gpu_cache_usage_perc 0.25\n", b"vllm:kv_cache_usage_perc 0.5\n"

    assert values(old + new) == values(new + old) == {names.KV_USAGE: 0.5}


def test_a_figure_that_is_off_or_not_a_number_is_absent_and_not_zero() -> None:
    body = b"vllm:gpu_prefix_cache_hit_rate -1\nvllm:kv_cache_usage_perc NaN\nnv_x +Inf\n"

    assert values(body) == {}


def test_a_torn_last_line_is_dropped_because_its_number_may_be_cut() -> None:
    assert values(b"nv_a 12\nnv_b 34") == {"nv_a": 12}


def test_a_line_that_is_no_metric_costs_only_itself() -> None:
    body = b'nv_a 1\nnv_b{x="\nnv_c{} {} 3\n\xff\xfe\x00\nnv_d one\nnv_e{a="b"} 5\n'

    assert values(body) == {"nv_a": 1, "nv_e": 5}


def test_labels_are_one_text_whatever_their_order() -> None:
    one = parse_metrics(b'nv_a{b="1",a="2"} 1\n', t_ns=0)
    two = parse_metrics(b'nv_a{a="2",b="1"} 1\n', t_ns=0)

    assert one == two
    assert one[0].labels == '{"a": "2", "b": "1"}'


def test_what_prometheus_client_writes_is_read_back() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:kv_cache_usage_perc", "x", registry=registry).set(0.125)
    Counter("vllm:num_preemptions", "x", registry=registry).inc(7)
    Histogram("vllm:time_to_first_token_seconds", "x", registry=registry).observe(0.5)

    assert values(generate_latest(registry)) == {
        names.KV_USAGE: 0.125,
        names.PREEMPTIONS: 7,
        "vllm:time_to_first_token_seconds_count": 1,
        "vllm:time_to_first_token_seconds_sum": 0.5,
    }


@given(st.binary(max_size=2000), st.integers(0, len(TRITON)), st.integers(0, len(TRITON)))
def test_no_body_is_an_error(noise: bytes, cut: int, at: int) -> None:
    mixed = TRITON[:cut] + noise + TRITON[at:]
    for body in (noise, TRITON[:cut], mixed, b"nv_" + noise + b"\n", b"vllm:" + noise + b"\n"):
        for sample in parse_metrics(body, t_ns=0):
            assert math.isfinite(sample.value)


@given(st.text(alphabet='\\"{},= #nv_1e+', max_size=200))
def test_no_line_of_the_formats_own_characters_is_an_error(text: str) -> None:
    parse_metrics(f"nv_a{text}\n".encode(), t_ns=0)


@pytest.mark.slow
def test_a_huge_body_is_read_in_bounded_time() -> None:
    quotes = b'nv_a{b="' + b'\\"' * (MAX_LINE_CHARS // 2 - 20) + b'"} 1\n'
    began = time.process_time()
    parse_metrics(b"nv_" * 1_500_000, t_ns=0)
    parse_metrics(quotes * 50, t_ns=0)
    parse_metrics(b'nv_a{b="c"} 1\n' * 300_000, t_ns=0)

    assert time.process_time() - began < 30  # minutes, were it quadratic


def test_kv_state_names_its_sources_and_is_not_exported_without_any() -> None:
    columns = {
        "source": [names.PROCESS, names.TRITON_METRICS, names.ENGINE_LOG],
        "name": [names.SERVER_RSS, names.KV_USAGE, names.KV_USAGE],
    }
    both = names.kv_state(columns)
    none = names.kv_state({"source": [names.TRITON_METRICS], "name": [names.RUNNING]})

    assert both.sources == (names.ENGINE_LOG, names.TRITON_METRICS)
    assert both.exported
    assert not none.exported
    assert str(none) == "not exported"
    assert names.kv_state(pd.DataFrame(columns)) == names.kv_state(pa.table(columns)) == both
