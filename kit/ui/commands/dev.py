"""`kit dev`: what only those who maintain the kit's own data need."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from kit.ui.console import DONE, FAILED, busy
from kit.ui.options import Subparsers, add_command


def add(commands: Subparsers) -> None:
    family = commands.add_parser(
        "dev", help="for those who maintain the kit's data", description=__doc__
    )
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")

    measured = add_command(
        actions,
        "measured",
        write_measured,
        "count the deaths of studies by known crash, into data/crashes.yaml",
        examples="data/recorded/release_map data/recorded/cancelled_streams "
        "data/recorded/frontends_of_2026",
    )
    measured.add_argument(
        "study",
        nargs="+",
        type=Path,
        help="live or recorded; a release under a scenario counts from the first that has it",
    )
    measured.add_argument("--catalog", type=Path, help=argparse.SUPPRESS)

    copy = add_command(
        actions,
        "record",
        record_study,
        "write the small copy of a finished study that data/recorded/ keeps",
        examples="studies/first-light data/recorded/first_light --about about.md",
    )
    copy.add_argument("study", type=Path, help="folder of a study that is done")
    copy.add_argument("into", type=Path, help="a new folder")
    copy.add_argument(
        "--about",
        type=Path,
        required=True,
        help="a text file for the codebook: what the study shows, and how it was run",
    )
    copy.add_argument(
        "--trials-only", action="store_true", help="leave out requests, client and samples"
    )

    add_command(
        actions,
        "hero",
        draw_hero,
        "draw data/figures/hero.png: the recorded release map, and hybrids beside it",
    )

    build = add_command(
        actions,
        "build",
        describe_build,
        "print the row of an unpacked wheel for data/builds.yaml",
        examples="24.05 unpacked 3f1",
    )
    build.add_argument("release", help="24.05")
    build.add_argument("folder", type=Path, help="where its wheel lies unpacked")
    build.add_argument(
        "frame0", help="last three hex digits of frame 0 in a stack that this release printed"
    )

    errors = add_command(
        actions,
        "error-rates",
        error_rates,
        "simulate servers of known truth: how often the sequential tests are wrong",
    )
    errors.add_argument(
        "--servers", type=int, default=20_000, metavar="N", help="a row (%(default)s)"
    )

    add_command(
        actions,
        "course",
        derive_course,
        "derive the students' notebooks of the course from those with the solutions",
    )

    outputs = add_command(
        actions,
        "outputs",
        keep_outputs,
        "run the notebooks from recorded data, and keep the outputs that a reader finds in them",
        examples="notebooks/03_compare_releases.ipynb",
    )
    outputs.add_argument("notebooks", nargs="*", type=Path, help="all of them, if none is named")

    past = add_command(
        actions,
        "history",
        compare_history,
        "compare data/course/history.yaml with a clone of the repository that it tells of",
        examples="python_backend",
    )
    past.add_argument("clone", type=Path, help="a git clone with its release branches")

    reuse = add_command(
        actions,
        "address-reuse",
        measure_addresses,
        "measure how often a request gets a live one's address, as the course's part 2 shows",
        examples="23.10",
    )
    reuse.add_argument("release", help="23.10")
    reuse.add_argument("--requests", type=int, default=60, help="a number of clients (%(default)s)")
    reuse.add_argument("--out", type=Path, help="a Parquet file for the rows")


def derive_course(args: Namespace) -> int:
    from kit.ui.course.student import write_students

    for path in write_students():
        print(path.name)
    return DONE


def keep_outputs(args: Namespace) -> int:
    from kit.ui.kept import keep, notebooks_with_outputs

    for path in args.notebooks or notebooks_with_outputs():
        with busy(f"running {path.name}"):
            found = keep(path.resolve())
        print(f"{path.name}: {f'wrote {len(found)} outputs' if found else 'as it was'}")
    return DONE


def compare_history(args: Namespace) -> int:
    from kit.ui.course.history import differences

    found = differences(args.clone)
    print("\n".join(found) or "the history agrees with the clone")
    return FAILED if found else DONE


def measure_addresses(args: Namespace) -> int:
    from tempfile import TemporaryDirectory

    import pandas as pd

    from kit.runner.address_reuse import as_rows, measure

    with TemporaryDirectory() as folder, busy("sending requests"):
        found = measure(args.release, Path(folder) / "server", requests=args.requests)
    table = pd.DataFrame(as_rows(found))
    print(table.groupby("clients")["reused"].agg(["sum", "size", "mean"]).to_string())
    if args.out:
        table.to_parquet(args.out)
    return DONE


def write_measured(args: Namespace) -> int:
    from kit.crash.catalog import CATALOG
    from kit.crash.measured import update_catalog

    with busy("reading the studies"):
        table, unexplained = update_catalog(*args.study, catalog=args.catalog or CATALOG)
    for crash, rows in table.items():
        died = ", ".join(f"{release} {d} of {n}" for release, (n, d) in rows.items())
        print(f"{crash}: {died}")
    for trial in unexplained:
        reason = trial.result.reason if trial.result else ""
        print(f"no known crash: {trial.spec.trial_id}: {reason}")
    return DONE


def record_study(args: Namespace) -> int:
    from kit.study import recorded
    from kit.study.files import read_text

    with busy("reading the study"):
        written = recorded.record_study(
            recorded.open_study(args.study),
            args.into,
            about=read_text(args.about).rstrip(),
            tables=() if args.trials_only else recorded.TABLES,
        )
    print(written.path)
    return DONE


def draw_hero(args: Namespace) -> int:
    from kit.crash.catalog import MEASURED_IN
    from kit.report.figures import map_drawing
    from kit.study.paths import DATA
    from kit.study.recorded import open_study

    with busy("drawing"):
        map_drawing(*map(open_study, MEASURED_IN)).save(DATA / "figures/hero.png")
    print(DATA / "figures/hero.png")
    return DONE


def describe_build(args: Namespace) -> int:
    from kit.crash.stack.buildtable import build_row

    print(build_row(args.release, args.folder, args.frame0), end="")
    return DONE


def error_rates(args: Namespace) -> int:
    from kit.stats.sequential import error_table

    with busy("simulating"):
        text = error_table(args.servers)
    print(text, end="")
    return DONE
