"""Runs the KV experiment: real vLLM and the simulated engine under the same traffic.

    kit vllm experiment FOLDER

First real vLLM serves with a cache that never fills, and the simulated engine's pace is fitted
to that (FOLDER/vllm-pace). Then both serve with a small cache, through the same Triton release
(FOLDER/kv-real-and-simulated): answers of 64 tokens at rising concurrency, and mixed lengths
that need several times the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from kit.kv.calibrate import Fit, fit_pace, served
from kit.runner.agenda import FixedAgenda
from kit.runner.study import run_trials
from kit.servers.vllm_env import VERSIONS
from kit.stats.frames import requests_frame
from kit.study.folder import StudyFolder
from kit.study.plan import plan
from kit.study.spec import (
    Distribution,
    DistributionKind,
    Engine,
    EngineKind,
    StudySpec,
    TrialSpec,
    embedded,
    fixed,
)

PACE_STUDY: Final = "vllm-pace"
KV_STUDY: Final = "kv-real-and-simulated"
#: It survives the control, whatever serves it.
RELEASE: Final = "24.05"
CONCURRENCIES: Final = (1, 4, 8, 16)
#: vLLM then logs each step with its KV usage: the engine's own word, beside the two sources.
EVERY_STEP: Final = {"engine_arguments": '{"enable_logging_iteration_details": true}'}

SMALL_CACHE: Final = Engine(
    kind=EngineKind.VLLM_CPU,
    version=VERSIONS[0],
    blocks=32,
    block_size_tokens=32,
    max_model_tokens=512,
    log_interval_s=0.25,
)
LARGE_CACHE: Final = replace(SMALL_CACHE, blocks=512)


def _uniform(low: int, high: int) -> Distribution:
    return Distribution(kind=DistributionKind.UNIFORM, low=low, high=high)


def pace_study() -> tuple[StudySpec, list[TrialSpec]]:
    """Trials to fit the pace to: varied lengths at varied concurrency, and nothing waits."""
    spec = _spec(PACE_STUDY, (LARGE_CACHE,))
    lengths = _uniform(16, 256), _uniform(16, 64)
    return spec, [
        _with_traffic(trial, "varied", *lengths, requests=24 + 6 * _clients(trial))
        for trial in plan(spec)
    ]


def kv_study(fit: Fit) -> tuple[StudySpec, list[TrialSpec]]:
    """Real and simulated under the same pressure; the simulated one at the fitted pace."""
    simulated = replace(
        SMALL_CACHE,
        kind=EngineKind.SIMULATED,
        version=None,
        decode_step_ms=round(fit.pace.decode_step_ms, 3),
        prefill_tokens_per_s=round(fit.pace.prefill_tokens_per_s),
    )
    spec = _spec(KV_STUDY, (SMALL_CACHE, simulated))
    pace = {"sequence_step_ms": f"{fit.pace.sequence_step_ms:.4f}"}
    trials = []
    for trial in plan(spec):
        own = EVERY_STEP if trial.engine.kind is EngineKind.VLLM_CPU else pace
        trial = replace(trial, parameters=trial.parameters | own)
        answers = fixed(16), fixed(64)
        trials.append(_with_traffic(trial, "64-tokens", *answers, requests=8 * _clients(trial)))
        if _clients(trial) in (4, 16):
            mixed = _uniform(16, 128), _uniform(64, 256)
            trials.append(_with_traffic(trial, "mixed", *mixed, requests=48))
    return spec, trials


def fit_recorded(study: StudyFolder | Path) -> Fit:
    """The pace that fits a recorded pace study best."""
    return fit_pace(served(requests_frame(study), LARGE_CACHE))


def run(folder: Path, tell: Callable[[str], None]) -> Fit:
    """Run both studies into `folder`, or what is left of them."""
    fit = fit_recorded(_run(*pace_study(), folder, tell))
    tell(f"{fit}")
    _run(*kv_study(fit), folder, tell)
    return fit


def _run(
    spec: StudySpec, trials: Sequence[TrialSpec], folder: Path, tell: Callable[[str], None]
) -> StudyFolder:
    study = StudyFolder.create(folder / spec.name, spec)
    # One at a time: two would share the cores, and their pace would tell about each other.
    run_trials(FixedAgenda(list(trials)), study, parallel=1)
    for trial in study.trials():
        tell(f"{trial.path.name}: {trial.result.reason if trial.result else 'interrupted'}")
    return study


def _spec(name: str, engines: tuple[Engine, ...]) -> StudySpec:
    return StudySpec(
        name=name,
        servers=embedded(RELEASE),
        scenarios=("control",),
        engines=engines,
        grid={"concurrency": CONCURRENCIES},
        repeats=1,
    )


def _with_traffic(
    trial: TrialSpec, name: str, prompt: Distribution, output: Distribution, *, requests: int
) -> TrialSpec:
    workload = replace(
        trial.workload, prompt_tokens=prompt, output_tokens=output, requests=requests
    )
    engine = trial.engine.kind.value
    return replace(
        trial,
        trial_id=f"{engine}_{name}_c{_clients(trial)}",
        workload=workload,
        sample_interval_s=0.1,
    )


def _clients(trial: TrialSpec) -> int:
    return trial.workload.arrivals.concurrency or 1
