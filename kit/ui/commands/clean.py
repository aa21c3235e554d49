"""`kit clean`: remove what a killed run or a power cut left behind."""

from __future__ import annotations

from argparse import Namespace

from kit.ui.console import DONE, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands, "clean", clean, "remove what a killed run or a power cut left behind"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what that would be, and why it is sure"
    )
    add_json(parser)


def clean(args: Namespace) -> int:
    from kit.servers.processes import SHM
    from kit.servers.traces import sweep

    with busy("looking for what was left"):
        traces = sweep(dry_run=args.dry_run)
    if args.json:
        print_json(traces)
        return DONE
    for trace in traces:
        print_text(
            f"run {trace.run}: {len(trace.processes)} processes, "
            f"{len(trace.shared_memory)} shared-memory regions, {len(trace.folders)} folders, "
            f"{len(trace.containers)} containers"
            + ("; its container engine does not answer" if trace.unreached else "")
        )
        if args.dry_run:
            print_text(f"  sure, since {trace.why}")
            names = [f"process {pid}" for pid in trace.processes]
            names += [str(SHM / name) for name in trace.shared_memory]
            names += [f"container {name}" for name in trace.containers]
            print_text("\n".join(f"  {name}" for name in [*names, *trace.folders]))
    verb = "would be removed" if args.dry_run else "removed"
    print_text(verb if traces else "nothing was left behind")
    return DONE
