"""What runs as `unbundle.pyz` on a machine that has no kit yet; the standard library is enough.

    python3 unbundle.pyz [--venv ENV] [--manifest-sha256 SHA256]

Compares every hash of the bundle beside it, puts its pieces together, makes the environment if
that is asked for, and hands over to the kit that is then there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from kit.cleaning import clean_text
from kit.errors import KitError
from kit.servers.bundle.install import install_kit
from kit.servers.bundle.opened import open_bundle


def main(arguments: list[str] | None = None) -> int:
    here = Path(sys.argv[0]).absolute().parent
    parser = argparse.ArgumentParser(
        prog="python3 unbundle.pyz",
        description="Check the bundle beside this file, and install the kit out of it.",
    )
    parser.add_argument("--bundle", type=Path, default=here, metavar="DIR", help="its folder")
    parser.add_argument("--into", type=Path, metavar="DIR", help="where its files go (DIR/files)")
    parser.add_argument("--venv", type=Path, metavar="ENV", help="make this environment")
    parser.add_argument("--manifest-sha256", metavar="SHA256", help="what it must have")
    args = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # the installers end with this, as by Ctrl-C
        signal.signal(number, _stop)
    try:
        opened = open_bundle(args.bundle, args.into, args.manifest_sha256, _say)
        if args.venv is None:
            _say(f"every file is whole; python3 {sys.argv[0]} --venv ENV installs the kit")
            return 0
        kit = install_kit(opened.files, opened.manifest, args.venv.absolute(), _say)
    except KitError as error:
        said = f"error: {error.given}\n  expected: {error.expected}\n  hint: {error.hint}"
        _say(said)
        return 1
    except KeyboardInterrupt:
        return 130
    return _hand_over(kit, args)


def _hand_over(kit: Path, args: argparse.Namespace) -> NoReturn:
    """Become the kit, which fills its cache: signals reach it, and nothing is left of this."""
    rest = ["--into", str(args.into.absolute())] if args.into else []
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    os.execve(kit, [str(kit), "unbundle", str(args.bundle.absolute()), *rest], kept)  # noqa: S606


def _stop(number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(f"{clean_text(text)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
