"""`kit report`: write the report of a study folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.cleaning import clean_json
from kit.ui.console import DONE, busy, print_text
from kit.ui.options import Subparsers, add_command, add_json


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "report",
        report,
        "write the report of a study folder",
        about="Write one HTML file, and the same result as JSON, of a study, finished or not.",
        examples="studies/study-20260101-120000\ndata/recorded/release_map --out /tmp/reports",
    )
    parser.add_argument("study", type=Path, help="folder of a study, finished or not")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder (%(default)s)")
    add_json(parser)


def report(args: Namespace) -> int:
    from kit.study.recorded import open_study

    study = open_study(args.study)  # a wrong path is named before pandas is loaded
    with busy("writing the report"):
        from kit.report.page import write_report

        written = write_report(study, args.out)
    if args.json:
        print(clean_json((args.out / "latest.json").read_bytes()))
    else:
        print_text(str(written))
    return DONE
