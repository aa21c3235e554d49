"""What this machine has of all that the kit can use: one check a line, each ok or with a hint.

Nothing is changed, fetched or started; Pythons and `nvidia-smi` are only asked what they are.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from kit.errors import KitError, UnsupportedPlatformError
from kit.servers.browser import BROWSERS, find_browser
from kit.servers.cache import cache_root
from kit.servers.gpu import NO_SMI, gpus_here
from kit.servers.hybrid.files import hybrid_lacks_here
from kit.servers.platform import LEAST_OPEN_FILES, architecture_for, libc_here
from kit.servers.prepare import OWN_LIBPYTHON_BEFORE, lacks_here
from kit.servers.python import PREFERRED, ServerPython, pythons_here, ways_to_get
from kit.study.hybrids import NO_RELEASE_BRIEF, load_hybrids, together
from kit.study.releases import Release, embedded_releases, load_releases, numpy_wheels
from kit.study.words import listing, ranges

#: The Python versions that the kit itself can run in.
KIT_PYTHONS: Final = ((3, 11), (3, 14))
#: With less, a study is likely to end for want of space: each server is 0.2 to 0.5 GB unpacked.
LEAST_FREE_BYTES: Final = 2_000_000_000
#: Of /dev/shm: a server, its models' stubs and a few trials at a time. Docker's default is 64 MB.
LEAST_SHM_BYTES: Final = 256_000_000
LEAST_PROCESSES: Final = 512
NO_OLD_NUMPY: Final = "Triton's stub needs a numpy before 2.0, and there is none for this version"
#: Clocks that are read without a system call.
FAST_CLOCKS: Final = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
SHM_TOPIC: Final = "/dev/shm"  # noqa: S108 - the kernel's own file system
SHM: Final = Path(SHM_TOPIC)
CLOCK: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


class CheckState(StrEnum):
    """What a check found: all is well, something to put right, or something to do without."""

    OK = "ok"
    LACKS = "lacks"
    WITHOUT = "without"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line about this machine.

    >>> Check(topic="GPU", state=CheckState.WITHOUT, found="none", hint="none is needed").topic
    'GPU'
    """

    topic: str
    state: CheckState
    found: str
    hint: str | None = None  # what to do; None: nothing


Probe = Callable[[], Iterable[Check]]


def check_machine() -> list[Check]:
    """All checks, in the order in which a person reads them; takes a second or two."""
    return check_with(PROBES)


def check_with(probes: Mapping[str, Probe]) -> list[Check]:
    """Those of PROBES that are given; one that fails is a line, and the others go on."""
    made: list[Check] = []
    for topic, probe in probes.items():
        try:
            made += probe()
        except KitError as error:
            made.append(_lacks(topic, error.given, error.hint))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            made.append(_lacks(topic, f"cannot be told: {error}", "see whether it can be read"))
    return made


def served_by(python: ServerPython) -> list[str]:
    """The embedded releases whose models can run in that Python, oldest first."""
    return [release.release for release in embedded_releases() if _fits(release, python)]


def _fits(release: Release, python: ServerPython) -> bool:
    assert release.wheel is not None
    version = tuple(int(part) for part in release.wheel.version.split(".")[:2])
    return (
        python.version in release.wheel.python
        and python.version in numpy_wheels()
        and (python.libpython is not None or version < OWN_LIBPYTHON_BEFORE)
    )


def _platform() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    newest = embedded_releases()[-1].wheel
    assert newest is not None
    try:
        architecture_for(newest)
    except UnsupportedPlatformError as error:
        yield _lacks("platform", f"{system}: {error.given}", error.hint)
    else:
        yield _ok("platform", f"{system}, {os.cpu_count()} processors")


def _memory() -> Iterator[Check]:
    memory = psutil.virtual_memory()
    yield _ok("memory", f"{_gb(memory.available)} of {_gb(memory.total)} available")


def _libc() -> Iterator[Check]:
    yield _ok("C library", libc_here() or "other than glibc")


