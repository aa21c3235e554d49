"""What a bundle is to hold: what a person chose, checked, and about how large that will be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from kit.errors import SpecError, UnknownReleaseError
from kit.servers.bundle.manifest import BundledVllm, path_parts
from kit.servers.bundle.pins import Target
from kit.servers.bundle.progress import size
from kit.servers.platform import architecture_for
from kit.servers.python import PREFERRED
from kit.study.releases import Wheel, embedded_releases, embedded_wheel, get_release, numpy_wheels
from kit.study.words import listing

#: About what is fetched for each, in bytes: measured for Python 3.11 and 3.12 on x86-64.
SERVER_BYTES: Final = 50_000_000
NUMPY_BYTES: Final = 20_000_000
KIT_BYTES: Final = 280_000_000
PYTHON_BYTES: Final = 35_000_000
VLLM_BYTES: Final = {"cpu": 600_000_000, "cuda": 5_000_000_000}
#: Smaller pieces would be more than a folder should have.
LEAST_PIECE_BYTES: Final = 100_000
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kMG]i?)?B?")
_FACTORS: Final = {
    "k": 10**3, "M": 10**6, "G": 10**9, "ki": 2**10, "Mi": 2**20, "Gi": 2**30,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpec:
    """What goes into a bundle, and for which machine.

    >>> BundleSpec(
    ...     releases=("24.05",), of=Target(python="3.12", glibc_minor=35, architecture="x86_64")
    ... ).server_pythons()
    ('3.12',)
    """

    of: Target
    releases: tuple[str, ...] = ()
    kit: bool = True
    extras: tuple[str, ...] = ("duckdb",)  # of the kit's packages
    pythons: tuple[str, ...] = ()  # that the servers' models run in; (): the target's if it fits
    with_python: bool = False  # fetch those, with their shared library
    vllm: tuple[BundledVllm, ...] = ()
    with_packages: tuple[str, ...] = ()  # more for vLLM, or bounds: "transformers<4.46"
    leave_out: tuple[str, ...] = ()  # packages that the machine has: "torch", "nvidia-*"
    models: tuple[Path, ...] = ()
    piece_bytes: int | None = None
    wheels: tuple[tuple[str, Wheel], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "wheels", tuple(self._wheels()))
        for model in self.models:
            if not model.is_dir():
                raise SpecError(f"the model {model}", "a folder on this machine", "give its path")
            path_parts(model.absolute().name)
        names = [model.absolute().name for model in self.models]
        if len(set(names)) != len(names):
            raise SpecError("two models of one name", "folders of different names", "rename one")
        for line in self.with_packages:
            try:
                Requirement(line)
            except InvalidRequirement as error:
                raise SpecError(
                    f"the package {line!r}", "one such as transformers<4.46", "write it so"
                ) from error
        if self.piece_bytes is not None and self.piece_bytes < LEAST_PIECE_BYTES:
            raise SpecError(
                f"pieces of {size(self.piece_bytes)}",
                f"{size(LEAST_PIECE_BYTES)} or more",
                "choose larger ones: --piece-size 90M",
            )

    def server_pythons(self) -> tuple[str, ...]:
        """The Python versions that models are to run in: as few as serve every release."""
        if self.pythons:
            return self.pythons
        chosen: list[str] = []
        for name in self.releases:
            stubs = [p for p in embedded_wheel(get_release(name)).python if p in numpy_wheels()]
            order = [self.of.python, *PREFERRED]
            chosen.append(next(python for python in order if python in stubs))
        return tuple(dict.fromkeys(chosen))

    def _wheels(self) -> Iterable[tuple[str, Wheel]]:
        """What lies in the bundle's room of servers, with words for it."""
        for name in self.releases:
            release = get_release(name)
            yield f"Triton {release.triton} ({name})", embedded_wheel(release)
        for python in self.server_pythons():
            if python not in numpy_wheels():
                raise SpecError(
                    f"the servers' Python {python}",
                    listing(list(numpy_wheels())),
                    "choose one of them: Triton's stub needs a numpy before 2.0",
                )
            yield f"numpy for the models' Python {python}", numpy_wheels()[python]

    def check_wheels(self) -> None:
        """Refuse servers that the target cannot run.

        Raises:
            UnsupportedPlatformError: its processor or glibc is none that a wheel is for.
        """
        for _, wheel in self.wheels:
            architecture_for(wheel, system="Linux", machine=self.of.architecture, libc=self.of.libc)

    def about_bytes(self) -> int:
        """About how much is fetched and copied."""
        servers = len(self.releases) * SERVER_BYTES
        pythons = len(self.server_pythons())
        models = sum(p.stat().st_size for m in self.models for p in m.rglob("*") if p.is_file())
        return (
            servers
            + pythons * (NUMPY_BYTES + self.with_python * PYTHON_BYTES)
            + self.kit * KIT_BYTES
            + sum(VLLM_BYTES[one.device] for one in self.vllm)
            + models
        )

    def words(self) -> str:
        """What the bundle will hold, for people."""
        parts = [f"Triton {listing(self.releases)}"] if self.releases else []
        if pythons := self.server_pythons():
            parts.append(f"numpy for Python {listing(pythons)}")
            parts += ["that Python with its shared library"] if self.with_python else []
        parts += ["the kit with its packages"] if self.kit else []
        parts += [f"vLLM {one.version} for {one.device}" for one in self.vllm]
        parts += [f"the model {model.name}" for model in self.models]
        return listing(parts)


def releases_named(names: Iterable[str]) -> tuple[str, ...]:
    """Releases with a wheel; "all" is each of them.

    Raises:
        UnknownReleaseError: there is no such release, or no wheel carries it.
    """
    found: list[str] = []
    for name in names:
        if name == "all":
            found += [release.release for release in embedded_releases()]
        elif " " in name:
            raise UnknownReleaseError(
                f"{name!r} for a bundle",
                "releases",
                "a hybrid is not packed: run it with a network",
            )
        else:
            embedded_wheel(get_release(name))
            found.append(get_release(name).release)
    return tuple(dict.fromkeys(found))


def bytes_of(text: str) -> int:
    """The bytes of a size: "90M", "64MiB", "1.5G".

    >>> bytes_of("64MiB")
    67108864

    Raises:
        SpecError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"the size {text!r}", "one such as 90M, 64MiB or 1.5G", "write it so")
    return int(float(found[1]) * _FACTORS.get(found[2] or "", 1))
