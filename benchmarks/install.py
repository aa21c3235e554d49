"""Installs those peers that this machine can have."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

from benchmarks.tools import (
    HOME,
    PEERS,
    PERF_ANALYZER_GLIBC,
    PERF_ANALYZER_ROOT,
    glibc,
    python_of,
    venv,
    vllm_version,
)


def install() -> None:
    """Make what can be made: environments from the package index, perf_analyzer's Debian root."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name in ("aiohttp", "locust", "aiperf", "guidellm"):
        if PEERS[name].version() is None:
            subprocess.run([sys.executable, "-m", "venv", str(venv(name))], check=True)
            pip = [python_of(name), "-m", "pip", "install", "--quiet", *PEERS[name].packages]
            subprocess.run(pip, check=False)
    _install_perf_analyzer()
    for program in ("wrk", "nginx"):
        if not shutil.which(program, path=f"{os.environ.get('PATH')}:/usr/sbin"):
            print(f"{program} is missing: install it with the system's package manager")
    if vllm_version() is None:
        print("vLLM's bench is missing: `make vllm` installs it")


def _install_perf_analyzer() -> None:
    machine = platform.machine()
    fetch = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(HOME)),
        *("--only-binary=:all:", "--platform", f"manylinux_2_38_{machine}"),
        *("--python-version", "3.12", "perf-analyzer"),
    ]
    if not list(HOME.glob("perf_analyzer-*.whl")):
        subprocess.run(fetch, check=False)
    wheel = next(HOME.glob("perf_analyzer-*.whl"), None)
    if wheel is None:
        return
    if glibc() >= PERF_ANALYZER_GLIBC:
        subprocess.run([sys.executable, "-m", "venv", str(venv("perf_analyzer"))], check=True)
        subprocess.run(
            [python_of("perf_analyzer"), "-m", "pip", "install", "-q", wheel], check=False
        )
        return
    if not (PERF_ANALYZER_ROOT / "usr").exists():
        make = ["debootstrap", "--variant=minbase", "trixie", str(PERF_ANALYZER_ROOT)]
        subprocess.run(make, check=False)
    unpacked = HOME / "perf_analyzer-wheel"
    shutil.unpack_archive(wheel, unpacked, "zip")
    target = PERF_ANALYZER_ROOT / "usr" / "local" / "bin" / "perf_analyzer"
    shutil.copy(next(unpacked.glob("**/bin/perf_analyzer")), target)
    target.chmod(0o755)
