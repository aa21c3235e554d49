"""Runs an installer to its end, and says nothing on the terminal: pip, uv, apt-get."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit.servers.runs import register


def run_program(
    command: Sequence[str],
    settings: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """What it said and its exit status; it is on the register, so that one that outlives us is
    found.

    settings: variables of its environment that come before this process's own.

    Raises:
        OSError: there is no such program. subprocess.TimeoutExpired: it took longer.
    """
    run = register()
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **run.environment, **(settings or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    finally:
        run.forget()


def uv() -> str:
    """The uv that was installed with the kit, else the one on the PATH."""
    try:
        import uv as installed
    except ImportError:
        return "uv"
    return str(installed.find_uv_bin())
