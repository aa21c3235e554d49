"""Which packages another machine needs: read from the lock, or resolved for it by uv.

A pin is one version of a package with the hashes that its files may have. The lock is for every
Python and platform; here it is read for one.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kit.errors import DownloadError, SpecError
from kit.servers.platform import libc_here
from kit.servers.program import run_program, uv

_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PLATFORM: Final = re.compile(r"manylinux_2_(\d{1,3})_(x86_64|aarch64)")
_PYTHON: Final = re.compile(r"3\.\d{1,2}")
#: The older names of some of those tags, by the newest glibc that they stand for.
_LEGACY: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
#: With these the kit is installed; setuptools builds the editable install.
INSTALLERS: Final = {"pip", "uv", "setuptools"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The machine that packages are for.

    >>> Target(python="3.12", glibc_minor=35, architecture="x86_64").platform
    'manylinux_2_35_x86_64'
    """

    python: str  # "3.12"
    glibc_minor: int  # of glibc 2.x
    architecture: str  # "x86_64" or "aarch64"

    @property
    def platform(self) -> str:
        return f"manylinux_2_{self.glibc_minor}_{self.architecture}"

    @property
    def libc(self) -> str:
        return f"glibc 2.{self.glibc_minor}"

    def tags(self) -> list[str]:
        """Every platform tag whose wheels run there, the newest first."""
        tags = []
        for minor in range(self.glibc_minor, 4, -1):
            tags.append(f"manylinux_2_{minor}_{self.architecture}")
            if minor in _LEGACY and (self.architecture == "x86_64" or minor == 17):
                tags.append(f"{_LEGACY[minor]}_{self.architecture}")
        return [*tags, f"linux_{self.architecture}"]

    def has(self, marker: Marker | None) -> bool:
        """Whether a requirement with that marker may be one of such a machine.

        Of two versions for an older and a newer patch of its Python both are: which patch it has
        is not known here.
        """
        return marker is None or any(marker.evaluate(self._facts(n)) for n in ("0", "99"))

    def _facts(self, patch: str) -> dict[str, str]:
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.{patch}",
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.{patch}",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.architecture,
            "platform_release": "",
            "platform_version": "",
            "extra": "",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One version of a package, and the SHA-256 that its files may have."""

    name: str  # canonical
    version: str
    hashes: frozenset[str]
    marker: str = ""  # which Pythons and platforms it is for; "": all

    @property
    def line(self) -> str:
        """As a requirements file has it, without the marker."""
        hashes = (f"--hash=sha256:{sha256}" for sha256 in sorted(self.hashes))
        return " ".join([f"{self.name}=={self.version}", *hashes])

    def line_of(self, sha256: str) -> str:
        """As the list in a bundle has it, which the machine there reads."""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker} --hash=sha256:{sha256}"


def target(python: str | None, platform_tag: str | None) -> Target:
    """The machine that is meant; what is not given is as here.

    Raises:
        SpecError: it is none that the kit runs on.
    """
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    if not _PYTHON.fullmatch(python):
        raise SpecError(f"the Python {python!r}", "a version such as 3.12", "name it so")
    if platform_tag is None:
        machine = platform.machine().lower()
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
        platform_tag = f"manylinux_{libc_here().removeprefix('glibc ').replace('.', '_')}_{machine}"
    found = _PLATFORM.fullmatch(platform_tag)
    if found is None:
        raise SpecError(
            f"the platform {platform_tag!r}",
            "manylinux_2_35_x86_64 or the like: glibc 2.35 (`ldd --version` there) and processor",
            "name it so",
        )
    return Target(python=python, glibc_minor=int(found[1]), architecture=found[2])


def locked_pins(lock: Path, project: Path, extras: Collection[str], of: Target) -> list[Pin]:
    """What the lock has of the project's packages, with those of `extras`, for that machine.

    Beside them come pip, uv and setuptools, with which the kit is installed there.

    Raises:
        SpecError: no such extra.
    """
    pins, needed_by = _read(lock.read_text("utf-8"), of)
    declared = tomllib.loads(project.read_text("utf-8"))["project"]
    optional = declared.get("optional-dependencies", {})
    if unknown := sorted(set(extras) - set(optional)):
        raise SpecError(
            f"the extra {unknown[0]!r}", " or ".join(sorted(optional)), "name one of those"
        )
    lines = declared["dependencies"] + [line for extra in extras for line in optional[extra]]
    roots = {canonicalize_name(Requirement(line).name) for line in lines}
    wanted = (roots | INSTALLERS) & set(needed_by)
    while more := {n for n, by in needed_by.items() if n not in wanted and by & wanted}:
        wanted |= more
    return [pin for pin in pins if pin.name in wanted]


def read_pins(text: str, of: Target) -> list[Pin]:
    """The pins of a requirements file with hashes, for that machine."""
    return _read(text, of)[0]


def without(pins: Sequence[Pin], patterns: Iterable[str]) -> list[Pin]:
    """The pins that none of the patterns ("torch", "nvidia-*") names."""
    patterns = [pattern.lower().replace("_", "-") for pattern in patterns]
    return [pin for pin in pins if not any(fnmatchcase(pin.name, one) for one in patterns)]


def _read(text: str, of: Target) -> tuple[list[Pin], dict[str, set[str]]]:
    """Pins, and by which packages each is needed."""
    pins: list[Pin] = []
    needed_by: dict[str, set[str]] = {}
    for block in re.split(r"\n(?=\S)", text):
        if block.startswith("#") or not block.strip():
            continue
        head = block.partition("\\\n")[0].partition(" --hash")[0]
        try:
            requirement = Requirement(head.strip())
        except InvalidRequirement as error:
            raise SpecError(f"the line {head!r} of a lock", "name==version", "correct it") from (
                error
            )
        if not of.has(requirement.marker):
            continue
        name = canonicalize_name(requirement.name)
        version = str(requirement.specifier).removeprefix("==")
        pins.append(
            Pin(
                name=name,
                version=version,
                hashes=frozenset(_HASH.findall(block)),
                marker=str(requirement.marker or ""),
            )
        )
        notes = re.sub(r"# via", "", "\n".join(re.findall(r"^ *#.*$", block, re.MULTILINE)))
        words = re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", notes)
        needed_by.setdefault(name, set()).update(map(canonicalize_name, words))
    return pins, needed_by


def resolved_pins(
    requirements: Sequence[str],
    of: Target,
    *,
    with_needed: bool = True,
    instead: Sequence[str] = (),
    newest: date | None = None,
) -> list[Pin]:
    """Exact versions, with hashes, for that machine, by uv: of wheels if there is such a set.

    with_needed: with all that they need; False: these alone. instead: requirements that take the
    place of what any package says about those packages. newest: what came to the index after that
    day is not looked at.

    Raises:
        DownloadError: uv is missing, reaches no index, or there is no such set.
    """
    with tempfile.TemporaryDirectory(prefix="tck-resolve-") as made:
        folder = Path(made)
        (folder / "asked.in").write_text("\n".join(requirements) + "\n")
        (folder / "instead.txt").write_text("\n".join(instead) + "\n")
        command = [
            *(uv(), "pip", "compile", "--quiet", "--no-header", "--generate-hashes"),
            *index_options(),
            *("--index-strategy", "unsafe-best-match", "--override", "instead.txt"),
            *("--python-version", of.python, "--python-platform", _uv_platform(of)),
            *([] if with_needed else ["--no-deps"]),
            *([] if newest is None else ["--exclude-newer", newest.isoformat()]),
            "asked.in",
        ]
        own = {"UV_PYTHON_DOWNLOADS": os.environ.get("UV_PYTHON_DOWNLOADS", "never")}
        try:
            done = run_program([*command, "--only-binary", ":all:"], own, cwd=folder)
            if done.returncode != 0:  # some old packages have their source alone
                done = run_program(command, own, cwd=folder)
        except OSError as error:
            raise _unresolved(requirements, str(error), newest) from error
    if done.returncode != 0:
        raise _unresolved(requirements, done.stderr, newest)
    return read_pins(done.stdout, of)


def _uv_platform(of: Target) -> str:
    """uv knows glibc up to 2.40; what runs on an older one runs on a newer one as well."""
    return f"{of.architecture}-manylinux_2_{min(of.glibc_minor, 40)}"


def index_options() -> list[str]:
    """pip's indexes as options of uv, which does not read pip's settings; its own stay."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():  # the environment's come last, as pip reads them
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = value.strip("'\"")
    options = []
    if found.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if (url := found.get("index-url")) and "UV_DEFAULT_INDEX" not in os.environ:
        options += ["--default-index", url]
    for url in found.get("extra-index-url", "").split():
        options += ["--index", url]
    for place in found.get("find-links", "").split():
        options += ["--find-links", place]
    return options


def _unresolved(requirements: Sequence[str], said: str, newest: date | None) -> DownloadError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = ", ".join(requirements[:3]) + (" and more" if len(requirements) > 3 else "")
    said = " ".join(lines[-6:]) or "no reason given"
    day = "" if newest is None else f" as of {newest}, which has to tell when its files came"
    return DownloadError(
        f"{named}, for which uv found no set of packages: {said}",
        "versions that go together, for that Python and platform, on the index that pip is set to"
        + day,
        "name another version, --python or --platform; PyTorch keeps its CPU builds on an index "
        "of its own, which PIP_EXTRA_INDEX_URL can name",
    )
