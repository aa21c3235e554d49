"""arm64 without such a machine: the binaries are those of the catalog, and run under emulation.

What an arm64 processor itself does with them, threads above all, is not seen so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from arm64 import ARCHITECTURE, arm64_root, arm64_wheel, emulated, missing
from effort import LONG
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from lacks import lacks

from kit.servers.wheels import STUB
from kit.study.folder import TrialFolder
from kit.study.plan import plan
from kit.study.releases import embedded_releases, get_release, numpy_wheels
from kit.study.result import TrialResult, Verdict
from kit.study.spec import StudySpec, embedded

HELPER = Path(__file__).resolve().parents[1] / "helpers/arm64.py"
RELEASE = "24.10"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel for arm64, fetched and unpacked by the kit, its hash compared."""
    return arm64_wheel(RELEASE)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an arm64 machine's libraries, for the emulator."""
    if (what := missing()) is not None:
        lacks(what)
    folder = tmp_path_factory.mktemp("arm64")
    arm64_root(folder)
    return folder


def needs_glibc(path: Path) -> tuple[int, int]:
    """The newest glibc that a binary asks for."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_machine"] == "EM_AARCH64", path
        section = elf.get_section_by_name(".gnu.version_r")
        assert isinstance(section, GNUVerNeedSection)
        names = [aux.name for _, wanted in section.iter_versions() for aux in wanted]
    numbers = [name.removeprefix("GLIBC_").split(".") for name in names if "GLIBC_2." in name]
    return max((int(number[0]), int(number[1])) for number in numbers)


def test_all_releases_but_the_oldest_have_binaries_for_it() -> None:
    without = [r.release for r in embedded_releases() if ARCHITECTURE not in r.wheel.filename]  # type: ignore[union-attr]
    assert without == ["23.04", "23.07"]
    assert [v for v, numpy in numpy_wheels().items() if ARCHITECTURE not in numpy.filename] == []


def test_its_binaries_are_for_that_processor_and_for_the_glibc_that_the_name_of_the_wheel_says(
    wheel: Path,
) -> None:
    known = get_release(RELEASE).wheel
    assert known is not None
    binaries = [
        wheel / "pytriton/tritonserver/bin/tritonserver",
        *wheel.glob("nvidia_pytriton.libs/libtritonserver*"),
        *wheel.glob(f"pytriton/tritonserver/python_backend_stubs/*/{STUB}"),
    ]
    assert len(binaries) == 2 + len(known.python)
    assert max(map(needs_glibc, binaries)) <= known.glibc(ARCHITECTURE)


def test_its_server_starts_under_emulation(machine: Path, wheel: Path) -> None:
    files = emulated(machine, RELEASE)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(files.libraries)}
    command = [files.binary, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "--model-repository" in done.stdout + done.stderr


if LONG:  # it takes minutes

    @pytest.mark.server
    @pytest.mark.timeout(1800)
    def test_a_trial_crashes_it_under_emulation(machine: Path, wheel: Path, tmp_path: Path) -> None:
        study = StudySpec(
            name="t", servers=embedded(RELEASE), scenarios=("cancel-race",), requests=40, repeats=1
        )
        spec = replace(plan(study)[0], ready_timeout_s=600.0)  # the emulator is slow
        TrialFolder.create(tmp_path / "trial", spec)
        command = [sys.executable, str(HELPER), str(tmp_path), RELEASE, str(tmp_path / "trial")]
        environment = {**os.environ, "PYTHONPATH": str(HELPER.parent)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
            assert process.wait(1500) == 0
        result = msgspec.json.decode(
            (tmp_path / "trial/result.json").read_bytes(), type=TrialResult
        )
        assert result.verdict is Verdict.CRASHED
