"""`kit advise`: before an upgrade, what is known of a release under some traffic."""

from __future__ import annotations

from argparse import Namespace

from kit.ui.console import DONE, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "advise",
        advise,
        "ask before an upgrade: what kills a release under some traffic, and which are better",
        examples="24.05 grpc-stream-cancel\n24.10 http-generate grpc-stream",
    )
    parser.add_argument("release", help="a release or a Triton version: 24.05, 2.46.0")
    parser.add_argument(
        "traffic", nargs="+", help="scenarios, or protocols for all faults that use them"
    )
    add_json(parser)


def advise(args: Namespace) -> int:
    from kit.ui.advising import advise as ask

    found = ask(release=args.release, traffic=args.traffic)
    if args.json:
        print_json(found.to_json())
    else:
        print_text(repr(found))
    return DONE
