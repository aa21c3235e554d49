"""vLLM on GPUs as far as it goes without one: the index, the machine, and Triton.

In a real Triton an engine stands in that has the names and attributes of vLLM 0.3.2
(tests/helpers/vllm_v0).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from kit.checks.finding import Severity
from kit.checks.gpu import vllm_gpu_findings
from kit.checks.vllm_cuda import cuda_findings, engine_findings
from kit.errors import DownloadError, SpecError
from kit.kv.advice import study_advice
from kit.kv.table import kv_table
from kit.runner.trial import Trial
from kit.servers import vllm_cuda
from kit.servers.bundle.pins import Pin
from kit.servers.environment import numpy_folder
from kit.servers.gpu import Gpu, driver_folders
from kit.servers.python import running_python
from kit.servers.tiny_llama import write_tiny_llama
from kit.servers.watch.names import ENGINE_LOG, KV_USAGE, TRITON_METRICS
from kit.study.engines import VLLM_MODEL, engine_tag, parse_engine
from kit.study.folder import StudyFolder
from kit.study.plan import plan
from kit.study.result import Outcome, Verdict
from kit.study.spec import AnswerCheck, Engine, EngineKind, StudySpec, embedded

FAKE = Path(__file__).parents[1] / "helpers" / "vllm_v0"
#: Names of packages that say which CUDA a PyTorch is for, as the index has them.
CUDAS = {"nvidia-cuda-runtime-cu11": "11.7.99", "nvidia-cuda-runtime": "13.0.96"}
H100 = Gpu(
    index="0",
    uuid="GPU-a",
    name="H100",
    capability=(9, 0),
    driver="535.1",
    memory_mib=80_000,
    used_mib=10,
)
TESLA = replace(H100, index="1", uuid="GPU-b", name="T4", capability=(7, 0), driver="580.2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vllm:0.26.0?gpu=0", "'gpu'"),
        ("vllm?tensor_parallel=many", "int"),
        ("vllm?tensor_parallel=0", "1 or more"),
        ("vllm?arguments=[1]", "JSON object"),
        ("vllm-cpu?gpus=0", "vllm-cpu' with gpus"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_by_its_field(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_engine(text)


def test_an_engine_on_gpus_serves_the_kits_model_with_its_arguments() -> None:
    engine = parse_engine(
        'vllm:0.26.0?gpus=0+1&tensor_parallel=2&model=/models/opt&arguments={"seed": 3}'
    )
    assert not engine.has_known_cache, "a model of one's own has the cache that vLLM gives it"
    [trial] = plan(_study(engine))
    assert trial.model == VLLM_MODEL
    assert trial.workload.answer_check is AnswerCheck.ECHO
    arguments = json.loads(trial.parameters["engine_arguments"])
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["seed"] == 3
    assert arguments["kv_cache_memory_bytes"] is None, "that of model.json is for the tiny model"
    [tiny] = plan(_study(parse_engine("vllm")))
    assert json.loads(tiny.parameters["engine_arguments"])["gpu_memory_utilization"] < 0.5


def test_the_names_of_trials_with_other_engines_are_what_they_were() -> None:
    assert engine_tag(Engine()) == "simulated-5f73"
    on_cpu = Engine(kind=EngineKind.VLLM_CPU, version="0.32.0")
    assert engine_tag(on_cpu) == "vllm-cpu-0.32.0-98c1"
    assert engine_tag(parse_engine("vllm?gpus=0")) != engine_tag(parse_engine("vllm?gpus=1"))


@pytest.mark.parametrize(
    ("cuda", "gpus", "graves"),
    [
        ("12.1", [H100], []),
        ("11.7", [H100], [Severity.BLOCKS]),  # PyTorch 2.0.1 has no code for it
        ("13.0", [H100], [Severity.WARNS]),  # its driver is too old
        ("13.0", [TESLA], [Severity.WARNS]),  # it is too old itself
        ("12.1", "there is no nvidia-smi", [Severity.BLOCKS]),
        ("12.1", [replace(H100, used_mib=40_000)], [Severity.WARNS]),
    ],
)
def test_what_a_machine_lacks_for_a_vllm_is_found(
    cuda: str, gpus: list[Gpu] | str, graves: list[Severity]
) -> None:
    found = list(vllm_gpu_findings(None, gpus, cuda=cuda, server="vLLM"))
    assert [one.severity for one in found if one.is_grave] == graves


def test_a_plan_tells_its_cuda_and_a_full_disk_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in CUDAS.items():
        pins = (Pin(name="torch", version="2", hashes=frozenset()),)
        pins += (Pin(name=name, version=version, hashes=frozenset()),)
        of = vllm_cuda.CudaPlan(version="0.3.2", python="3.11", pins=pins)
        assert of.cuda == version.rpartition(".")[0]
    monkeypatch.setattr("kit.checks.vllm_cuda.free_bytes", lambda: 10**9)
    assert [f.severity for f in cuda_findings(of) if f.topic == "disk"] == [Severity.BLOCKS]


def test_the_newest_gpu_is_refused_only_for_a_cuda_that_is_known_to_lack_it() -> None:
    newest = replace(H100, capability=(10, 0), driver="590.1")
    for cuda, blocks in (("12.4", True), ("12.8", False), (None, False)):
        found = vllm_gpu_findings(None, [newest], cuda=cuda, server="vLLM")
        assert any(one.severity is Severity.BLOCKS for one in found) == blocks, cuda


def test_the_cuda_of_an_installed_vllm_is_read_from_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_cuda, "cache_root", lambda: tmp_path)
    assert vllm_cuda.installed_for("0.3.2") is None
    packages = tmp_path / "vllm/cuda-0.3.2/lib/python3.11/site-packages"
    (packages / "nvidia_cuda_runtime_cu12-12.1.105.dist-info").mkdir(parents=True)
    assert vllm_cuda.installed_for("0.3.2") == "12.1"
    monkeypatch.setattr("kit.checks.vllm_cuda.gpus_here", lambda: [replace(H100, driver="470.1")])
    found = [f for f in engine_findings([parse_engine("vllm:0.3.2?gpus=0")], "24.05") if f.is_grave]
    assert ["driver 470.1" in one.found for one in found] == [True]


def test_packages_are_those_of_the_time_of_a_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def resolved(requirements: list[str], of: object, **given: object) -> list[Pin]:
        asked.update(given, requirements=requirements)
        return []

    monkeypatch.setattr(vllm_cuda, "resolved_pins", resolved)
    vllm_cuda.plan_cuda("0.3.2")
    assert asked["requirements"] == ["vllm==0.3.2"]
    assert asked["newest"] == date(2024, 3, 22)
    vllm_cuda.plan_cuda("9.0.0")
    assert asked["newest"] is None, "of one that the kit does not know, today's"
    for wrong in ("0.1.7", "../x", "newest", ""):
        with pytest.raises(SpecError):
            vllm_cuda.plan_cuda(wrong)


def test_what_is_not_installed_is_an_error_that_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"--device cuda --version 0\.3\.2"):
        vllm_cuda.cuda_environment(parse_engine("vllm:0.3.2"))


def test_of_the_callers_library_path_only_the_drivers_folder_is_kept(tmp_path: Path) -> None:
    driver, other = tmp_path / "driver", tmp_path / "other"
    for folder in (driver, other):
        folder.mkdir()
    (driver / "libcuda.so.1").touch()
    (other / "libpython3.11.so.1.0").touch()
    assert driver_folders(f"{other}:{driver}::/nowhere") == (driver,)


def _study(engine: Engine) -> StudySpec:
    return StudySpec(
        name="gpu",
        servers=embedded("24.05"),
        scenarios=("control",),
        engines=(engine,),
        grid={"concurrency": (4,)},
        requests=24,
        repeats=1,
    )


@pytest.mark.slow
def test_a_real_triton_serves_the_v0_engine_and_its_kv_usage_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_fake(tmp_path / "cache", monkeypatch)
    engine = parse_engine("vllm:0.3.2?gpus=0")
    assert engine.kind is EngineKind.VLLM
    study = StudyFolder.create(tmp_path / "study", _study(engine))
    [spec] = plan(study.spec)
    folder = study.new_trial(spec)
    result = Trial(spec, folder, threading.Event()).run()
    log = folder.log_text() or ""
    assert result.verdict is Verdict.SURVIVED, log[-3000:]
    assert set(folder.requests()["outcome"].to_pylist()) == {Outcome.OK.value}
    assert "this vLLM has no argument num_gpu_blocks_override; 512 is left out" in log
    server = json.loads(folder.server.read_bytes())
    assert server["versions"]["vllm"] == "0.3.2"
    samples = folder.samples().to_pylist()
    usage = {row["source"]: row for row in samples if row["name"] == KV_USAGE and row["value"]}
    assert set(usage) == {TRITON_METRICS, ENGINE_LOG}
    assert max(row["value"] for row in usage.values()) <= 8 / 64
    assert not [row for row in samples if row["name"] == "preemptions_total"], "nobody tells it"
    assert kv_table(study)["preemptions"].isna().all()
    assert study_advice(study)


def _install_fake(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a vLLM 0.3.2 would be installed: its environment, with the fake in it, and a model."""
    home = cache / "vllm" / "cuda-0.3.2"
    command = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(command, check=True)
    [packages] = home.glob("lib/python*/site-packages")
    shutil.copytree(FAKE, packages, dirs_exist_ok=True)
    python = running_python()
    assert python is not None
    (packages / "numpy.pth").write_text(f"{numpy_folder(python)}\n")
    model = cache / vllm_cuda._MODEL
    model.mkdir(parents=True)
    write_tiny_llama(model, head_size=vllm_cuda.HEAD_SIZE)
    monkeypatch.setattr(vllm_cuda, "cache_root", lambda: cache)
    monkeypatch.setattr(vllm_cuda, "installed_cuda", lambda version: True)
