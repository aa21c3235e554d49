"""Removes this machine's paths from a command, so that it can be read and run anywhere."""

from __future__ import annotations

import re
import shlex
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from benchmarks.tools import HOME

ROOT = Path(__file__).parent.parent
CACHE = platformdirs.user_cache_path("triton-crash-kit")


def readable(command: Sequence[str], names: Mapping[str, str]) -> str:
    """The command, with the checkout as where it runs, CACHE for the cache folder and `names`.

    names: what else is different on each machine, such as ports and scratch folders, and the
        words that stand for it.
    """
    text = shlex.join(command)
    known = {
        **{str(was): word for was, word in names.items()},
        str(HOME): "CACHE/bench",
        str(CACHE): "CACHE",
        sys.executable: ".venv/bin/python",
        f"{sysconfig.get_path('scripts')}/": ".venv/bin/",
        f"{ROOT}/": "",
        str(Path.home()): "HOME",
    }
    for was in sorted(known, key=len, reverse=True):  # a folder before the one that it is in
        whole = rf"(?<!\d){was}(?!\d)" if was.isdigit() else re.escape(was)
        text = re.sub(whole, known[was].replace("\\", r"\\"), text)
    return text
