"""Container images with the real server, from the wheels in the kit's cache: nothing is pulled.

The server lies where the official image has it. Below it is what it needs of this machine: shells,
a Python with its shared library and numpy, and the libraries that those name.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from kit.servers.environment import numpy_folder, python_for
from kit.servers.python import ServerPython
from kit.servers.wheels import ServerFiles, server_files
from kit.study.releases import get_release

HOME = "/opt/tritonserver"
PROGRAMS = ("bash", "cat", "sleep")
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+)\s+\(0x")
_LEFT_OUT = ("test", "idlelib", "lib2to3", "tkinter", "ensurepip", "site-packages", "__pycache__")
#: As the official image's: it prints a banner, then becomes the command.
_ENTRYPOINT = "#!/bin/bash\necho '== Triton Inference Server, for tests =='\nexec \"$@\"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an image, an uncompressed archive in the archive of the images."""

    name: str
    sha256: str


def write_images(releases: Iterable[str], archive: Path) -> None:
    """Write what `docker load` takes: each release under the name of its official image."""
    files = {release: server_files(get_release(release)) for release in releases}
    python = python_for(next(iter(files.values())), None)
    manifest = []
    with archive.open("wb") as file:
        base = _write_layer(file, "base", lambda tar: _base(tar, python, files.values()))
        for release, server in files.items():
            layer = _write_layer(file, release, partial(_server, files=server, python=python))
            _write_file(file, f"{release}.json", json.dumps(_config([base, layer])).encode())
            manifest.append(
                {
                    "Config": f"{release}.json",
                    "RepoTags": [get_release(release).image],
                    "Layers": [base.name, layer.name],
                }
            )
        _write_file(file, "manifest.json", json.dumps(manifest).encode())
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def _write_layer(file: BinaryIO, name: str, fill: Callable[[tarfile.TarFile], None]) -> Layer:
    """Append it, written once: its size goes into the header before it when it is known."""
    header = tarfile.TarInfo(f"{name}/layer.tar")
    start = file.tell()
    file.write(bytes(tarfile.BLOCKSIZE))
    hashed = _Hashed(file)
    with tarfile.open(fileobj=hashed, mode="w|") as tar:
        fill(tar)
    header.size = file.tell() - start - tarfile.BLOCKSIZE
    _pad(file)
    end = file.tell()
    file.seek(start)
    file.write(header.tobuf())
    file.seek(end)
    return Layer(name=header.name, sha256=hashed.sha256.hexdigest())


def _write_file(file: BinaryIO, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    file.write(header.tobuf() + content)
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % tarfile.BLOCKSIZE))


class _Hashed(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def _config(layers: list[Layer]) -> dict[str, object]:
    return {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {
            "Env": [f"PATH={HOME}/bin:/usr/bin:/bin", f"LD_LIBRARY_PATH={HOME}/libraries"],
            "WorkingDir": HOME,
            "Entrypoint": ["/opt/entrypoint.sh"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one.sha256}" for one in layers]},
        "history": [{"created_by": "tests"} for _ in layers],
    }


def _base(tar: tarfile.TarFile, python: ServerPython, servers: Iterable[ServerFiles]) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        _add_link(tar, name, f"usr/{name}")
    for name in ("tmp", "etc", "root", "proc", "sys", "dev", "run", "usr/bin", "opt"):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(entry)
    _add_bytes(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    _add_bytes(tar, "opt/entrypoint.sh", _ENTRYPOINT.encode(), mode=0o755)
    _add_link(tar, "usr/bin/sh", "bash")
    library = python.home / f"lib/python{python.version}"
    wanted: list[Path] = [Path(_which(name)) for name in PROGRAMS]
    for program in wanted:
        tar.add(program, f"usr/bin/{program.name}", filter=_plain)
    if python.executable is not None:
        executable = python.executable.resolve()
        wanted.append(executable)
        tar.add(executable, _place(executable), filter=_plain)
        _add_link(tar, "usr/bin/python3", f"/{_place(executable)}")
    tar.add(library, _place(library), filter=_standard_library)
    if numpy := numpy_folder(python):
        tar.add(numpy / "numpy", f"{_place(library)}/numpy", filter=_standard_library)
        tar.add(numpy / "numpy.libs", f"{_place(library)}/numpy.libs", filter=_plain)
    if python.libpython is not None:
        wanted.append(python.libpython)
        # Where the loader looks, wherever this machine has it.
        tar.add(python.libpython, f"usr/lib/{_soname(python)}", filter=_plain)
    wanted += sorted((library / "lib-dynload").glob("*.so"))
    for server in servers:
        wanted += [server.binary, *server.libraries.glob("libtritonserver*")]
        wanted += server.backends(python.version).glob("python/*stub")
    ours = {server.libraries for server in servers}
    for path in sorted(_libraries(wanted)):
        if path.parent.resolve() not in ours and path.name != _soname(python):
            tar.add(path.resolve(), _place(path), filter=_plain)


def _server(tar: tarfile.TarFile, files: ServerFiles, python: ServerPython) -> None:
    tar.add(files.binary, f"{HOME.lstrip('/')}/bin/tritonserver", filter=_plain)
    tar.add(files.libraries, f"{HOME.lstrip('/')}/libraries", filter=_plain)
    for path in files.backends(python.version).glob("python/*"):
        tar.add(path.resolve(), f"{HOME.lstrip('/')}/backends/python/{path.name}", filter=_plain)


def _libraries(files: Iterable[Path]) -> Iterator[Path]:
    """The libraries that these files name, with the loader's own paths."""
    done = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True)
    found = {Path(match[1]) for match in map(_LIBRARY.search, done.stdout.splitlines()) if match}
    # glibc opens it by name when a thread ends.
    found |= {path.with_name("libgcc_s.so.1") for path in found if path.name.startswith("libc.so")}
    return (path for path in found if path.exists())


def _place(path: Path) -> str:
    """Its name in the image, below /usr where this machine has links to it (/lib, /lib64)."""
    return str(path.parent.resolve() / path.name).lstrip("/")


def _soname(python: ServerPython) -> str:
    return f"libpython{python.version}.so.1.0"


def _which(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin")
    assert found, f"no program {name}"
    return found


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _standard_library(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    left_out = name in _LEFT_OUT or name == "tests" or name.startswith("config-3")
    return None if left_out else _plain(entry)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
