"""Downloads and unpacks what the embedded servers of some releases need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from kit.errors import LibpythonMissingError, UnsupportedPlatformError
from kit.servers.environment import numpy_folder, python_for
from kit.servers.platform import architecture_for, check_open_files
from kit.servers.python import choose_python
from kit.servers.wheels import server_files
from kit.study.hybrids import get_hybrid
from kit.study.releases import Release, embedded_releases, get_release, numpy_wheels
from kit.study.spec import ServerKind, ServerSpec

#: Wheels before this version have one stub, which brings its own libpython.
OWN_LIBPYTHON_BEFORE = (0, 3)


def prepare(releases: Iterable[Release]) -> None:
    """Fetch and unpack what is not in the cache yet, before the first server is started.

    Raises:
        UnknownReleaseError: a release has no embedded server.
        UnsupportedPlatformError, LibpythonMissingError: not on this machine.
        DownloadError, HashMismatchError: a package could not be had, or is not the right one.
    """
    check_open_files()
    for release in releases:
        numpy_folder(python_for(server_files(release), None))


def prepare_servers(
    servers: Iterable[ServerSpec], on_progress: Callable[[str], None] | None = None
) -> None:
    """As `prepare`, for those of the servers that need something on this machine, and pull the
    images of containers; on_progress is told how far that is.

    Raises:
        ContainerError: no engine, or an image that cannot be had.
    """
    servers = list(servers)
    containers = [server for server in servers if server.kind is ServerKind.CONTAINER]
    if containers:
        from kit.servers.container_image import prepare_images

        prepare_images(containers, on_progress)
    hybrids = [server for server in servers if server.kind is ServerKind.HYBRID]
    if hybrids:
        from kit.servers.hybrid.files import hybrid_files

        for server in hybrids:
            hybrid = get_hybrid(server.frontends or "", server.release or "")
            numpy_folder(hybrid_files(hybrid).python)
            server_files(get_release(hybrid.core))
    embedded = [s.release for s in servers if s.kind is ServerKind.EMBEDDED and s.release]
    prepare([get_release(name) for name in dict.fromkeys(embedded)])


def releases_here(on_left_out: Callable[[str], None] | None = None) -> list[str]:
    """The embedded releases that this machine can run, fetched if they were not in the cache.

    on_left_out is told of each of the others what it lacks.

    Raises:
        UnsupportedPlatformError, DownloadError, HashMismatchError: as for prepare.
    """
    able = []
    for release in embedded_releases():
        try:
            prepare([release])
            able.append(release.release)
        except LibpythonMissingError as error:
            if on_left_out:
                on_left_out(f"{release.release} is left out: {error.given}")
    return able


def lacks_here(release: Release) -> str | None:
    """What this machine lacks to run the release as an embedded server; None: nothing.

    Told from the catalog: nothing is fetched, so that this takes no time.
    """
    wheel = release.wheel
    if wheel is None:
        return "a container: no wheel carries it"
    version = tuple(int(part) for part in wheel.version.split(".")[:2])
    try:
        architecture_for(wheel)
        _check_python(wheel.python, version < OWN_LIBPYTHON_BEFORE)
    except (UnsupportedPlatformError, LibpythonMissingError) as error:
        return error.expected
    return None


@cache
def _check_python(versions: tuple[str, ...], brings_libpython: bool) -> None:
    stubs = [version for version in versions if version in numpy_wheels()]
    choose_python(stubs, brings_libpython=brings_libpython)
