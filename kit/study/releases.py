"""Reads `data/releases.yaml`: what is known of each release, as typed, checked rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec
import yaml

from kit.errors import CatalogError, UnknownReleaseError
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml

CATALOG = DATA / "releases.yaml"

ARCHITECTURES = ("x86_64", "aarch64")

_RELEASE = re.compile(r"2\d\.(0[1-9]|1[0-2])")
_VERSION = re.compile(r"\d+(\.\d+)+(\.post\d+|rc\d+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FRAME0 = re.compile(r"[0-9a-f]{3}")
_DATE = re.compile(r"20\d\d-[01]\d-[0-3]\d")
_PYTHON = re.compile(r"3\.\d+")
#: How the name of a wheel ends that holds no binaries.
_PURE = "-none-any.whl"
_GLIBC_TAG = re.compile(r"manylinux_(\d+)_(\d+)_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One version of a package whose files the kit unpacks; keys of the dicts: architecture."""

    package: str
    version: str
    python: tuple[str, ...]  # "3.11", …: the stubs inside; numpy: the Python it is built for
    sha256: dict[str, str] = field(hash=False)
    filename: dict[str, str] = field(hash=False)

    def glibc(self, architecture: str) -> tuple[int, int]:
        """The oldest glibc on which its binaries run, as its file name states; (0, 0): it has
        none."""
        if self.filename[architecture].endswith(_PURE):
            return 0, 0
        tag = _GLIBC_TAG.search(self.filename[architecture])
        assert tag is not None, "checked when the catalog was read"
        return int(tag[1]), int(tag[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One monthly release. `wheel` is None where its binaries are in no wheel (use a container)."""

    release: str  # "23.10"
    triton: str  # "2.39.0"
    vllm: str | None  # in the official vLLM image; None: that release has no such image
    image: str  # -vllm-python-py3 where there is one, else -py3
    wheel: Wheel | None
    frame0: str | None  # last three hex digits (lower case) of frame 0 in this build's crashes
    has_generate: bool  # HTTP generate and generate_stream
    has_cancellation: bool  # request.is_cancelled() in the Python backend
    has_stream_status: bool  # gRPC streams that end with the status of an error (triton_grpc_error)
    date: str | None  # of the release's tag, "2023-10-26"


class WheelFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    sha256: str


class WheelRow(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    python: tuple[str, ...]
    files: dict[str, WheelFile]


class _ReleaseRow(msgspec.Struct, forbid_unknown_fields=True):
    release: str
    triton: str
    vllm: str | None
    image: str
    date: str | None
    frame0: str | None
    wheel: WheelRow | None


class _NumpyRow(msgspec.Struct, forbid_unknown_fields=True):
    python: str
    version: str
    files: dict[str, WheelFile]


class _Since(msgspec.Struct, forbid_unknown_fields=True):
    generate: str
    cancellation: str
    stream_status: str


class _Catalog(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    since: _Since
    releases: list[_ReleaseRow]
    numpy: list[_NumpyRow]


def load_releases() -> dict[str, Release]:
    """All known releases by name, oldest first.

    Raises:
        CatalogError: data/releases.yaml does not have the rows it should.
    """
    return dict(read_catalog(CATALOG)[0])


def numpy_wheels() -> dict[str, Wheel]:
    """The numpy that a server's own Python needs, by Python version ("3.11")."""
    return dict(read_catalog(CATALOG)[1])


def embedded_releases() -> list[Release]:
    """The releases whose binaries lie in a wheel, oldest first."""
    return [release for release in load_releases().values() if release.wheel is not None]


def get_release(name: str) -> Release:
    """The release called `name`, with or without a wheel.

    Raises:
        UnknownReleaseError: there is none of that name; the nearest ones are named.
    """
    releases = load_releases()
    if name in releases:
        return releases[name]
    by_triton = [r.release for r in releases.values() if r.triton == name.removeprefix("v")]
    near = by_triton or _nearest(name, list(releases))
    raise UnknownReleaseError(
        f"release {name!r}",
        f"a release from {next(iter(releases))} to {next(reversed(releases))}, such as "
        + ", ".join(near),
        f"use {near[0]}" if by_triton else "`python -m kit releases` lists all",
    )


def embedded_wheel(release: Release) -> Wheel:
    """The wheel that carries this release's binaries.

    Raises:
        UnknownReleaseError: no wheel does, so it needs a container; the nearest that have one
            are named.
    """
    if release.wheel is not None:
        return release.wheel
    near = _nearest(release.release, [r.release for r in embedded_releases()])
    why = f"Triton {release.triton} is in no version of nvidia-pytriton"
    if release.release == "23.11":
        why += ", and it alone reuses the address of a freed request, so no other stands in for it"
    raise UnknownReleaseError(
        f"release {release.release} as an embedded server; {why}",
        f"a release that a wheel carries, such as {', '.join(near)}",
        f"run {release.release} from its image {release.image} with a container engine: "
        f'kit.container("{release.release}")',
    )


@cache
def read_catalog(path: Path) -> tuple[dict[str, Release], dict[str, Wheel]]:
    """The releases and the numpy wheels that the file at `path` lists.

    Raises:
        CatalogError: it cannot be read, or a row is wrong.
    """
    try:
        catalog = msgspec.convert(from_yaml(path.read_bytes()), _Catalog)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from error
    if catalog.schema != 1:
        raise _bad(path, f"schema {catalog.schema}")
    names = [row.release for row in catalog.releases]
    if not names or names != sorted(set(names)):
        raise _bad(path, "releases that are missing, doubled or not in order of time")
    since_all = (
        catalog.since.generate,
        catalog.since.cancellation,
        catalog.since.stream_status,
    )
    for since in since_all:
        if since not in names:
            raise _bad(path, f"a feature since {since}, which is not listed")
    releases = {row.release: _release(path, row, catalog.since) for row in catalog.releases}
    pythons = [row.python for row in catalog.numpy]
    if len(pythons) != len(set(pythons)):
        raise _bad(path, "two numpy wheels for one Python")
    numpy = {
        row.python: wheel_of(
            path,
            "numpy",
            WheelRow(version=row.version, python=(row.python,), files=row.files),
        )
        for row in catalog.numpy
    }
    return releases, numpy


def _release(path: Path, row: _ReleaseRow, since: _Since) -> Release:
    for value, pattern in (
        (row.release, _RELEASE),
        (row.triton, _VERSION),
        (row.vllm, _VERSION),
        (row.date, _DATE),
        (row.frame0, _FRAME0),
    ):
        if value is not None and not pattern.fullmatch(value):
            raise _bad(path, f"{value!r} in release {row.release}")
    if f":{row.release}-" not in row.image:
        raise _bad(path, f"the image {row.image} for release {row.release}")
    return Release(
        release=row.release,
        triton=row.triton,
        vllm=row.vllm,
        image=row.image,
        wheel=None if row.wheel is None else wheel_of(path, "nvidia-pytriton", row.wheel),
        frame0=row.frame0,
        has_generate=row.release >= since.generate,
        has_cancellation=row.release >= since.cancellation,
        has_stream_status=row.release >= since.stream_status,
        date=row.date,
    )


def wheel_of(path: Path, package: str, row: WheelRow) -> Wheel:
    """The wheel that a row of the catalog at `path` describes.

    Raises:
        CatalogError: the row is wrong.
    """
    what = f"{package} {row.version}"
    if not _VERSION.fullmatch(row.version) or not row.python or not row.files:
        raise _bad(path, f"the version, Pythons or files of {what}")
    if not all(_PYTHON.fullmatch(python) for python in row.python):
        raise _bad(path, f"a Python of {what}")
    for architecture, file in row.files.items():
        stem = f"{package.replace('-', '_')}-{row.version}-"
        if architecture not in ARCHITECTURES:
            raise _bad(path, f"the architecture {architecture!r} of {what}")
        if not (file.name.startswith(stem) and file.name.endswith((f"_{architecture}.whl", _PURE))):
            raise _bad(path, f"the file name {file.name!r} of {what} for {architecture}")
        if not (_GLIBC_TAG.search(file.name) or file.name.endswith(_PURE)):
            raise _bad(path, f"a file name without a glibc version for {what}: {file.name!r}")
        if not _SHA256.fullmatch(file.sha256):
            raise _bad(path, f"the SHA-256 of {what} for {architecture}")
    return Wheel(
        package=package,
        version=row.version,
        python=row.python,
        sha256={architecture: file.sha256 for architecture, file in row.files.items()},
        filename={architecture: file.name for architecture, file in row.files.items()},
    )


def _nearest(name: str, names: list[str]) -> list[str]:
    """Up to four of `names`: around `name` in time if it looks like a release, else alike."""
    if re.fullmatch(r"\d\d\.\d\d", name):
        before = [other for other in names if other < name][-2:]
        return before + [other for other in names if other > name][:2]
    return difflib.get_close_matches(name, names, n=4, cutoff=0.3) or [names[0], names[-1]]


def _bad(path: Path, what: str) -> CatalogError:
    return CatalogError(
        f"{path.name} has {what}",
        "the rows that its head describes",
        f"correct {path}, or restore it from version control",
    )


def in_order(releases: Iterable[str]) -> list[str]:
    """Oldest first; names that the kit does not know, such as hybrids, at the end."""
    return sorted(set(releases), key=lambda name: (place_in_line(name), name))


def neighbours(older: str, newer: str) -> bool:
    """True if no release came between the two."""
    line = list(load_releases())
    return newer in line and place_in_line(newer) - place_in_line(older) == 1


def place_in_line(release: str) -> int:
    """Position of a release along the line; after all known ones if the kit does not know it."""
    line = list(load_releases())
    return line.index(release) if release in line else len(line)
