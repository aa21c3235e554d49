"""What the watcher sees of a real Triton that serves the simulated engine."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pyarrow as pa
import pytest
from calm import in_a_calm_moment

from kit.kv.expect import expect, footprint
from kit.kv.seen import seen
from kit.servers.embedded import EmbeddedServer
from kit.servers.repository import build_repository, served_models
from kit.servers.watch import names
from kit.servers.watch.agree import agreement, by_chance
from kit.servers.watch.sampler import Watcher
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, Engine, ServerSpec, TrialSpec, fixed

WRITTEN_EVERY_S = 0.5  # by the engine, to its log and to Triton's metrics at the same time
READ_EVERY_S = 0.1  # by the watcher: a machine that stalls for 0.3 s costs it no value
PAIR = names.ENGINE_LOG, names.TRITON_METRICS
#: Grows slowly against what is read: a block every 320 ms.
ENGINE = Engine(
    blocks=64,
    block_size_tokens=8,
    max_model_tokens=256,
    decode_step_ms=40.0,
    log_interval_s=WRITTEN_EVERY_S,
)
CLIENTS, PROMPT_WORDS, OUTPUT_TOKENS = 3, 8, 120


def rows(samples: pa.Table) -> list[tuple[str, str, float]]:
    columns = (samples[name].to_pylist() for name in ("source", "name", "value"))
    return list(zip(*columns, strict=True))


def generate(endpoint: Endpoint, model: str) -> str:
    parameters = {"max_tokens": OUTPUT_TOKENS}
    body = {"text_input": "word " * PROMPT_WORDS, "sampling_parameters": json.dumps(parameters)}
    url = f"http://{endpoint.host}:{endpoint.http_port}/v2/models/{model}/generate"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["text_output"])


def watch(folder: Path, engine: Engine, *, model: str = "simulated") -> tuple[pa.Table, Watcher]:
    """The samples of one server life with a few concurrent answers."""
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(release="24.05"),
        scenario="control",
        model=model,
        engine=engine,
    )
    trial = TrialFolder.create(folder / "trial", spec)
    repository = build_repository(spec, folder / "repository")
    with EmbeddedServer(get_release(spec.release), repository, trial) as server:
        watcher = Watcher(
            server.endpoint,
            trial,
            pid=server.pid,
            interval_s=READ_EVERY_S,
            model=model,
            called=served_models(model),
        )
        watcher.start()
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in clients.map(generate, [server.endpoint] * CLIENTS, [model] * CLIENTS):
                pass
        watcher.stop()
    return trial.samples(), watcher


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, Watcher]:
    def life(number: int) -> tuple[pa.Table, Watcher]:
        return watch(tmp_path_factory.mktemp(f"both{number}"), ENGINE)

    return in_a_calm_moment(life, lambda seen: agreeing(seen[0]) >= 0.8 and rates_agree(seen[0]))


def agreeing(samples: pa.Table) -> float:
    share = agreement(samples, *PAIR, within_s=WRITTEN_EVERY_S)
    assert share is not None
    return share


def rates_agree(samples: pa.Table) -> bool:
    log, metrics = (
        median(
            value
            for row, name, value in rows(samples)
            if (row, name) == (source, names.GENERATION_RATE) and value > 0
        )
        for source in PAIR
    )
    return 0.5 < metrics / log < 2.0


@pytest.mark.alone
def test_log_and_metrics_agree_within_one_sample(watched: tuple[pa.Table, Watcher]) -> None:
    samples, _ = watched
    chance = by_chance(samples, *PAIR, within_s=WRITTEN_EVERY_S)

    assert chance is not None
    assert agreeing(samples) >= 0.8  # a machine that stalls may part a pair
    assert chance < agreeing(samples) - 0.3


@pytest.mark.alone  # as every test of what was watched: else the server would be started twice
def test_both_sources_show_the_peak_that_was_expected(watched: tuple[pa.Table, Watcher]) -> None:
    samples, _ = watched
    one = footprint(ENGINE, fixed(PROMPT_WORDS), fixed(OUTPUT_TOKENS))
    expected = expect(ENGINE, one, CLIENTS).peak_fraction
    found = {row.source: row.peak_fraction for row in seen(samples)}

    assert found == {
        names.ENGINE_LOG: pytest.approx(expected, abs=0.1),
        names.TRITON_METRICS: pytest.approx(expected, abs=0.1),
    }


@pytest.mark.alone
def test_tritons_own_metrics_processes_and_health_are_sampled_beside_them(
    watched: tuple[pa.Table, Watcher],
) -> None:
    samples, watcher = watched
    last = {name: value for _, name, value in rows(samples)}

    assert last["nv_inference_request_success"] == CLIENTS
    tokens = (
        CLIENTS * OUTPUT_TOKENS
    )  # the counter is up to 0.5 s old, and the last scrape of it a little older
    assert 0.5 * tokens <= last["vllm:generation_tokens_total"] <= tokens
    assert last[names.SERVER_RSS] > 10e6
    assert last[names.STUB_RSS] > 10e6
    assert last[names.MODEL_READY] == 1
    assert last[names.KV_CACHE_TOKENS] == (ENGINE.blocks - 1) * ENGINE.block_size_tokens
    health = watcher.health()
    assert (health.ready, health.model_ready, health.stubs_alive) == (True, True, True)
    assert watcher.fault is None


@pytest.mark.alone
def test_throughput_is_told_by_the_log_and_by_the_metrics(
    watched: tuple[pa.Table, Watcher],
) -> None:
    assert rates_agree(watched[0])


def test_the_engine_behind_a_model_that_calls_it_is_seen(tmp_path: Path) -> None:
    samples, _ = watch(tmp_path, ENGINE, model="bls")

    assert names.kv_state(samples).sources == (names.ENGINE_LOG, names.TRITON_METRICS)


def test_usage_that_nobody_exports_is_not_exported_and_not_zero(tmp_path: Path) -> None:
    quiet = Engine(
        blocks=64,
        block_size_tokens=8,
        max_model_tokens=256,
        log_stats=False,
        export_metrics=False,
    )
    samples, _ = watch(tmp_path, quiet)

    assert str(names.kv_state(samples)) == "not exported"
    assert names.KV_USAGE not in samples["name"].to_pylist()
    assert "nv_inference_request_success" in samples["name"].to_pylist()
