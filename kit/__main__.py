"""`python -m kit COMMAND`, and `kit COMMAND`: the command line (kit.ui.cli) as a whole process."""

from __future__ import annotations

import os
import signal
import sys

_STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def _by_default(numbers: tuple[signal.Signals, ...]) -> None:
    """Let these signals end the process at once, without Python's traceback; what was ignored
    before (nohup) stays ignored."""
    for number in numbers:
        if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(number, signal.SIG_DFL)


def _open_standard_files() -> None:
    """Have input, output and errors lead somewhere: else the first file that is opened is one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def main() -> int:
    """Run the command of this process's arguments; its exit code."""
    _open_standard_files()
    # Until the command line listens to them: nothing runs yet that would have to be ended.
    _by_default(_STOPPING)
    from kit.ui.cli import main as command

    try:
        return command()
    finally:
        _by_default(_STOPPING)  # nothing runs any more; only Python itself is still to end


if __name__ == "__main__":
    sys.exit(main())
