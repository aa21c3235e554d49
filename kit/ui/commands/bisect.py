"""`kit bisect`: every release at which a crash came or went."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.study.words import paragraph
from kit.ui.console import DONE, NOTHING_LEARNED, busy, print_json, print_text, remark
from kit.ui.options import Subparsers, add_command, add_json, add_list, add_traffic, traffic_of

#: Most trials of a release.
REPEATS = 20


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "bisect",
        bisect,
        "every release at which a crash came or went",
        about="Try releases, each time the one that tells most, until it is known where along the "
        "line a crash came and went. The same command with --out goes on where it was stopped.",
        examples="cancel-race\ncancel-race --release 24.05,24.08,24.10 --confidence 0.99",
    )
    parser.add_argument("scenario", help="`kit scenarios` lists them")
    add_list(parser, "--release", "releases (all that run here)", metavar="23.10,24.05")
    parser.add_argument("--confidence", type=float, default=0.95, help="(%(default)s)")
    parser.add_argument(
        "--detect",
        type=float,
        metavar="P",
        help="share of trials in which a release that dies does die (learned from the trials)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (studies/NAME-TIME)")
    add_traffic(parser, "What is not given is as the scenario says. One value each.")
    add_json(parser)


def bisect(args: Namespace) -> int:
    from kit.runner.bisect import bisect_study, flips_sentence
    from kit.servers.prepare import releases_here
    from kit.stats.bisect import Assumptions
    from kit.study.folder import StudyFolder
    from kit.study.scenarios import get_scenario
    from kit.ui.choices import choose, study_folder
    from kit.ui.results import advice_lines
    from kit.ui.study_view import Study

    get_scenario(args.scenario)  # before anything is fetched
    spec = choose(
        args.release or releases_here(remark),
        args.scenario,
        name=f"bisect-{args.scenario}",
        repeats=REPEATS,
        **traffic_of(args),
    )
    folder = args.out or study_folder(spec)
    remark(f"study folder: {folder}")
    found = bisect_study(
        spec,
        folder,
        confidence=args.confidence,
        assume=Assumptions(detect=args.detect),
        on_trial=lambda now: remark(f"{now.trials:3} trials: {flips_sentence(now)}"),
    )
    if args.json:
        print_json(found)
    else:
        with busy("reading the study"):
            advice = advice_lines(Study(StudyFolder(folder)))
        print_text("\n".join([paragraph(flips_sentence(found)), *advice]))
        print_text(f"\nreport: kit report {folder}")
    return DONE if found.trials else NOTHING_LEARNED
