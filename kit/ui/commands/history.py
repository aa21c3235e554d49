"""`kit history`: all studies of a folder, and what has changed between them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.study.encoding import plain
from kit.ui.console import DONE, NOTHING_LEARNED, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json, add_list


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "history",
        history,
        "all studies of a folder: does a release still crash as it did?",
        about="Read every study below a folder, list its cells by time, and compare the earliest "
        "and the latest study of each cell that was run more than once.",
        examples="\nstudies --release 24.05,24.10 --scenario cancel-race",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("studies"), help="(%(default)s)"
    )
    add_list(parser, "--release", "only these (all)", metavar="24.05,24.10")
    add_list(parser, "--scenario", "only these (all)", metavar="NAME,NAME")
    add_json(parser)


def history(args: Namespace) -> int:
    with busy("reading the studies"):
        from kit.ui import histories

        found = histories.history(
            args.folder, release=args.release or (), scenario=args.scenario or ()
        )
        text = "" if args.json else repr(found)
    if args.json:
        table = found.table.assign(when=found.table["when"].map(str, na_action="ignore"))
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        print_json(
            {
                "cells": [{name: plain(value) for name, value in row.items()} for row in rows],
                "changes": found.changes,
                "skipped": {str(path): why for path, why in found.skipped.items()},
            }
        )
    else:
        print_text(text)
    return DONE if len(found.table) else NOTHING_LEARNED
