"""The command line: `kit COMMAND`, or `python -m kit COMMAND`.

Each module of kit/ui/commands adds its commands with `add`, and sets the function that runs each.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from kit import __version__
from kit.errors import KitError
from kit.ui.commands import (
    advise,
    bisect,
    bundle,
    catalogs,
    clean,
    compare,
    dev,
    diagnose,
    doctor,
    history,
    investigate,
    limit,
    load,
    pack,
    preflight,
    report,
    shrink,
    soak,
    study,
    vllm,
)
from kit.ui.console import BY_SIGNAL, DONE, FAILED, print_error
from kit.ui.process_limits import check_limits, lacking

#: In the order in which the help lists them.
FAMILIES = (
    study,
    bisect,
    shrink,
    investigate,
    limit,
    soak,
    load,
    report,
    pack,
    compare,
    history,
    preflight,
    advise,
    diagnose,
    catalogs,
    doctor,
    clean,
    vllm,
    bundle,
    dev,
)
EXIT_CODES = """\
exit codes:
  0    done
  1    an error of the kit, named on standard error with a hint
  2    wrong usage
  3    run --fail-on-crash, and a server died; load, and the server died or
       answers no more; soak, and it failed
  4    nothing was learned: every trial failed on our side, or no request was
       answered; soak, and it is not decided
  130  stopped by Ctrl-C (143: by SIGTERM); what was recorded is kept
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    stopped_by: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # os.write: the signal may have come in the middle of a print.
        os.write(sys.stderr.fileno(), b"\nstopping, and cleaning up\n")
        stopped_by.append(number)
        if len(stopped_by) == 1:  # a second one must not interrupt the cleaning up
            raise KeyboardInterrupt

    # A terminal that closes, or a supervisor's kill, ends servers as cleanly as Ctrl-C does;
    # what was ignored before (nohup) stays ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        args = parser().parse_args(arguments)
        check_limits()
        code: int = args.function(args)
        sys.stdout.flush()
    except KitError as error:
        print_error(error)
        return FAILED
    except KeyboardInterrupt:
        return BY_SIGNAL + stopped_by[0]
    except BrokenPipeError:  # the reader of a pipe has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (OSError, MemoryError) as error:  # what the machine refuses is no fault of the kit's
        print_error(lacking(error))
        return FAILED
    return code


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; a parsed command has its `function`."""
    called = Path(sys.argv[0]).name
    made = argparse.ArgumentParser(
        prog="kit" if called == "kit" else "python -m kit",
        description="Reproduce, measure and explain crashes of an LLM server under load.",
        epilog=EXIT_CODES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=18
        ),
    )
    made.add_argument("--version", action="version", version=f"triton-crash-kit {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.add(commands)
    return made


if __name__ == "__main__":
    sys.exit(main())
