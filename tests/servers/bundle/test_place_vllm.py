"""A vLLM for CUDA on its way to a machine without a network; it is a small wheel of the test's."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from small_wheels import only_index, wheel

from kit.errors import DownloadError
from kit.servers.bundle.gather import bundle
from kit.servers.bundle.manifest import BundledVllm
from kit.servers.bundle.pins import target
from kit.servers.bundle.place import unbundle
from kit.servers.bundle.plan import BundleSpec
from kit.servers.cache import cache_root
from kit.servers.python import choose_python
from kit.servers.vllm_cuda import install_cuda, installed_cuda, installed_for, plan_cuda

#: One that the kit's list of releases does not have, so that no day is set for its packages.
VERSION = "9.9.9"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    folder = only_index(tmp_path, monkeypatch)
    wheel(folder, "vllm", VERSION, needs=("nvidia-cuda-runtime-cu12",))
    wheel(folder, "nvidia_cuda_runtime_cu12", "12.1.105")
    return folder


def quiet(_: str) -> None: ...


@pytest.mark.slow
def test_it_is_bundled_carried_and_installed_without_an_index(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = choose_python(("3.11", "3.10", "3.12"))
    vllm = BundledVllm(version=VERSION, device="cuda")
    spec = BundleSpec(of=target(python.version, None), kit=False, vllm=(vllm,))
    bundle(tmp_path / "b", spec, quiet)
    for path in index.iterdir():
        path.unlink()
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert unbundle(tmp_path / "b", quiet).vllm == (), "only if it is asked for"
    placed = unbundle(tmp_path / "b", quiet, with_vllm=True)
    assert placed.vllm == (VERSION,)
    assert installed_cuda(VERSION)
    assert installed_for(VERSION) == "12.1"
    program = cache_root() / f"vllm/cuda-{VERSION}/bin/python3"
    code = "import vllm, nvidia_cuda_runtime_cu12"
    subprocess.run([program, "-c", code], check=True)


@pytest.mark.slow
def test_a_wheel_with_another_hash_is_not_installed(index: Path) -> None:
    plan = plan_cuda(VERSION)
    assert plan.cuda == "12.1"
    wrong = tuple(replace(pin, hashes=frozenset({"0" * 64})) for pin in plan.pins)
    with pytest.raises(DownloadError, match="could not be installed"):
        install_cuda(replace(plan, pins=wrong), find_links=index, say=quiet)
    assert not installed_cuda(VERSION)
    install_cuda(plan, say=quiet)
    assert installed_cuda(VERSION)
