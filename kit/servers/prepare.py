"""Releases in; everything their embedded servers need, on this machine's disk, out."""

from __future__ import annotations

from collections.abc import Iterable

from kit.releases import Release
from kit.servers.environment import numpy_folder, python_for
from kit.servers.wheels import server_files


def prepare(releases: Iterable[Release]) -> None:
    """Fetch and unpack what is not in the cache yet, before the first server is started.

    Raises:
        UnknownReleaseError: a release has no embedded server.
        UnsupportedPlatformError, LibpythonMissingError: not on this machine.
        DownloadError, HashMismatchError: a package could not be had, or is not the right one.
    """
    for release in releases:
        numpy_folder(python_for(server_files(release), None))
