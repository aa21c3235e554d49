"""A container engine is asked about the image before anything is pulled or made."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_api import EngineApi

import kit
from kit.checks.finding import Finding, Severity
from kit.checks.run import preflight
from kit.study.spec import ServerSpec, Workload
from kit.ui.choices import choose


def found(server: ServerSpec, topic: str) -> Finding:
    spec = choose(server, workload=Workload(), name="p")
    (one,) = [f for f in preflight(spec).findings if f.topic == topic]
    return one


@pytest.mark.slow
def test_the_image_tells_its_vllm_and_its_cuda_and_nothing_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-1, NVIDIA L4, 8.9, 470.1, 23034, 12'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with EngineApi(tmp_path) as api:
        monkeypatch.setenv("DOCKER_HOST", api.url)
        api.images["mine:23.11"] = "amd64"
        api.image_environment = ["VLLM_VERSION=0.3.2", "CUDA_VERSION=12.3.0"]
        server = kit.container("23.11", image="mine:23.11", model="m", gpus="0")
        assert found(server, "image").severity is Severity.OK
        vllm = found(server, "vLLM version")
        assert vllm.severity is Severity.WARNS
        assert "0.3.2, and the official image of 23.11 has 0.2.1.post1" in vllm.found
        driver = found(server, "driver")
        assert (driver.severity, "525" in driver.reason) == (Severity.WARNS, True)
        absent = found(kit.container(image="mine:none"), "image")
        assert absent.severity is Severity.NOTES
        assert [asked for asked in api.asked if asked.startswith("POST")] == []
