"""A bundle carries exactly the packages that the machine meant needs, each with its hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from small_wheels import only_index, wheel

from kit.errors import DownloadError, SpecError
from kit.servers.bundle.download import download
from kit.servers.bundle.pins import (
    Pin,
    Target,
    locked_pins,
    read_pins,
    resolved_pins,
    target,
    without,
)
from kit.study.paths import ROOT

LOCK, PROJECT = ROOT / "requirements.lock", ROOT / "pyproject.toml"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
FAR = Target(python="3.12", glibc_minor=35, architecture="aarch64")


def here(python: str = HERE) -> Target:
    return Target(python=python, glibc_minor=35, architecture="x86_64")


@pytest.mark.slow
def test_the_lock_gives_the_kit_s_packages_and_all_that_they_need() -> None:
    names = {pin.name for pin in locked_pins(LOCK, PROJECT, ["duckdb"], here())}
    assert {"pandas", "jupyterlab", "duckdb", "pip", "uv", "setuptools"} <= names
    assert not {"pytest", "mypy", "playwright", "pywin32", "colorama"} & names
    lacking = set()
    for name in names:
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if here().has(requirement.marker):
                lacking |= {canonicalize_name(requirement.name)} - names
    assert lacking == set()


@pytest.mark.slow
def test_every_package_is_for_the_python_and_platform_that_are_meant() -> None:
    def versions(of: Target, name: str) -> list[str]:
        return [pin.version for pin in locked_pins(LOCK, PROJECT, [], of) if pin.name == name]

    assert versions(here("3.11"), "numpy") != versions(here("3.12"), "numpy")
    assert versions(here("3.12"), "numpy") == versions(FAR, "numpy")
    # An older and a newer patch of 3.11 need another soupsieve: which it is shows there.
    assert len(versions(here("3.11"), "soupsieve")) == 2
    assert len(versions(here("3.12"), "soupsieve")) == 1
    assert all(pin.hashes for pin in locked_pins(LOCK, PROJECT, ["test"], FAR))
    with pytest.raises(SpecError, match="duckdb or test"):
        locked_pins(LOCK, PROJECT, ["tests"], FAR)


def test_a_platform_stands_for_all_wheels_that_run_there() -> None:
    tags = here().tags()
    assert tags[0] == "manylinux_2_35_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)
    assert "manylinux_2_36_x86_64" not in tags
    assert "manylinux1_aarch64" not in FAR.tags()


def test_a_machine_that_is_none_is_refused_with_an_example() -> None:
    assert target("3.12", "manylinux_2_35_aarch64") == FAR
    for python, platform in (("3", None), ("2.7", None), ("3.12", "win_amd64"), ("3.12", "x86_64")):
        with pytest.raises(SpecError):
            target(python, platform)


def test_what_the_machine_has_is_left_out_by_pattern() -> None:
    pins = [
        Pin(name=name, version="1", hashes=frozenset()) for name in ("torch", "nvidia-nccl", "vllm")
    ]
    assert [pin.name for pin in without(pins, ["torch", "nvidia_*"])] == ["vllm"]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels of the test's own, which is all that pip and uv may look at."""
    folder = only_index(tmp_path, monkeypatch)
    wheel(folder, "stand_in", "1.0", needs=('helper>=1; python_version < "3.12"', "other"))
    wheel(folder, "helper", "1.1")
    wheel(folder, "other", "2.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    wheel(folder, "other", "2.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    return folder


def quiet(_: str) -> None: ...


@pytest.mark.slow
def test_uv_resolves_for_the_other_machine_and_not_for_this_one(index: Path) -> None:
    pins = resolved_pins(["stand-in"], here("3.12"))
    assert [pin.name for pin in pins] == ["other", "stand-in"], "the helper is for older Pythons"
    assert {pin.name for pin in resolved_pins(["stand-in"], here("3.11"))} == {
        "helper",
        "other",
        "stand-in",
    }
    with pytest.raises(DownloadError, match="stand-in==9"):
        resolved_pins(["stand-in==9"], here())


@pytest.mark.slow
def test_a_small_lock_is_fetched_once_and_installs_without_an_index(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in index.iterdir()}
    lock.write_text(
        f"helper==1.1 ; python_version < '3' \\\n    --hash=sha256:{'0' * 64}\n"
        f"other==2.0 \\\n"
        + " \\\n".join(f"    --hash=sha256:{h}" for n, h in hashes.items() if n.startswith("other"))
        + "\n    # via stand-in\n"
        f"stand-in==1.0 \\\n    --hash=sha256:{hashes['stand_in-1.0-py3-none-any.whl']}\n"
    )
    of = here("3.12")
    packages, scratch = tmp_path / "packages", tmp_path / "scratch"
    packages.mkdir()
    scratch.mkdir()
    pins = read_pins(lock.read_text(), of)
    found = download(pins, of, packages, scratch, quiet)
    names = ["other-2.0-cp312-cp312-manylinux_2_28_x86_64.whl", "stand_in-1.0-py3-none-any.whl"]
    assert sorted(path.name for path in packages.iterdir()) == names
    assert list(scratch.iterdir()) == []
    listed = tmp_path / "list.txt"
    lines = [pin.line_of(hashlib.sha256(p.read_bytes()).hexdigest()) for pin, p in found.items()]
    listed.write_text("\n".join(lines) + "\n")

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # nothing is to be had any more
    said: list[str] = []
    assert download(pins, of, packages, scratch, said.append) == found
    assert said == ["2 of 2 packages are there"]
    (packages / names[0]).write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=r"other 2\.0"):
        download(pins, of, packages, scratch, quiet)
    (packages / names[0]).write_bytes((index / names[0]).read_bytes())

    import uv

    into = tmp_path / "installed"
    subprocess.run(
        [
            *(uv.find_uv_bin(), "pip", "install", "--offline", "--no-index", "--no-deps"),
            *("--require-hashes", "--find-links", str(packages), "--requirement", str(listed)),
            *("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_35"),
            *("--target", str(into), "--no-config"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
    )
    assert (into / "other.py").read_text() == "TAG = 'cp312-cp312-manylinux_2_28_x86_64'\n"
    assert (into / "stand_in.py").exists()


@pytest.mark.slow
def test_a_wheel_with_another_hash_does_not_get_into_a_bundle(index: Path, tmp_path: Path) -> None:
    packages, scratch = tmp_path / "packages", tmp_path / "scratch"
    packages.mkdir()
    scratch.mkdir()
    pin = Pin(name="helper", version="1.1", hashes=frozenset({"0" * 64}))
    with pytest.raises(DownloadError, match=r"helper 1\.1"):
        download([pin], here(), packages, scratch, quiet)
    assert list(packages.iterdir()) == []
