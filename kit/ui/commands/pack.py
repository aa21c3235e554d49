"""`kit pack`: pack the records of a study's finished trials into Parquet."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from kit.ui.console import DONE, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "pack",
        pack,
        "pack the records of a study's finished trials into Parquet",
        about="Pack the records of finished trials into Parquet, about a tenth of their size. The "
        "study reads as before. Killed in between, it goes on where it was.",
        examples="studies/study-20260101-120000\nstudies/study-20260101-120000 --remove",
    )
    parser.add_argument("study", type=Path, help="folder of a study")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove a trial's Arrow files once its packed copy was read back and compared",
    )
    add_json(parser)


def pack(args: Namespace) -> int:
    from kit.study.pack import pack_study
    from kit.study.recorded import open_study

    study = open_study(args.study)
    with busy("packing"):
        done = pack_study(study, remove=args.remove)
    if args.json:
        print_json(done)
        return DONE
    packed = [trial for trial in done if not trial.left]
    requests = sum(trial.requests for trial in packed)
    size = sum(trial.packed_bytes for trial in packed)
    print_text(
        f"packed: {len(packed)} of {len(done)} trials, {requests:,} requests, {size / 1e6:,.1f} MB"
    )
    before = [trial for trial in packed if trial.arrow_bytes]
    if before:
        was = sum(trial.arrow_bytes for trial in before)
        what = "removed" if args.remove else "kept beside it; --remove removes them"
        print_text(f"Arrow files: {was / 1e6:,.1f} MB, {what}")
    for trial in done:
        if trial.left:
            print_text(f"left as it is: {trial.trial_id}: {trial.left}")
    return DONE
