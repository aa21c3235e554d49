"""Paths that any program can be given: no character that a shell or a loader reads as its own.

Triton's Python backend starts its stub through `bash -c` with unquoted paths, and the dynamic
loader splits its folders at colons and expands `$`. So what a server is told is always a path of
letters, digits and `._+-/`; where a folder lies elsewhere, a link to it stands in.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

_PLAIN = re.compile(r"(/[A-Za-z0-9_.+-]+)+")
#: Sockets may lie in a run's folder, and their paths end at 107 bytes.
_MOST_BYTES = 64


def is_plain(path: Path) -> bool:
    """Whether no program can misread this absolute path."""
    return _PLAIN.fullmatch(str(path)) is not None


def plain(path: Path, links: Path, name: str) -> Path:
    """`path`, or a link to it called `name` in the folder `links` where it is not plain itself."""
    if is_plain(path):
        return path
    links.mkdir(exist_ok=True)
    link = links / name
    link.symlink_to(path)
    return link


def temp_roots() -> list[Path]:
    """Folders for temp files with short plain paths, the caller's own choice (TMPDIR) first."""
    roots = [Path(tempfile.gettempdir())]
    roots += [Path("/tmp"), Path("/var/tmp"), Path(f"/run/user/{os.getuid()}")]  # noqa: S108
    return [p for p in dict.fromkeys(roots) if is_plain(p) and len(str(p)) <= _MOST_BYTES]
