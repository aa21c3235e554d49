"""Real vLLM as far as it can be tested without installing it; the rest is in tests/vllm."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from kit.errors import DownloadError, SpecError
from kit.servers import vllm_env
from kit.servers.tiny_llama import write_tiny_llama
from kit.study.engines import VLLM_MODEL
from kit.study.plan import plan
from kit.study.spec import AnswerCheck, Engine, EngineKind, StudySpec, embedded
from kit.ui.cli import main

WEIGHTS_SHA256 = "e9972c84c896621097f687f5229215fe3cd82087626a646ea14b9a087b859b11"
VLLM = Engine(kind=EngineKind.VLLM_CPU, version="0.32.0", blocks=32, block_size_tokens=32)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path))
    return tmp_path


def test_the_tiny_model_is_the_same_on_every_machine(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    weights = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()

    assert weights == WEIGHTS_SHA256


def test_the_tiny_models_weights_are_whole_finite_and_of_the_configured_shapes(
    tmp_path: Path,
) -> None:
    write_tiny_llama(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    config = json.loads((tmp_path / "config.json").read_text())
    end = 0
    for tensor in header.values():
        begin, stop = tensor["data_offsets"]
        elements = 1
        for side in tensor["shape"]:
            elements *= side
        assert begin == end
        assert stop - begin == 4 * elements
        end = stop

    assert len(data) == 8 + length + end
    assert header["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == config["vocab_size"]
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))


def test_vllm_that_is_not_installed_is_an_error_that_says_how(empty_cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"install --version 0\.32\.0"):
        vllm_env.environment_for(VLLM)


def test_a_simulated_engine_needs_no_environment(empty_cache: Path) -> None:
    assert vllm_env.environment_for(Engine()) is None


def test_a_version_that_is_no_version_is_refused(empty_cache: Path) -> None:
    with pytest.raises(SpecError):
        vllm_env.install("../elsewhere")


@pytest.mark.slow
def test_packages_that_pip_cannot_find_are_an_error_and_leave_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vllm_env, "TORCH", "torch==0.0.0+nowhere")
    options = ["--find-links", str(empty_cache)]
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    assert main(["vllm", "install", *options]) != 0
    assert "PIP_EXTRA_INDEX_URL" in capsys.readouterr().err
    assert not [p for p in (empty_cache / "vllm").glob("*") if p.is_dir()]


def test_a_study_on_real_vllm_serves_its_model_and_checks_the_echo() -> None:
    spec = StudySpec(
        name="v", servers=embedded("24.05"), scenarios=("cancel-race",), engines=(VLLM,)
    )
    trial = plan(spec)[0]

    assert trial.model == VLLM_MODEL
    assert trial.parameters["cancel_check"] == "second-thread"
    assert trial.workload.answer_check is AnswerCheck.ECHO
    assert trial.ready_timeout_s > 60
