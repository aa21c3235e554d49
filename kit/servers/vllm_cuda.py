"""Installs a vLLM for this machine's GPUs in an environment of its own (8 to 12 GB).

    kit vllm install --device cuda [--version 0.3.2]

One environment a version, with the PyTorch and CUDA that this vLLM pins, from the package index
that pip is set to, each file checked by the index's hash. The packages are those of a month after
the vLLM (data/vllm-releases.yaml): an old one cannot be imported beside a Transformers of today.

Not run here for want of a GPU: the engine itself. See docs/gpu.md for what was.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from kit.errors import DownloadError, SpecError
from kit.servers.bundle.pins import Pin, Target, index_options, resolved_pins, target
from kit.servers.cache import cache_root, cached, is_whole
from kit.servers.gpu import driver_folders
from kit.servers.program import run_program, uv
from kit.servers.python import choose_python, python_at
from kit.servers.tiny_llama import EDITION, write_tiny_llama
from kit.servers.vllm_env import VllmEnvironment
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml
from kit.study.spec import Engine

#: What is installed if no version is named: the newest of which an import was tried.
VERSION: Final = "0.26.0"
#: Before this one there is no AsyncLLMEngine as the kit's model needs it.
OLDEST: Final = (0, 2, 1)
#: Python versions that vLLM has wheels for and Triton's stubs know, in the order of preference:
#: 23.10 has none for 3.12.
PYTHONS: Final = ("3.11", "3.10", "3.12")
RELEASES: Final = DATA / "vllm-releases.yaml"
#: Packages are those that there were so long after a vLLM.
LATER: Final = timedelta(days=30)
#: In the place of what packages say: Triton's stub dies of numpy 2, which newer OpenCVs need, and
#: pyairports, which old outlines name, is on the index no more.
INSTEAD: Final = (
    *("numpy<2", "opencv-python-headless<4.12"),
    'pyairports; python_version < "3"',
)
#: Head size of the tiny model: the V0 engine's kernels take 64 or more.
HEAD_SIZE: Final = 64
_MODEL: Final = f"vllm/tiny-llama-{EDITION}-head-{HEAD_SIZE}"
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:\.post\d+)?")
_CUDA: Final = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaPlan:
    """What an installation would fetch, before anything is."""

    version: str  # of vLLM
    python: str
    pins: tuple[Pin, ...]

    @property
    def cuda(self) -> str | None:
        """The CUDA that its PyTorch is built for, "12.1"; None: its packages do not tell."""
        found = next((pin.version for pin in self.pins if _CUDA.fullmatch(pin.name)), None)
        return None if found is None else ".".join(found.split(".")[:2])


def plan_cuda(version: str = VERSION) -> CudaPlan:
    """Find the packages of a vLLM for this machine; fetches their descriptions alone.

    Raises:
        SpecError: no version, or one before 0.2.1.
        DownloadError: the index has no such set for this machine.
        LibpythonMissingError: no Python here that both Triton and vLLM can use.

    Example, which asks the index:

        plan_cuda("0.3.2").cuda  # "12.1"
    """
    python = choose_python(PYTHONS, fetch=True)
    pins = cuda_pins(version, target(python.version, None))
    return CudaPlan(version=version, python=python.version, pins=tuple(pins))


def cuda_pins(version: str, of: Target, others: Sequence[str] = ()) -> list[Pin]:
    """The packages of a vLLM for CUDA, for a machine. others: requirements beside it.

    Raises:
        SpecError: no version, or one before 0.2.1. DownloadError: there is no such set.
    """
    check_version(version)
    asked = [f"vllm=={version}", *others]
    return resolved_pins(asked, of, instead=INSTEAD, newest=_newest(version))


def install_cuda(
    plan: CudaPlan,
    *,
    find_links: Path | None = None,
    shares_packages: bool = False,
    say: Callable[[str], None],
) -> VllmEnvironment:
    """Install what a plan names; what is there already is kept.

    find_links: a folder with all of its wheels; nothing is then fetched. shares_packages: what the
    plan leaves out is among the packages of the Python itself.

    Raises:
        DownloadError: a package could not be fetched, or is not the one that the index described.
        LibpythonMissingError: no Python here that both Triton and vLLM can use.
        StoreError: the cache cannot be written.
    """

    def fill(folder: Path) -> None:
        python = choose_python((plan.python,), fetch=True)
        assert python.executable is not None  # only a Python without libpython has none
        shared = ["--system-site-packages"] if shares_packages else []
        make = [str(python.executable), "-m", "venv", "--without-pip", *shared, str(folder)]
        _run(make, "the venv")
        say(f"vLLM {plan.version}: {len(plan.pins)} packages")
        with tempfile.TemporaryDirectory(prefix="tck-pins-") as made:
            listed = Path(made) / "pins.txt"
            listed.write_text("\n".join(pin.line for pin in plan.pins) + "\n")
            where = (
                index_options()
                if find_links is None
                else ["--offline", "--no-index", "--find-links", str(find_links)]
            )
            _run(
                [
                    *(uv(), "pip", "install", "--quiet", "--python", str(folder / "bin/python3")),
                    *("--no-deps", "--require-hashes", "--index-strategy", "unsafe-best-match"),
                    *(*where, "--requirement", str(listed)),
                ],
                f"vLLM {plan.version} for CUDA",
            )

    overlay = cached(_name(plan.version), fill)
    cached(_MODEL, lambda folder: write_tiny_llama(folder, head_size=HEAD_SIZE))
    return _environment(overlay, Engine(version=plan.version))


def installed_cuda(version: str) -> bool:
    """Whether that version is in the cache, and whole."""
    check_version(version)
    return all(is_whole(cache_root() / name) for name in (_name(version), _MODEL))


def installed_for(version: str | None) -> str | None:
    """The CUDA that an installed vLLM's PyTorch is built for, "12.1"; None: it does not tell, or is
    not installed.

    version: None: VERSION.
    """
    folder = cache_root() / _name(version or VERSION)
    for path in folder.glob("lib/python*/site-packages/nvidia_cuda_runtime*.dist-info"):
        name, _, number = path.name.removesuffix(".dist-info").partition("-")
        if _CUDA.fullmatch(name.replace("_", "-")):
            return ".".join(number.split(".")[:2])
    return None


def cuda_environment(engine: Engine) -> VllmEnvironment:
    """What a server needs to serve vLLM on this machine's GPUs.

    Raises:
        DownloadError: that vLLM is not installed here. SpecError: its model's folder is not there.
    """
    version = engine.version or VERSION
    if not installed_cuda(version):
        raise DownloadError(
            f"vLLM {version} for CUDA is not installed",
            f"it in {cache_root() / 'vllm'}",
            f"python -m kit vllm install --device cuda --version {version}",
        )
    is_path = (engine.model or "").startswith(("/", ".", "~"))
    if is_path and not Path(engine.model or "").expanduser().is_dir():
        raise SpecError(
            f"the model {engine.model!r}, which is no folder here",
            "a folder as Transformers writes it, or a hub's name",
            "check the path",
        )
    return _environment(cache_root() / _name(version), replace(engine, version=version))


def check_version(version: str) -> None:
    """Refuse what is no version that the kit's model can serve.

    Raises:
        SpecError: it is none.

    >>> check_version("0.2.1.post1")
    """
    known = _VERSION.fullmatch(version)
    if not known or tuple(int(part) for part in version.split(".")[:3]) < OLDEST:
        raise SpecError(
            f"the vLLM version {version!r}", "0.2.1 or later, such as 0.26.0", "correct it"
        )


def _newest(version: str) -> date | None:
    """The day after which packages are not looked at; None: today's are."""
    day = _releases().get(version)
    return None if day is None else day + LATER


