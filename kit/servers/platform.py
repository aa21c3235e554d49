"""Names this machine's architecture, if the wheels' binaries can run on it."""

from __future__ import annotations

import os
import platform
import re

from kit.errors import UnsupportedPlatformError
from kit.study.releases import Wheel

#: A server with a model takes some 100, its stub and a load worker with 16 clients 40 more.
LEAST_OPEN_FILES = 256

_USE_A_CONTAINER = (
    "use a container (kit.container(release), --container) or a server elsewhere (kit.attach(url))"
)


def architecture_for(
    wheel: Wheel,
    *,
    system: str | None = None,
    machine: str | None = None,
    libc: str | None = None,
) -> str:
    """The key into the wheel's files; the keyword arguments stand in for this machine's facts.

    Raises:
        UnsupportedPlatformError: the wheel's binaries cannot run on this machine.
    """
    system = platform.system() if system is None else system
    machine = platform.machine() if machine is None else machine
    libc = libc_here() if libc is None else libc
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())
    what = f"{wheel.package} {wheel.version}"
    if system != "Linux":
        raise UnsupportedPlatformError(
            f"{system}, while {what} holds Linux binaries", "Linux", _USE_A_CONTAINER
        )
    if machine not in wheel.filename:
        raise UnsupportedPlatformError(
            f"a {machine} processor, for which {what} has no binaries",
            " or ".join(wheel.filename),
            "choose a later release" if machine == "aarch64" else _USE_A_CONTAINER,
        )
    needed = wheel.glibc(machine)
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", libc)
    if found is None or (int(found[1]), int(found[2])) < needed:
        raise UnsupportedPlatformError(
            f"{libc or 'a C library other than glibc'}, too old or too different for {what}",
            f"glibc {needed[0]}.{needed[1]} or later (Debian 12, Ubuntu 22.04 and later have it)",
            _USE_A_CONTAINER,
        )
    return machine


def check_open_files() -> None:
    """Refuse a limit of open files under which neither server nor load generator can work.

    Raises:
        UnsupportedPlatformError: this user may open fewer files.
    """
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise UnsupportedPlatformError(
            f"a limit of {most} open files",
            f"{LEAST_OPEN_FILES} or more",
            "raise it where it is set: `ulimit -Hn`, limits.conf, or the container's --ulimit",
        )


def libc_here() -> str:
    """ "glibc 2.36"; empty where the C library does not tell, as musl's does not."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return ""
