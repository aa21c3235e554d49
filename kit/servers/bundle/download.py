"""Fetches the wheels of pins with pip, a few at a time, and keeps those that are whole.

Whatever cuts it off, the next try fetches only what is not there yet.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from kit.errors import DownloadError, HashMismatchError
from kit.servers.bundle.content import sha256_of
from kit.servers.bundle.pins import Pin, Target
from kit.servers.bundle.progress import Say, size
from kit.servers.program import run_program

#: So many packages go with one call of pip, which keeps nothing of a call that is cut off.
AT_A_TIME: Final = 12
#: How pip says that an index has no wheel of a version.
_NO_WHEEL: Final = re.compile(r"No matching distribution found for (\S+)")


def download(
    pins: Sequence[Pin], of: Target, folder: Path, scratch: Path, say: Say
) -> dict[Pin, Path]:
    """The wheel of each pin in `folder`; fetched if it is not there.

    Of a package that has its source alone a wheel is built here, if it holds nothing compiled.
    scratch: an empty folder on the same disk.

    Raises:
        DownloadError: pip did not get one.
        HashMismatchError: a file is none of those that the pin has.
    """
    found = whole_wheels(pins, folder)
    say(f"{len(found)} of {len(pins)} packages are there")
    done_bytes, sources = 0, list[Pin]()
    for batch in _batches([pin for pin in pins if pin not in found]):
        wheels = _fetch(batch, of, scratch)
        sources += [pin for pin in batch if pin not in wheels]
        for path in sorted(scratch.glob("*.whl")):
            done_bytes += path.stat().st_size
            path.replace(folder / path.name)
        found |= whole_wheels(wheels, folder)
        if wrong := [pin for pin in wheels if pin not in found]:
            raise _wrong(wrong[0], folder)
        say(f"{len(found)} of {len(pins)} packages are there, {size(done_bytes)} fetched")
    for pin in sources:
        built = _build(pin, of, scratch)
        found[pin] = built.replace(folder / built.name)
        say(f"{pin.name} {pin.version}: built here from its source")
    return found


def whole_wheels(pins: Iterable[Pin], folder: Path) -> dict[Pin, Path]:
    """Those of the wheels in `folder` that are what a pin says."""
    wanted = {(pin.name, Version(pin.version)): pin for pin in pins}
    found = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        pin = wanted.get((canonicalize_name(name), version))
        if pin is not None and sha256_of(path) in pin.hashes:
            found[pin] = path
    return found


def _batches(pins: Sequence[Pin]) -> Iterator[list[Pin]]:
    """A few pins at a time, no two of one package, which pip would refuse."""
    rest = list(pins)
    while rest:
        batch: dict[str, Pin] = {}
        for pin in rest:
            if len(batch) < AT_A_TIME:
                batch.setdefault(pin.name, pin)
        yield list(batch.values())
        rest = [pin for pin in rest if pin not in batch.values()]


def _fetch(pins: Sequence[Pin], of: Target, scratch: Path) -> list[Pin]:
    """Fetch the wheels of these pins; those that have one."""
    rest = list(pins)
    while rest:
        done = _pip(
            *("download", "--only-binary=:all:", "--python-version", of.python),
            *("--implementation", "cp", *(f"--platform={tag}" for tag in of.tags())),
            "--ignore-requires-python",  # the pins are for it, whichever patch it has
            pins=rest,
            scratch=scratch,
        )
        if done.returncode == 0:
            break
        without = set(_NO_WHEEL.findall(done.stderr))
        left = [pin for pin in rest if f"{pin.name}=={pin.version}" not in without]
        if len(left) == len(rest):
            raise _failed(rest, of, done)
        rest = left
    return rest


def _build(pin: Pin, of: Target, scratch: Path) -> Path:
    """A wheel that is built from the pin's source; the same source gives the same bytes."""
    done = _pip("wheel", "--no-binary", pin.name, pins=[pin], scratch=scratch)
    built = next(iter(scratch.glob("*.whl")), None)
    if done.returncode != 0 or built is None:
        raise _failed([pin], of, done)
    if not built.name.endswith("-none-any.whl"):
        built.unlink()
        raise DownloadError(
            f"{pin.name} {pin.version}, which has no wheel for Python {of.python} on {of.platform} "
            "and whose source would have to be compiled there",
            "a package with such a wheel",
            "name another --python or --platform, or leave it out (--leave-out) and bring it there",
        )
    return built


def _pip(
    action: str, *options: str, pins: Sequence[Pin], scratch: Path
) -> subprocess.CompletedProcess[str]:
    """Have pip put what the pins name into `scratch`, with the hashes that they have."""
    listed = scratch / "fetch.txt"
    listed.write_text("\n".join(pin.line for pin in pins) + "\n")
    into = "--dest" if action == "download" else "--wheel-dir"
    command = [
        *(sys.executable, "-m", "pip", action, "--quiet", "--no-input", "--no-cache-dir"),
        *("--disable-pip-version-check", "--no-deps", "--retries=2", *options),
        *("--require-hashes", "--requirement", str(listed), into, str(scratch)),
    ]
    try:
        return run_program(command, {"TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": "315532800"})
    finally:
        listed.unlink(missing_ok=True)


def _failed(
    pins: Sequence[Pin], of: Target, done: subprocess.CompletedProcess[str]
) -> DownloadError:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return DownloadError(
        f"packages for Python {of.python} on {of.platform} that pip did not fetch: "
        + (" ".join(errors or lines[-3:]) or "it gave no reason"),
        "a package index that has " + ", ".join(f"{pin.name} {pin.version}" for pin in pins),
        "connect to one (`python -m pip config list` names it) and run this again: what was "
        "fetched stays",
    )


def _wrong(pin: Pin, folder: Path) -> HashMismatchError:
    for path in folder.glob("*.whl"):
        try:
            name, _, _, _ = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if canonicalize_name(name) == pin.name:
            path.unlink()
    return HashMismatchError(
        f"a wheel of {pin.name} {pin.version} with another hash, which was removed",
        "one of those that the lock has",
        "look at which package index pip is configured to use, then try again",
    )
