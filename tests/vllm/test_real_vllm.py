"""Real vLLM on the CPU in real Triton: `make test-vllm`. Fails, not skips, where it is missing."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import kit
from kit.kv.calibrate import Fit
from kit.kv.experiment import KV_STUDY, SMALL_CACHE, kv_study
from kit.kv.replay import StepCosts
from kit.kv.table import kv_table
from kit.runner.agenda import FixedAgenda
from kit.runner.study import run_trials
from kit.servers.embedded import EmbeddedServer
from kit.servers.processes import marked
from kit.servers.repository import build_repository
from kit.servers.vllm_env import VERSIONS, environment_for, installed
from kit.servers.watch import names
from kit.servers.watch.sampler import Watcher
from kit.stats.frames import trials_frame
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.paths import MODELS
from kit.study.plan import plan
from kit.study.releases import get_release
from kit.study.spec import EngineKind, ServerSpec, StudySpec, TrialSpec, embedded

ANY_PACE = Fit(
    pace=StepCosts(decode_step_ms=4.0, sequence_step_ms=0.1, prefill_tokens_per_s=1e4),
    median_error_fraction=0.0,
    requests=0,
)
HERE = [version for version in VERSIONS if installed(version)] or [VERSIONS[0]]
Generate = Callable[[str], str]


@contextmanager
def serving(
    folder: Path, version: str, *, hook: bool = False, **parameters: str
) -> Iterator[tuple[Generate, TrialFolder]]:
    """A server with vLLM behind it that is watched; gives a way to ask it, and its folder."""
    engine = replace(SMALL_CACHE, version=version)
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(release="24.05"),
        scenario="control",
        model="vllm",
        engine=engine,
        parameters=parameters,
    )
    trial = TrialFolder.create(folder / "trial", spec)
    environment = environment_for(engine)
    assert environment is not None
    python, env = environment.python, dict(environment.env)
    if hook:
        python = replace(python, paths=(*python.paths, MODELS / "vllm_log_hook"))
        env["KIT_LOG_INTERVAL_S"] = "0.2"
    server = EmbeddedServer(
        get_release(spec.release),
        build_repository(spec, folder / "repository"),
        trial,
        ready_timeout_s=280.0,
        python=python,
        env=env,
    )
    with server:
        end = server.endpoint
        watcher = Watcher(end, trial, pid=server.pid, interval_s=0.1, model="vllm")
        watcher.start()

        def generate(prompt: str) -> str:
            sampling = {"max_tokens": 64, "min_tokens": 64, "ignore_eos": True, "temperature": 0}
            body = {"text_input": prompt, "sampling_parameters": json.dumps(sampling)}
            url = f"http://{end.host}:{end.http_port}/v2/models/vllm/generate"
            request = urllib.request.Request(url, json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=120) as answer:
                return str(json.load(answer)["text_output"])

        yield generate, trial
        watcher.stop()


def labels(trial: TrialFolder, source: str) -> set[str]:
    """Label `via` of the KV usage that the source told."""
    table = trial.samples()
    columns = (table[name].to_pylist() for name in ("source", "name", "labels"))
    return {
        json.loads(text or "{}").get(names.VIA, "")
        for row_source, name, text in zip(*columns, strict=True)
        if (row_source, name) == (source, names.KV_USAGE)
    }


def ask_several(generate: Generate, clients: int, rounds: int) -> list[str]:
    prompts = [f"[n:{number:x}] " + "baf " * 15 for number in range(clients * rounds)]
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(generate, prompts))
    assert all(a.startswith(p) for a, p in zip(answers, prompts, strict=True))
    return answers


def test_expected_peaks_preemptions_and_agreement_of_log_metrics_and_engine(
    tmp_path: Path,
) -> None:
    spec, trials = kv_study(ANY_PACE)
    real = [
        trial
        for trial in trials
        if trial.engine.kind is EngineKind.VLLM_CPU and "64-tokens" in trial.trial_id
    ]
    study = StudyFolder.create(tmp_path / KV_STUDY, spec)
    run_trials(FixedAgenda(real), study, parallel=1)
    table = kv_table(study).sort_values("concurrency")

    assert list(table["concurrency"]) == [1, 4, 8, 16]
    assert table["step_peak"].to_numpy() == pytest.approx(table["expected_peak"], rel=0.1)
    assert list(table["preemptions"] > 0) == [False, False, False, True]
    for source in ("log", "metrics"):
        share, chance = table[f"{source}_agrees"], table[f"{source}_chance"]
        assert share.notna().all()
        assert share.min() >= 0.75  # a dozen samples a trial, on a machine that may stall
        assert (share - chance).mean() >= 0.2


@pytest.mark.parametrize("version", HERE)
def test_a_server_that_tells_nothing_is_mended_by_the_log_hook(
    tmp_path: Path, version: str
) -> None:
    quiet = {"log_stats": "false", "export_metrics": "false"}
    with serving(tmp_path / "without", version, **quiet) as (generate, without):
        before = ask_several(generate, 4, 2)
    with serving(tmp_path / "with", version, hook=True, **quiet) as (generate, hooked):
        after = ask_several(generate, 4, 8)

    assert str(names.kv_state(without.samples())) == "not exported"
    assert names.kv_state(hooked.samples()).sources == (names.ENGINE_LOG,)
    assert labels(hooked, names.ENGINE_LOG) == {names.VIA_HOOK}
    assert before == after[: len(before)], "the same weights, greedily: the same words"


@pytest.mark.parametrize("version", HERE)
def test_the_kits_model_exports_the_engines_figures_and_says_that_it_did(
    tmp_path: Path, version: str
) -> None:
    with serving(tmp_path, version, log_stats="false") as (generate, trial):
        ask_several(generate, 16, 6)

    found = set(trial.samples()["name"].to_pylist())
    assert found >= {names.KV_USAGE, names.RUNNING, names.WAITING, names.PREEMPTIONS}
    assert names.kv_state(trial.samples()).sources == (names.TRITON_METRICS,)
    assert labels(trial, names.TRITON_METRICS) == {names.VIA_METRICS}


@pytest.mark.parametrize("version", HERE)
def test_lines_that_the_kits_model_asks_for_are_not_said_to_come_through_the_hook(
    tmp_path: Path, version: str
) -> None:
    with serving(tmp_path, version, log_stats="true", log_interval_s="0.2") as (generate, trial):
        ask_several(generate, 4, 8)

    assert labels(trial, names.ENGINE_LOG) == {names.VIA_MODEL}


@pytest.mark.parametrize("version", HERE)
def test_a_release_that_crashes_does_so_with_vllm_and_leaves_none_of_it(
    tmp_path: Path, version: str
) -> None:
    spec = StudySpec(
        name="race",
        servers=embedded("23.10", "24.05"),
        scenarios=("cancel-race",),
        engines=(replace(SMALL_CACHE, version=version),),
        requests=64,
        repeats=1,
    )
    study = StudyFolder.create(tmp_path / "study", spec)
    run_trials(FixedAgenda(plan(spec)), study, parallel=1)
    trials = trials_frame(study).set_index("release")

    assert trials["verdict"].to_dict() == {"23.10": "crashed", "24.05": "survived"}
    assert "ResponseFactoryIsCancelled" in trials.loc["23.10", "signature_text"]
    for trial in study.trials():
        run = json.loads(trial.server.read_text())["run"]
        assert marked(run) == [], "engine and stub processes that outlived the trial"


@pytest.mark.parametrize("version", HERE)
def test_the_engine_is_named_in_one_word_and_serves(tmp_path: Path, version: str) -> None:
    study = kit.run(
        "24.05",
        scenario="control",
        engine=f"vllm-cpu:{version}",
        requests=4,
        concurrency=2,
        repeats=1,
        folder=tmp_path / "study",
        progress=False,
    )
    assert study.trials["verdict"].tolist() == ["survived"], study.log_text()[-2000:]
    assert study.requests["ok"].all()