def _kit_python() -> Iterator[Check]:
    lowest, highest = KIT_PYTHONS
    found = f"{platform.python_version()}, {sys.executable}"
    if lowest <= sys.version_info[:2] <= highest:
        yield _ok("Python of the kit", found)
    else:
        between = f"Python 3.{lowest[1]} to 3.{highest[1]}"
        yield _lacks("Python of the kit", found, f"make setup PYTHON=... with {between}")


def _server_pythons() -> Iterator[Check]:
    for python in pythons_here():
        serves = served_by(python)
        shared = "" if python.libpython else ", without a shared library"
        why = None if python.version in numpy_wheels() else NO_OLD_NUMPY
        yield Check(
            topic=f"Python {python.version}",
            state=CheckState.OK if serves else CheckState.WITHOUT,
            found=f"{python.executable or python.libpython}{shared}, for "
            + (_spans(serves) or "no release"),
            hint=None if serves else why,
        )


def _releases() -> Iterator[Check]:
    embedded = [release.release for release in embedded_releases()]
    without = {r.release: why for r in embedded_releases() if (why := lacks_here(r)) is not None}
    here = [name for name in embedded if name not in without]
    if here:
        yield _ok("releases that run", _spans(here))
    for why in dict.fromkeys(without.values()):
        names = [name for name, reason in without.items() if reason == why]
        version = best_python(names)
        yield Check(
            topic="releases that do not",
            # The oldest one alone needs a Python that no system brings any more.
            state=CheckState.WITHOUT if here and names == embedded[:1] else CheckState.LACKS,
            found=f"{_spans(names)}: {'it wants' if len(names) == 1 else 'they want'} {why}",
            hint=ways_to_get(version),
        )


def _hybrids() -> Iterator[Check]:
    """Each reason once, with the hybrids that it keeps from running."""
    lacks = {hybrid.name: hybrid_lacks_here(hybrid) for hybrid in load_hybrids().values()}
    for why in dict.fromkeys(lacks.values()):
        names = together([name for name, reason in lacks.items() if reason == why])
        if why is None:
            yield _ok("hybrids that run", f"{names} ({NO_RELEASE_BRIEF})")
        else:
            hint = "releases need none of it; see README.md, or take that release's image"
            yield _without("hybrids that do not", f"{names}: they want {why}", hint)


def best_python(releases: Iterable[str]) -> str:
    """The version that most of these releases have a stub for, the best tested of them first."""
    known = load_releases()
    wheels = [wheel for name in releases if (wheel := known[name].wheel) is not None]
    versions = [version for version in PREFERRED if version in numpy_wheels()]
    return max(versions, key=lambda v: sum(v in wheel.python for wheel in wheels))


def _engine() -> Iterator[Check]:
    from kit.servers.container_engine import engine_for
    from kit.servers.engine_errors import Asked

    try:
        engine = engine_for(None, None)
    except KitError as error:
        yield _without("container engine", error.given, error.hint)
        return
    try:
        with engine.errors(Asked(engine=engine.address.url)):
            version = engine.client().version()
        yield _ok("container engine", f"{version.get('Version', '?')} at {engine.address.url}")
    finally:
        engine.close()


def _vllm() -> Iterator[Check]:
    from kit.servers.vllm_env import VERSIONS, installed

    there = [version for version in VERSIONS if installed(version) is not None]
    if there:
        yield _ok("vLLM for the CPU", listing(there))
    else:
        hint = "the simulated engine stands in for it; `make vllm` installs it (2 GB)"
        yield _without("vLLM for the CPU", "not installed", hint)


def _gpu() -> Iterator[Check]:
    found = gpus_here()
    if found == NO_SMI:
        yield _without("GPU", "no NVIDIA driver", "none is needed: servers run on the CPU")
    elif isinstance(found, str):
        hint = "install the driver again, or restart after its upgrade; no GPU is needed"
        yield _lacks("GPU", found, hint)
    else:
        for one in found:
            memory = "" if one.memory_mib is None else f", {one.memory_mib:,.0f} MiB"
            yield _ok("GPU", f"{one.name}{memory}, driver {one.driver}")


