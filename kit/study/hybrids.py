"""Reads `data/hybrids.yaml`: frontends of newer releases that run on the core of an older one.

A hybrid is no release. It is called "frontend 26.09 on core 24.10" everywhere, stands beside the
line of releases and never on it, and no advice about releases counts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import yaml

from kit.errors import CatalogError, UnknownReleaseError
from kit.study.paths import DATA
from kit.study.plain_yaml import from_yaml
from kit.study.releases import Wheel, WheelFile, WheelRow, load_releases, wheel_of
from kit.study.words import listing

CATALOG = DATA / "hybrids.yaml"

#: As a person may write it: "frontend 26.09 on core 24.10", "26.09 on 24.10".
_WRITTEN = r"(?:frontends?\s+)?\d\d\.\d\d\s+on\s+(?:core\s+)?\d\d\.\d\d"
_RELEASES = re.compile(r"\d\d\.\d\d")
_NAME = re.compile(rf"\s*{_WRITTEN}\s*", re.IGNORECASE)
#: Of tritonserver's options: what the binding can be told. The kit's models need nothing completed.
_OPTIONS = re.compile(r"--log-verbose=\d|--disable-auto-complete-config")
#: What to say of it wherever it is shown beside releases.
NO_RELEASE = (
    "frontends of one release on the core and Python backend of another: no release, and not "
    "counted as one"
)
#: The same where there is little room.
NO_RELEASE_BRIEF = "hybrids, no releases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """Frontends of one release, and the release whose core they run on here."""

    frontends: str  # release: "26.09"
    core: str  # release: "24.10"
    python: str  # that the server's process runs in: "3.12"
    wheel: Wheel  # of the frontends
    binding: Wheel  # starts the core in a Python process
    packages: tuple[Wheel, ...]  # that both import

    @property
    def name(self) -> str:
        return hybrid_label(self.frontends, self.core)

    def glibc(self, architecture: str) -> tuple[int, int]:
        """The oldest glibc that it runs with."""
        return max(self.wheel.glibc(architecture), self.binding.glibc(architecture))


class _PackageRow(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    files: dict[str, WheelFile]


class _FrontendRow(msgspec.Struct, forbid_unknown_fields=True):
    release: str
    version: str
    files: dict[str, WheelFile]


class _Catalog(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    core: str
    python: str
    binding: _PackageRow
    packages: dict[str, _PackageRow]
    frontends: list[_FrontendRow]


def hybrid_label(frontends: str, core: str) -> str:
    """What a hybrid is called: "frontend 26.09 on core 24.10"."""
    return f"frontend {frontends} on core {core}"


def hybrid_parts(text: str) -> tuple[str, str] | None:
    """The releases of the frontends and of the core that a name has; None: it names no hybrid.

    >>> hybrid_parts("frontend 26.09 on core 24.10"), hybrid_parts("24.10")
    (('26.09', '24.10'), None)
    """
    if not _NAME.fullmatch(text):
        return None
    frontends, core = _RELEASES.findall(text)
    return frontends, core


def is_hybrid(label: str) -> bool:
    """Whether a server's label is that of a hybrid."""
    return hybrid_parts(label) is not None


def names_in(text: str) -> list[str]:
    """The names in a list as a person writes it, of which a hybrid's is one.

    >>> names_in("24.10, frontend 26.09 on core 24.10")
    ['24.10', 'frontend 26.09 on core 24.10']
    """
    return re.findall(rf"(?i:\b{_WRITTEN}\b)|[^\s,;]+", text)


def on_the_line(labels: Iterable[str]) -> list[str]:
    """Those that are no hybrids, in their order: what may be counted, ranged or compared as
    releases.

    >>> on_the_line(["24.10", "frontend 26.09 on core 24.10"])
    ['24.10']
    """
    return [label for label in labels if not is_hybrid(label)]


def beside_the_line(labels: Iterable[str]) -> list[str]:
    """The hybrids among them, in their order."""
    return [label for label in labels if is_hybrid(label)]


def together(names: Iterable[str]) -> str:
    """Hybrids in a sentence, those of one core under one name.

    >>> together(["frontend 26.08 on core 24.10", "frontend 26.09 on core 24.10"])
    'frontends 26.08 and 26.09 on core 24.10'
    """
    by_core: dict[str, list[str]] = {}
    for name in names:
        frontends, core = _RELEASES.findall(name)
        by_core.setdefault(core, []).append(frontends)
    words = [
        hybrid_label(own[0], core) if len(own) == 1 else f"frontends {listing(own)} on core {core}"
        for core, own in by_core.items()
    ]
    return listing(words)


def unread_option(arguments: Iterable[str]) -> str | None:
    """The first option of a server that a hybrid has nobody to read it; None: it has all.

    A hybrid has no main program: it is started by its Python binding.

    >>> unread_option(["--log-verbose=1", "--rate-limit=off"])
    '--rate-limit=off'
    """
    return next((one for one in arguments if not _OPTIONS.fullmatch(one)), None)


def load_hybrids() -> dict[str, Hybrid]:
    """All hybrids by name, oldest frontends first.

    Raises:
        CatalogError: data/hybrids.yaml does not have the rows it should.

    >>> list(load_hybrids())[-1]
    'frontend 26.09 on core 24.10'
    """
    return dict(_read(CATALOG))


def get_hybrid(frontends: str, core: str) -> Hybrid:
    """The hybrid of these two releases.

    Raises:
        UnknownReleaseError: there is none.
    """
    known = load_hybrids()
    name = hybrid_label(frontends, core)
    if name not in known:
        raise UnknownReleaseError(
            name,
            f"one of {', '.join(known)}",
            f'take "{list(known)[-1]}"; `python -m kit releases` lists all',
        )
    return known[name]


@cache
def _read(path: Path) -> dict[str, Hybrid]:
    try:
        catalog = msgspec.convert(from_yaml(path.read_bytes()), _Catalog)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from error
    releases = load_releases()
    named = [row.release for row in catalog.frontends]
    if catalog.schema != 1 or not named or named != sorted(set(named)):
        raise _bad(path, "another schema, or frontends missing, doubled or not in order of time")
    core = releases.get(catalog.core)
    if core is None or core.wheel is None:
        raise _bad(path, f"the core of {catalog.core}, which no wheel carries")
    for row in catalog.frontends:
        if row.release not in releases or releases[row.release].triton != row.version:
            raise _bad(path, f"frontends {row.version} for release {row.release}")

    def wheel(package: str, row: _PackageRow | _FrontendRow) -> Wheel:
        files = WheelRow(version=row.version, python=(catalog.python,), files=row.files)
        return wheel_of(path, package, files)

    found = [
        Hybrid(
            frontends=row.release,
            core=catalog.core,
            python=catalog.python,
            wheel=wheel("tritonfrontend", row),
            binding=wheel("tritonserver", catalog.binding),
            packages=tuple(wheel(name, one) for name, one in catalog.packages.items()),
        )
        for row in catalog.frontends
    ]
    return {one.name: one for one in found}


def _bad(path: Path, what: str) -> CatalogError:
    return CatalogError(
        f"{path.name} has {what}",
        "the rows that its head describes",
        f"correct {path}, or restore it from version control",
    )
