"""`kit clean`: remove what a killed run or a power cut left behind."""

from __future__ import annotations

from argparse import Namespace

from kit.ui.console import DONE, busy, print_json
from kit.ui.options import Subparsers, add_command, add_json


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands, "clean", clean, "remove what a killed run or a power cut left behind"
    )
    add_json(parser)


def clean(args: Namespace) -> int:
    from kit.servers.traces import sweep

    with busy("looking for what was left"):
        removed = sweep()
    if args.json:
        print_json(removed)
        return DONE
    for trace in removed:
        print(
            f"run {trace.run}: {len(trace.processes)} processes, "
            f"{len(trace.shared_memory)} shared-memory regions, {len(trace.folders)} folders"
        )
    print("nothing was left behind" if not removed else "removed")
    return DONE
