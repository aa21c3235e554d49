"""Identifies a release by the address bits of a stack, and the place in tritonserver.

Address randomisation moves whole pages, so the last three hex digits of an address survive it.
Frame 0 is a fixed place in Triton's signal handler: its digits tell the build, and once the build
is known, its full offset tells where the executable lay, so that every anonymous frame of a
pasted log gets its offset back. `data/builds.yaml` has the figures; `describe_build` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import yaml

from kit.crash.log.backtrace import Backtrace
from kit.crash.log.shapes import Shape
from kit.crash.stack.site import plain_module
from kit.errors import CatalogError
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml
from kit.study.result import Frame

_PAGE = 0xFFF
SERVER = "tritonserver"
CORE = "libtritonserver.so"
PYTHON_BACKEND = "libtriton_python.so"


class Part(msgspec.Struct, frozen=True):
    """A stretch of the executable's code that belongs to one component."""

    start: int
    end: int
    component: str  # http-frontend, grpc-frontend or other


class Function(msgspec.Struct, frozen=True):
    """A function of the executable that tells known crashes apart."""

    start: int
    end: int
    name: str


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one release's binaries can be told, and what lies where in its executable."""

    release: str
    frame0: str  # last three hex digits of frame 0
    evidence: str  # measured: seen on the binary; reported: read from public stacks
    frame0_offset: int | None = None  # of frame 0 in tritonserver
    core_file: str | None = None  # libtritonserver's name in the wheel, unique to the build
    cancel_frames: tuple[str, str] | None = None  # digits of the two frames of the Python
    # backend above TRITONBACKEND_ResponseFactoryIsCancelled
    parts: tuple[Part, ...] = ()
    functions: tuple[Function, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseGuess:
    """Which releases a stack can be of; empty = none that is known."""

    builds: tuple[Build, ...]
    digits: str | None  # of frame 0; None = the stack does not show it

    @property
    def releases(self) -> tuple[str, ...]:
        return tuple(build.release for build in self.builds)

    @property
    def text(self) -> str | None:
        return " or ".join(self.releases) or None


def load_builds(path: Path = DATA / "builds.yaml") -> tuple[Build, ...]:
    """All builds that can be told.

    Raises:
        CatalogError: the file does not hold them.
    """
    try:
        rows = from_yaml(path.read_text(encoding="utf-8"))["builds"]
        return tuple(msgspec.convert([_numbers(row) for row in rows], list[Build]))
    except (OSError, yaml.YAMLError, msgspec.ValidationError, KeyError, TypeError) as error:
        raise CatalogError(
            f"{path.name}: {error}", "builds with release, frame0, evidence", "restore the file"
        ) from error


def _numbers(row: dict[str, object]) -> dict[str, object]:
    """YAML keeps stretches of code as "start end what" to stay readable."""
    for field, what in (("parts", "component"), ("functions", "name")):
        lines = row.get(field)
        if isinstance(lines, list):
            split = [str(line).split() for line in lines]
            made = [{"start": int(a, 16), "end": int(b, 16), what: c} for a, b, c in split]
            row = row | {field: made}
    return row


@cache
def known_builds() -> tuple[Build, ...]:
    return load_builds()


def guess_release(backtrace: Backtrace) -> ReleaseGuess:
    """The releases whose binaries could have printed this stack."""
    first = next((frame for frame in backtrace.frames if frame.index == 0), None)
    if backtrace.shape is not Shape.TRITON or first is None or first.address is None:
        return ReleaseGuess(builds=(), digits=None)
    if first.module is not None and plain_module(first.module) != SERVER:
        return ReleaseGuess(builds=(), digits=None)  # Triton within another program
    if any("aarch64" in (frame.module or "") for frame in backtrace.frames):
        return ReleaseGuess(builds=(), digits=None)
    digits = f"{first.address & _PAGE:03X}"
    builds = [build for build in known_builds() if build.frame0 == digits]
    for split in (_by_core_file, _by_cancel_frames):
        if len(builds) > 1:
            builds = split(builds, backtrace.frames) or builds
    return ReleaseGuess(builds=tuple(builds), digits=digits)


def _by_core_file(builds: Iterable[Build], frames: Sequence[Frame]) -> list[Build]:
    files = {frame.module for frame in frames}
    return [build for build in builds if build.core_file in files]


def _by_cancel_frames(builds: Iterable[Build], frames: Sequence[Frame]) -> list[Build]:
    digits = tuple(
        f"{frame.address & _PAGE:03X}"
        for frame in frames
        if frame.address is not None and plain_module(frame.module) == PYTHON_BACKEND
    )
    return [build for build in builds if build.cancel_frames == digits[:2]]


def executable_base(backtrace: Backtrace, build: Build) -> int | None:
    """Where tritonserver was loaded, by frame 0 of this build."""
    first = next((frame for frame in backtrace.frames if frame.index == 0), None)
    if first is None or first.address is None or build.frame0_offset is None:
        return None
    return first.address - build.frame0_offset


def part_at(build: Build, offset: int) -> str | None:
    """The component of an offset in tritonserver."""
    for part in build.parts:
        if part.start <= offset < part.end:
            return part.component
    return None


def function_at(builds: Sequence[Build], offset: int) -> str | None:
    """The telling function at an offset in tritonserver; None where there is none, or where these
    builds disagree.
    """
    names = {
        next((f.name for f in build.functions if f.start <= offset < f.end), None)
        for build in builds
    }
    return names.pop() if len(names) == 1 else None


_HTTP = re.compile(
    r"triton::server::(?:HTTP|Generate)|_?ev(?:htp|thr|buffer|http|util|map|sig|dns|connlistener)_"
    r"|event_(?!engine)|bufferevent_|htparser|evthread_"
)
_GRPC = re.compile(r"triton::server::grpc::|grpc::|grpc_|inference::")


def frontend_of(symbol: str) -> str | None:
    """The frontend that a function of tritonserver belongs to, by its (demangled) name."""
    if _GRPC.match(symbol) or "GRPC" in symbol[:60]:
        return "grpc-frontend"
    if _HTTP.match(symbol):
        return "http-frontend"
    if symbol.startswith("triton::server::") or "opentelemetry" in symbol[:40]:
        return "other"
    return None