@cache
def _releases() -> dict[str, date]:
    return dict(from_yaml(RELEASES.read_text(encoding="utf-8")))


def _name(version: str) -> str:
    return f"vllm/cuda-{version}"


def _environment(folder: Path, engine: Engine) -> VllmEnvironment:
    assert engine.version is not None
    own = engine.model is not None
    model = engine.model or str(cache_root() / _MODEL)
    env = {
        "TRITON_CRASH_KIT_WEIGHTS": os.path.expanduser(model),
        # Else a folder of the name of a package beside a script would shadow that package.
        "PYTHONSAFEPATH": "1",
        "VLLM_CACHE_ROOT": str(cache_root() / "vllm" / "compiled"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # A process that was forked from Triton's stub could not use the GPU.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if engine.tensor_parallel == 1:
        # Fewer processes: a quicker start, and less to clean up after a crash.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not own or Path(env["TRITON_CRASH_KIT_WEIGHTS"]).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    if engine.gpus:
        env["CUDA_VISIBLE_DEVICES"] = engine.gpus
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi
    python = replace(
        python_at(folder / "bin" / "python3", own_numpy=True), libraries=driver_folders()
    )
    return VllmEnvironment(version=engine.version, python=python, env=env)


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = run_program(command, {"PYTHONNOUSERSITE": "1"})
    except OSError as error:
        raise DownloadError(
            f"{what}: {error}", "uv, which comes with the kit", "make setup"
        ) from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise DownloadError(
            f"{what} could not be installed: {' '.join(lines[-4:]) or 'no reason given'}",
            "a package index that has it, and 25 GB of free disk",
            "see what is said; the same command goes on",
        )


def free_bytes() -> int:
    """Of the disk that the cache is on."""
    there = cache_root()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
