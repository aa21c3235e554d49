"""Reads what nvidia-smi says of this machine's GPUs."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NO_SMI: Final = "there is no nvidia-smi"
_FIELDS: Final = ("index", "uuid", "name", "driver_version", "memory.total", "memory.used")
#: Drivers before 510 do not know this field, and refuse the whole question.
_CAPABILITY: Final = "compute_cap"
_DRIVER: Final = ("libcuda.so.1", "libnvidia-ml.so.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as nvidia-smi describes it. Memory in MiB; None: it does not say."""

    index: str
    uuid: str
    name: str
    capability: tuple[int, int] | None
    driver: str
    memory_mib: float | None
    used_mib: float | None


def gpus_here() -> list[Gpu] | str:
    """The GPUs of this machine, or why there are none to be seen."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return NO_SMI
    why_not = ""
    for fields in ((*_FIELDS, _CAPABILITY), _FIELDS):
        ask = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                ask,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"nvidia-smi cannot be asked: {error}"
        rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
        found = [
            _gpu(dict(zip(fields, row, strict=True))) for row in rows if len(row) == len(fields)
        ]
        if found and not done.returncode:
            return found
        said = (done.stderr or done.stdout).strip().splitlines()
        why_not = said[-1] if said else f"exit code {done.returncode}"
    return f"nvidia-smi fails: {why_not}"


def driver_folders(path: str | None = None) -> tuple[Path, ...]:
    """Folders of the linker's path that hold the driver's libraries.

    A server's own path takes the place of the caller's; only these are kept of it. Mostly the
    driver's libraries are where the linker looks anyway, and there is none.

    path: None: LD_LIBRARY_PATH.

    >>> driver_folders("/nowhere:")
    ()
    """
    given = os.environ.get("LD_LIBRARY_PATH", "") if path is None else path
    folders = [Path(one) for one in given.split(os.pathsep) if one]
    return tuple(one for one in folders if any((one / name).exists() for name in _DRIVER))


def _gpu(row: Mapping[str, str]) -> Gpu:
    capability = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", row.get(_CAPABILITY, "").strip())
    return Gpu(
        index=row["index"].strip(),
        uuid=row["uuid"].strip(),
        name=row["name"].strip(),
        capability=(int(capability[1]), int(capability[2])) if capability else None,
        driver=row["driver_version"].strip(),
        memory_mib=_number(row["memory.total"]),
        used_mib=_number(row["memory.used"]),
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
