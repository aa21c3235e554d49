"""data/releases.yaml is what the kit takes it for, and its errors say what to do."""

from pathlib import Path

import pytest
import yaml

from kit.errors import CatalogError, UnknownReleaseError
from kit.study.plain_yaml import from_yaml
from kit.study.releases import (
    CATALOG,
    embedded_releases,
    embedded_wheel,
    get_release,
    load_releases,
    numpy_wheels,
    read_catalog,
)


def test_releases_come_in_order_of_time_without_a_gap() -> None:
    names = list(load_releases())
    year, month = 23, 4
    for name in names:
        assert name == f"{year}.{month:02d}"
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)


def test_fourteen_releases_are_embedded_and_23_11_is_not() -> None:
    names = [release.release for release in embedded_releases()]
    assert len(names) == 14
    assert {"23.04", "23.07", "23.10", "24.05", "24.10"} <= set(names)
    assert "23.11" not in names


def test_triton_versions_rise_with_the_releases() -> None:
    versions = [
        tuple(int(part) for part in release.triton.split("."))
        for release in load_releases().values()
    ]
    assert versions == sorted(set(versions))


def test_generate_and_cancellation_are_there_from_23_10_on() -> None:
    assert not get_release("23.07").has_generate
    assert not get_release("23.07").has_cancellation
    assert get_release("23.10").has_generate
    assert get_release("24.10").has_cancellation


def test_every_wheel_has_x86_64_and_all_but_the_two_oldest_have_aarch64() -> None:
    without_arm = []
    for release in embedded_releases():
        wheel = embedded_wheel(release)
        assert wheel.filename.keys() == wheel.sha256.keys()
        assert wheel.glibc("x86_64") in {(2, 31), (2, 35)}
        if "aarch64" not in wheel.filename:
            without_arm.append(release.release)
    assert without_arm == ["23.04", "23.07"]


def test_no_two_files_share_a_hash() -> None:
    wheels = [embedded_wheel(r) for r in embedded_releases()] + list(numpy_wheels().values())
    hashes = [value for wheel in wheels for value in wheel.sha256.values()]
    assert len(hashes) == len(set(hashes))


def test_numpy_stays_below_2_on_every_python() -> None:
    wheels = numpy_wheels()
    assert set(wheels) == {"3.8", "3.9", "3.10", "3.11", "3.12"}
    assert all(wheel.version.startswith("1.") for wheel in wheels.values())


def test_an_unknown_release_is_answered_with_its_neighbours() -> None:
    with pytest.raises(UnknownReleaseError, match=r"23\.11, 23\.12, 24\.01, 24\.02"):
        get_release("23.13")


def test_a_triton_version_is_answered_with_its_release() -> None:
    with pytest.raises(UnknownReleaseError, match=r"use 23\.10"):
        get_release("2.39.0")


def test_23_11_says_why_it_needs_a_container_and_which() -> None:
    with pytest.raises(UnknownReleaseError) as caught:
        embedded_wheel(get_release("23.11"))
    assert "2.40.0 is in no version of nvidia-pytriton" in caught.value.given
    assert "23.10, 23.12" in caught.value.expected
    assert "nvcr.io/nvidia/tritonserver:23.11-vllm-python-py3" in caught.value.hint


def broken(tmp_path: Path, old: str, new: str) -> Path:
    text = CATALOG.read_text()
    assert old in text
    path = tmp_path / "releases.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('release: "23.10"', 'release: "23.1"'),
        ('release: "23.10"', 'release: "23.12"'),
        ('triton: "2.39.0"', "triton: 2.39"),
        ('frame0: "13d"', 'frame0: "13g"'),
        ("tritonserver:23.10-", "tritonserver:23.12-"),
        ("_x86_64.whl", "_riscv64.whl"),
        ("        x86_64:", "        sparc:"),
        ("nvidia_pytriton-0.4.2-py3", "nvidia_pytriton-0.4.3-py3"),
        ("sha256: 8f79", "sha256: 8F79"),
        ('date: "2023-10-26"', "date: tomorrow"),
        ("schema: 1", "schema: 2"),
        ("schema: 1", "schema: 1\nsurprise: 1"),
        ("    wheel: null", "    whee: null"),
        ('generate: "23.10"', 'generate: "22.10"'),
        ("\nreleases:", "\nreleases: ["),
    ],
)
def test_a_wrong_row_is_a_catalog_error(tmp_path: Path, old: str, new: str) -> None:
    path = broken(tmp_path, old, new)
    with pytest.raises(CatalogError, match=r"releases\.yaml"):
        read_catalog(path)


def test_a_missing_catalog_is_a_catalog_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        read_catalog(tmp_path / "none.yaml")


def test_the_catalog_names_no_package_index() -> None:
    rows = from_yaml(CATALOG.read_text())
    assert "http" not in yaml.safe_dump(rows)