def _disk() -> Iterator[Check]:
    for what, path in (("disk of the cache", cache_root()), ("disk of the studies", Path.cwd())):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        found = f"{_gb(free)} free at {path}"
        if not os.access(there, os.W_OK):
            yield _lacks(what, f"{path} cannot be written", f"make {there} writable{_MOVE}")
        elif free < LEAST_FREE_BYTES:
            yield _lacks(what, found, f"free {_gb(LEAST_FREE_BYTES)} there{_MOVE}")
        else:
            yield _ok(what, found)


_MOVE = ", or work elsewhere; TRITON_CRASH_KIT_CACHE moves the cache"


def _shm() -> Iterator[Check]:
    if not SHM.exists():
        yield _lacks(SHM_TOPIC, "none", "mount a tmpfs there: models share memory with the server")
        return
    usage = shutil.disk_usage(SHM)
    found = f"{_gb(usage.free)} of {_gb(usage.total)} free"
    if usage.free < LEAST_SHM_BYTES:
        more = "give it more (a container: --shm-size=1g), or see `python -m kit clean`"
        yield _lacks(SHM_TOPIC, found, more)
    else:
        yield _ok(SHM_TOPIC, found)


def _limits() -> Iterator[Check]:
    import resource

    wanted = (
        ("open files", resource.RLIMIT_NOFILE, LEAST_OPEN_FILES, "ulimit -Hn"),
        ("processes", resource.RLIMIT_NPROC, LEAST_PROCESSES, "ulimit -Hu"),
    )
    for name, which, least, shown in wanted:
        most = resource.getrlimit(which)[1]
        unlimited = most == resource.RLIM_INFINITY
        found = "unlimited" if unlimited else f"at most {most}"
        if unlimited or most >= least:
            yield _ok(f"limit of {name}", found)
        else:
            where = f"raise it to {least} or more (`{shown}`, limits.conf, a container's --ulimit)"
            yield _lacks(f"limit of {name}", found, where)


def _clocks() -> Iterator[Check]:
    steps_ns = time.get_clock_info("monotonic").resolution * 1e9
    source = CLOCK.read_text().strip() if CLOCK.exists() else ""
    found = f"steps of {steps_ns:.0f} ns{f', by {source}' if source else ''}"
    if source and source not in FAST_CLOCKS:
        yield _lacks("clock", found, "a slow clock shows in latencies: boot with clocksource=tsc")
    elif steps_ns > 1e6:
        yield _lacks("clock", found, "latencies are no finer than that")
    else:
        yield _ok("clock", found)


def _caches() -> Iterator[Check]:
    folder = cache_root()
    held = [p for p in folder.glob("*/*") if p.is_dir() and not p.name.startswith(".")]
    rooms = [
        f"{sum(p.parent == r for p in held)} {r.name}" for r in sorted({p.parent for p in held})
    ]
    yield _ok("cache", f"{folder}: {listing(rooms) or 'nothing yet'}")


def _browser() -> Iterator[Check]:
    found = find_browser()
    if found:
        yield _ok("browser", found)
    else:
        hint = "any browser shows JupyterLab; the tests want Chromium (Debian: chromium)"
        yield _without("browser", f"none of {', '.join(BROWSERS)}", hint)


#: By the topic that is named when the check itself fails.
PROBES: Final[dict[str, Probe]] = {
    "platform": _platform,
    "memory": _memory,
    "C library": _libc,
    "Python of the kit": _kit_python,
    "Pythons for servers": _server_pythons,
    "releases that run": _releases,
    "hybrids that run": _hybrids,
    "container engine": _engine,
    "vLLM for the CPU": _vllm,
    "GPU": _gpu,
    "disk": _disk,
    SHM_TOPIC: _shm,
    "limits": _limits,
    "clock": _clocks,
    "cache": _caches,
    "browser": _browser,
}


def _spans(releases: Iterable[str]) -> str:
    return ranges(releases, [release.release for release in embedded_releases()])


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _ok(topic: str, found: str) -> Check:
    return Check(topic=topic, state=CheckState.OK, found=found)


def _lacks(topic: str, found: str, hint: str) -> Check:
    return Check(topic=topic, state=CheckState.LACKS, found=found, hint=hint)


def _without(topic: str, found: str, hint: str) -> Check:
    return Check(topic=topic, state=CheckState.WITHOUT, found=found, hint=hint)
