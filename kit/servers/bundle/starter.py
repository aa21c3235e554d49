"""What a bundle has beside its files: a program for machines without the kit, and a text.

The program is a zip file that Python runs: the modules here that need nothing but the standard
library.
"""

from __future__ import annotations

import io
import zipfile
from typing import Final

from kit.servers.bundle.checkout import add_file
from kit.servers.bundle.manifest import Manifest
from kit.servers.bundle.progress import size
from kit.study.paths import ROOT

STARTER: Final = "unbundle.pyz"
READ_ME: Final = "README.txt"
#: Each uses the standard library and the others alone; a test runs it so.
MODULES: Final = (
    "kit/__init__.py",
    "kit/cleaning.py",
    "kit/errors.py",
    "kit/study/__init__.py",
    "kit/study/files.py",
    "kit/servers/__init__.py",
    *(
        f"kit/servers/bundle/{name}.py"
        for name in (
            *("__init__", "bootstrap", "checkout", "content", "install", "manifest"),
            *("opened", "pieces", "progress"),
        )
    ),
)
_MAIN: Final = b"""\
import sys

if sys.version_info < (3, 11):
    sys.exit("error: this needs Python 3.11 or newer; run it with the Python of the bundle")
from kit.servers.bundle.bootstrap import main

sys.exit(main())
"""


def starter() -> bytes:
    """The program's bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MODULES:
            add_file(archive, name, (ROOT / name).read_bytes())
        add_file(archive, "__main__.py", _MAIN)
    return packed.getvalue()


def read_me(manifest: Manifest) -> str:
    """How to use the bundle, for who finds it."""
    python = f"python{manifest.python}"
    held = [f"Triton {release}" for release in manifest.releases]
    held += [f"vLLM {one.version} for {one.device}" for one in manifest.vllm]
    lines = [
        f"A bundle of the Triton crash kit {manifest.kit}, for machines without a network.",
        f"It is for Python {manifest.python} on {manifest.platform}, and holds",
        f"{', '.join(held) or 'no server'}: {size(manifest.size_bytes)} in "
        + (f"{len(manifest.pieces)} pieces." if manifest.pieces else "files."),
        "",
        "Carry this whole folder over. There, with the SHA-256 of manifest.json that",
        "`kit bundle` printed:",
        "",
        f"    {python} {STARTER} --venv ~/crash-kit --manifest-sha256 SHA256",
        "    ~/crash-kit/bin/kit doctor",
    ]
    if manifest.releases:
        release = manifest.releases[0]
        lines.append(f"    ~/crash-kit/bin/kit run --release {release} --scenario control")
    lines += [
        "",
        "Cut off, or told that something is missing or damaged, run it again: what is",
        "whole stays. Where the kit is installed already: kit unbundle FOLDER",
        "",
    ]
    return "\n".join(lines)
