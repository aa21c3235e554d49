"""`kit investigate`: run the study of a notebook, the notebook on it, and its report."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from kit.study.grid import as_grid
from kit.study.words import listing
from kit.ui.commands.study import run_shown
from kit.ui.console import print_text, remark
from kit.ui.options import Subparsers, add_command, add_grid, add_list, add_reports


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "investigate",
        investigate,
        "run the study of a notebook, the notebook on it, and its report",
        about="What is not given is as the notebook's own parameters cell says.",
        examples="\n--release 24.05,24.10 --repeats 1\n"
        "--notebook notebooks/03_compare_releases.ipynb",
    )
    add_grid(parser)
    parser.add_argument(
        "--notebook",
        type=Path,
        metavar="FILE",
        help="(notebooks/01_reproduce_the_crash.ipynb)",
    )
    add_reports(parser)
    add_list(parser, "--concurrency", "numbers of clients", metavar="1,16")
    parser.add_argument("--requests", type=int, metavar="N", help="requests of a trial")


def _numbers(texts: list[str] | None) -> list[object] | None:
    """As the notebook's cell has them: numbers, not texts."""
    return None if texts is None else list(as_grid({"concurrency": texts})["concurrency"])


def investigate(args: Namespace) -> int:
    """Run the study that the notebook describes, then the notebook on it.

    The study comes first and here, since a terminal shows its progress and a Ctrl-C ends it
    cleanly; the notebook then finds all trials done.
    """
    from kit.ui.choices import study_folder
    from kit.ui.notebooks import FIRST_LIGHT, execute, notebook_spec, parameters_of
    from kit.ui.results import print_study
    from kit.ui.server_words import ALL, HERE
    from kit.ui.stand_ins import best_here

    notebook = args.notebook or FIRST_LIGHT
    options = {
        "releases": args.release,
        "scenarios": args.scenario,
        "concurrency": _numbers(args.concurrency),
        "requests": args.requests,
        "repeats": args.repeats,
    }
    given = {name: value for name, value in options.items() if value is not None}
    wanted = {**parameters_of(notebook), **given}
    left_out: dict[str, str] = {}
    if args.release is None and not {ALL, HERE} & set(wanted["releases"]):
        # Nobody asked for these very releases: the best that this machine can is next to them.
        releases, left_out = best_here(wanted["releases"], wanted["scenarios"])
        for name, why in left_out.items():
            remark(f"{name} is left out: {why}")
        if left_out:
            remark(f"running {listing(releases)}; `python -m kit doctor` tells how to get the rest")
            wanted["releases"] = given["releases"] = releases
    spec = replace(notebook_spec(wanted), left_out=left_out)
    folder = study_folder(spec)
    study = run_shown(spec, folder, args.parallel)
    remark(f"executing {notebook.name} on it")
    where = {"study": str(folder.resolve()), "reports": str(args.reports.resolve())}
    executed = execute(notebook, {**given, "mode": "live", **where}, into=args.reports)
    code, _ = print_study(study, as_json=False, report=args.reports / "latest.html")
    print_text(f"notebook: {executed}")
    return code
