"""`kit compare`: which of two releases, engines, concurrencies or studies is worse."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.study.words import listing, paragraph
from kit.ui.console import DONE, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json, add_list


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "compare",
        compare,
        "which of two releases (or studies) is worse",
        examples="studies/mine --level 24.08,24.07\nstudies/before studies/after --out reports",
    )
    parser.add_argument("study", type=Path, help="folder of a study, finished or not")
    parser.add_argument("other", type=Path, nargs="?", help="another one, run alike")
    parser.add_argument(
        "--by",
        choices=("release", "engine", "concurrency", "protocol", "study"),
        help="what to compare (release; study if two are given that share a release)",
    )
    add_list(parser, "--level", "the two to compare", metavar="24.08,24.07")
    add_list(parser, "--scenario", "only these (all)", metavar="NAME,NAME")
    parser.add_argument("--out", type=Path, help="write it as a report into this folder")
    add_json(parser)


def compare(args: Namespace) -> int:
    with busy("comparing"):
        from kit.report.compare import ComparedStudies, usual_by, write_comparison
        from kit.study.recorded import open_study

        paths = [args.study, args.other] if args.other else [args.study]
        studies = tuple(map(open_study, paths))
        both = ComparedStudies(
            studies=studies,
            by=args.by or usual_by(studies),
            levels=tuple(args.level or ()),
            scenarios=tuple(args.scenario or ()),
        )
        said = both.sentences
        written = write_comparison(both, args.out) if args.out else None
    if args.json:
        print_json(both.found)
        return DONE
    lines = [paragraph(text) for text in said]
    if differing := [name for name, _, _ in both.differences]:
        how = "" if written else "; --out FOLDER writes a report that shows how"
        lines.append(paragraph(f"The studies differ in {listing(differing)} as well{how}."))
    print_text("\n".join([*lines, *([f"\nreport: {written}"] if written else [])]))
    return DONE
