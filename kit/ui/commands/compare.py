"""`kit compare`: which of two releases, engines, concurrencies or studies is worse."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.ui.console import DONE, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json, add_list


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "compare",
        compare,
        "which of two releases (or studies) is worse",
        examples="studies/mine --level 24.08,24.07\nstudies/before studies/after",
    )
    parser.add_argument("study", type=Path, help="folder of a study, finished or not")
    parser.add_argument("other", type=Path, nargs="?", help="another one, run alike")
    parser.add_argument(
        "--by",
        choices=("release", "engine", "concurrency", "protocol", "study"),
        help="what to compare (release; study if two are given)",
    )
    add_list(parser, "--level", "the two to compare", metavar="24.08,24.07")
    add_list(parser, "--scenario", "only these (all)", metavar="NAME,NAME")
    add_json(parser)


def compare(args: Namespace) -> int:
    with busy("comparing"):
        found, overall = _compared(args)
    if args.json:
        print_json(found)
        return DONE
    print_text("\n".join(overall))
    return DONE


def _compared(args: Namespace) -> tuple[list[object], list[str]]:
    """The comparisons, and the sentences that say them."""
    import pandas as pd

    from kit.stats import compare as room
    from kit.stats.frames import requests_frame, trials_frame

    paths = [args.study, args.other] if args.other else [args.study]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    trials, requests = (
        pd.concat(
            [frame(path).assign(study=name) for path, name in zip(paths, names, strict=True)],
            ignore_index=True,
        )
        for frame in (trials_frame, requests_frame)
    )
    by = args.by or ("study" if args.other else "release")
    if args.scenario:
        trials = trials[trials["scenario"].isin(args.scenario)]
    levels = args.level or []
    found = room.compare(trials, requests, by=by, levels=levels)
    lines = [room.sentence(one) for one in found]
    if len(found) > 1:
        lines.append(room.overall(trials, by=by, levels=levels))
    return list(found), lines
