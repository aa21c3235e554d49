"""Asks an interpreter what it is, and remembers the answer for as long as its file is the same.

Every trial of a study looks for the Python of its server, and starting five interpreters to ask
them costs more processor time than the server's own start.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from kit.errors import KitError
from kit.servers.cache import cache_root, mark_root
from kit.study.files import write_whole

#: What a Python says of itself; run in any Python 3, so no newer syntax.
_ASK: Final = """
import json, os, sys, sysconfig
get = sysconfig.get_config_var
lib = get("LIBDIR") or ""
print(json.dumps({"version": "%d.%d" % sys.version_info[:2], "prefix": sys.base_prefix,
                  "library": get("INSTSONAME") or "",
                  "folders": [lib, os.path.join(lib, get("MULTIARCH") or ""),
                              os.path.join(sys.base_prefix, "lib")],
                  "packages": [p for p in sys.path
                               if os.path.basename(p).endswith("-packages")]}))
"""
#: A machine has some ten interpreters; older answers are dropped beyond so many.
_MOST: Final = 100


class PythonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an interpreter says of itself."""

    version: str  # "3.11"
    prefix: str
    library: str  # the name of its library, shared or not: "libpython3.11.so.1.0"
    folders: list[str]  # where that may lie
    packages: list[str]  # its site-packages on sys.path

    def libpython(self) -> Path | None:
        """Its shared library, if it is there now."""
        if not self.library or ".so" not in self.library:
            return None
        paths = (Path(folder) / self.library for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)


def ask(executable: Path, *, with_packages: bool = False) -> PythonFacts | None:
    """What the interpreter says of itself; None if it does not answer as a Python should.

    Without `with_packages` only its standard library is asked for, not its environment, and an
    earlier answer of the same file will do: an environment changes and its executable does not.
    """
    key = None if with_packages else _key(executable)
    known = _remembered() if key else {}
    if key in known:
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(known[key], PythonFacts)
    command = [str(executable), "-I", *([] if with_packages else ["-S"]), "-c", _ASK]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True
        )
        facts = msgspec.json.decode(done.stdout, type=PythonFacts)
    except (OSError, msgspec.MsgspecError, subprocess.SubprocessError):
        return None
    if key:
        _remember(key, facts)
    return facts


def _key(executable: Path) -> str | None:
    """The same for as long as the interpreter is; None: a script, which may start any, or gone."""
    try:
        status = executable.stat()
        with executable.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
    except OSError:
        return None
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return json.dumps([str(executable), os.path.realpath(executable), *state])


def _file() -> Path:
    return cache_root() / "pythons.json"


def _remembered() -> dict[str, Any]:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


def _remember(key: str, facts: PythonFacts) -> None:
    """Add an answer; where the cache cannot be written, it is asked for again."""
    known = {**_remembered(), key: msgspec.to_builtins(facts)}
    with contextlib.suppress(OSError, KitError):
        mark_root()
        write_whole(_file(), msgspec.json.encode(dict(list(known.items())[-_MOST:])), durable=False)
