"""`kit report`: write the report of a study folder, once or for as long as the study runs."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kit.cleaning import clean_json
from kit.ui.console import DONE, busy, print_text, remark
from kit.ui.options import Subparsers, add_command, add_json

if TYPE_CHECKING:
    from kit.study.folder import StudyFolder

#: How often a study that is watched is looked at, and a browser that shows it loads it anew.
LOOK_S: Final = 2.0
REFRESH_S: Final = 10.0
#: Writing takes at most this share of a core, so that trials are not disturbed.
SHARE: Final = 0.25


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "report",
        report,
        "write the report of a study folder",
        about="Write one HTML file, and the same result as JSON, of a study, finished or not.",
        examples="studies/study-20260101-120000\n"
        "data/recorded/release_map --beside data/recorded/frontends_of_2026 --pdf\n"
        "studies/study-20260101-120000 --watch",
    )
    parser.add_argument("study", type=Path, help="folder of a study, finished or not")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder (%(default)s)")
    parser.add_argument(
        "--pdf", action="store_true", help="print it too, with a Chromium of this machine"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write it anew after each trial until the study is finished; the page reloads itself",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="STUDY",
        help="another study: its cells stand in the map where this one has none (hybrids)",
    )
    add_json(parser)


def report(args: Namespace) -> int:
    from kit.study.recorded import open_study

    study = open_study(args.study)  # a wrong path is named before pandas is loaded
    beside = open_study(args.beside) if args.beside else None
    if args.watch:
        _watch(study, args.out, beside)
    written = _write(study, args.out, beside=beside)
    if args.pdf:
        from kit.report.pdf import write_pdf

        with busy("printing it"):
            print_text(str(write_pdf(written)))
    if args.json:
        print(clean_json((args.out / "latest.json").read_bytes()))
    else:
        print_text(str(written))
    return DONE


def _write(
    study: StudyFolder,
    into: Path,
    *,
    refresh_s: float | None = None,
    beside: StudyFolder | None = None,
) -> Path:
    with busy("writing the report"):
        from kit.report.page import write_report

        return write_report(study, into, refresh_s=refresh_s, beside=beside)


def _watch(study: StudyFolder, into: Path, beside: StudyFolder | None) -> None:
    """Write the report after each trial until the study is finished, or Ctrl-C."""
    from kit.ui.live import read_again

    last = -1
    while not study.finished:
        done = sum(trial.result is not None for trial in study.trials())
        if done != last:
            began = time.process_time()
            written = read_again(lambda: _write(study, into, refresh_s=REFRESH_S, beside=beside))
            took_s = time.process_time() - began
            remark(f"{time.strftime('%H:%M:%S')}  {done} trials ended  {written}")
            last = done
            time.sleep(took_s / SHARE)
        time.sleep(LOOK_S)
