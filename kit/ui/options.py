"""Options that several commands share, and how their texts are read.

An option that takes a list is given as `--release 24.05,24.10`, or several times.
"""

from __future__ import annotations

import argparse
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kit.errors import SpecError
from kit.study.grid import FIELDS, several
from kit.study.hybrids import names_in
from kit.ui.arguments import MOST_MINUTES, MOST_REQUESTS

#: What `parser.add_subparsers()` returns; its class is private to argparse.
Subparsers = Any
Command = Callable[[Namespace], int]


def add_command(
    commands: Subparsers,
    name: str,
    function: Command,
    summary: str,
    *,
    about: str = "",
    examples: str = "",
) -> ArgumentParser:
    """A command of its own parser. examples: lines of arguments, the command's name left out."""
    lines = [f"  %(prog)s {line.strip()}" for line in examples.strip().splitlines()]
    made: ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=about or summary[0].upper() + summary[1:] + ".",
        epilog="\n".join(["examples:", *lines]) if lines else None,
        formatter_class=_Formatter,
    )
    made.set_defaults(function=function)
    return made


class _Formatter(argparse.HelpFormatter):
    """Wraps the description; an example that is too long goes on in the next line, as in a
    shell."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        head, *lines = text.splitlines()
        if head != "examples:":
            return super()._fill_text(text, width, indent)
        broken = (
            " \\\n".join(
                textwrap.wrap(
                    line.strip(),
                    width - 2,
                    initial_indent="  ",
                    subsequent_indent="      ",
                    break_on_hyphens=False,
                    break_long_words=False,
                )
            )
            for line in lines
        )
        return "\n".join([head, *broken])


def words(text: str) -> list[str]:
    """The words of "24.05, 24.10"; "frontend 26.09 on core 24.10" is one.

    Raises:
        SpecError: there is none.
    """
    found = names_in(text)
    if not found:
        raise SpecError(f"the list {text!r}", "one name or more, with commas between", "name one")
    return found


def add_list(
    parser: argparse._ActionsContainer,
    name: str,
    help: str,
    *,
    metavar: str,
    read: Callable[[str], Any] = words,
) -> None:
    """An option with values in a list: commas between them, or the option several times."""
    parser.add_argument(name, action="extend", type=read, metavar=metavar, help=help)


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def add_folder(parser: ArgumentParser, name: str) -> None:
    """Where a new study goes."""
    parser.add_argument(
        "--name", default=name, help="the first part of the folder's name (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/NAME-TIME)")


def add_reports(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--reports",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="where the report goes (%(default)s)",
    )


def add_grid(parser: ArgumentParser) -> None:
    """Which servers and scenarios a study tries, and how often."""
    add_list(
        parser, "--release", "releases; all, or here: all that run here", metavar="24.05,24.10"
    )
    add_list(
        parser,
        "--server",
        "images (25.10: NVIDIA's), or URLs of what runs already",
        metavar="URL,IMAGE",
    )
    add_list(parser, "--scenario", "scenarios; all", metavar="NAME,NAME")
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="trials of each cell (3; 1 of a URL that nobody restarts)",
    )
    parser.add_argument("--parallel", type=int, metavar="N", help="trials at a time (one a core)")


def add_on(parser: ArgumentParser, what: str) -> None:
    """The option for a Dask cluster. what: it is for."""
    parser.add_argument("--on", metavar="ADDRESS", help=f"{what} (docs/dask.md)")


def add_traffic(parser: ArgumentParser, about: str) -> None:
    """An option for each word of kit.study.grid.FIELDS, each with one value or a list.

    about: what holds for a word that is not given.
    """
    group = parser.add_argument_group("traffic", about)
    for row in FIELDS.values():
        unit = f" ({row.unit})" if row.unit and row.unit not in row.help else ""
        group.add_argument(
            option_of(row.name),
            action="extend",
            type=partial(several, is_text=row.is_text),
            metavar="X,X" if not row.is_text else "NAME",
            help=f"{row.help}{unit}; {row.expected}".replace("%", "%%"),
        )


def option_of(name: str) -> str:
    """The option for a word of traffic: "--output-tokens"."""
    return f"--{name.replace('_', '-')}"


def traffic_of(args: Namespace) -> dict[str, Any]:
    """The words of traffic that were given, with their values as they were typed."""
    return {name: getattr(args, name) for name in FIELDS if getattr(args, name, None) is not None}


def add_cap(parser: ArgumentParser) -> None:
    """How much may be sent, for how long, and whether to ask before."""
    group = parser.add_argument_group(
        "budget",
        f"for a server that runs already on another machine {MOST_REQUESTS:,} requests and "
        f"{MOST_MINUTES:g} minutes if nothing is said, else without limit",
    )
    group.add_argument("--most-requests", type=int, metavar="N", help="stop before more are sent")
    group.add_argument("--most-minutes", type=float, metavar="N", help="stop after so long")
    group.add_argument(
        "--yes", action="store_true", help="send to another machine's server without asking"
    )


def add_test(parser: ArgumentParser) -> None:
    """Of a sequential study; what is not given is as in kit.study.sequential.TrialTest."""
    group = parser.add_argument_group("the test that decides a cell")
    for name, default, what in (
        ("crashes", 0.5, "a cell crashes if a trial dies with this chance or more"),
        ("survives", 0.02, "it survives if a trial dies with this chance or less"),
        ("alpha", 0.05, "chance to say crashes of one that survives"),
        ("beta", 0.05, "chance to say survives of one that crashes"),
    ):
        group.add_argument(f"--{name}", type=float, metavar="P", help=f"{what} ({default})")
