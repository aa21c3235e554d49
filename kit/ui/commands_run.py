"""Parsed arguments in, an exit code out: the commands of `python -m kit` that run studies.

Results go to standard output, progress and remarks to standard error.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.study.encoding import from_json
from kit.study.spec import StudySpec
from kit.ui.console import print_json, read_text, remark

if TYPE_CHECKING:
    from kit.study.folder import StudyFolder
    from kit.study.sequential import TrialTest

CRASHED = 3
#: Of a cell that a sequential test cannot decide; see kit.study.sequential for what is usual.
MOST_TRIALS = 12
#: Of a cell of the map: a death in its first trial decides that it crashes, and says little of
#: how soon.
LEAST_TRIALS = 5


def run(args: Namespace) -> int:
    from kit.ui.choices import study_folder

    spec = _spec(args)
    folder = args.out or study_folder(spec)
    return _told(args, _run_shown(spec, folder, args.parallel))


def release_map(args: Namespace) -> int:
    """Every embedded release under every scenario, each cell until it is decided; its report."""
    from kit.report.page import write_report
    from kit.servers.prepare import releases_here
    from kit.ui.choices import ALL, study_folder

    args.release = args.release or releases_here(remark)
    args.scenario = args.scenario or [ALL]
    args.sequential = True
    args.least = min(LEAST_TRIALS, args.repeats or MOST_TRIALS)
    spec = _spec(args)
    study = _run_shown(spec, args.out or study_folder(spec), args.parallel)
    remark(f"report: {write_report(study, args.reports)}")
    return _told(args, study)


def bisect(args: Namespace) -> int:
    """Every flip of one scenario along the release line."""
    from kit.runner.bisect import bisect_study, flips_sentence
    from kit.servers.prepare import releases_here
    from kit.stats.bisect import Assumptions
    from kit.ui.choices import choose, study_folder

    spec = choose(
        args.release or releases_here(remark),
        args.scenario,
        name=f"bisect-{args.scenario}",
        concurrency=args.concurrency,
        repeats=args.repeats,
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
        print(flips_sentence(found))
    return 0


def _told(args: Namespace, study: StudyFolder) -> int:
    """Print a study's result; the exit code."""
    from kit.report.cells import result_document  # pandas; a mistake is told sooner
    from kit.report.table import text_table

    document = result_document(study)
    if study.spec.sequential and study.trials():
        from kit.report.release_map import what_it_cost

        remark(what_it_cost(study))
    if args.json:
        print_json({"folder": str(study.path), **document})
    else:
        print(text_table(document["cells"]))
    crashed = any(cell["crashed"] for cell in document["cells"])
    return CRASHED if args.fail_on_crash and crashed else 0


def investigate(args: Namespace) -> int:
    """Run the study that the notebook describes, then the notebook on it.

    The study comes first and here, since a terminal shows its progress and a Ctrl-C ends it
    cleanly; the notebook then finds all trials done.
    """
    from kit.report.cells import result_cells
    from kit.report.table import text_table
    from kit.ui.choices import study_folder
    from kit.ui.notebooks import FIRST_LIGHT, execute, notebook_spec, parameters_of

    notebook = args.notebook or FIRST_LIGHT
    options = {
        "releases": args.release,
        "scenarios": args.scenario,
        "concurrency": args.concurrency,
        "requests": args.requests,
        "repeats": args.repeats,
    }
    given = {name: value for name, value in options.items() if value is not None}
    spec = notebook_spec({**parameters_of(notebook), **given})
    folder = study_folder(spec)
    study = _run_shown(spec, folder, args.parallel)
    remark(f"executing {notebook.name} on it")
    where = {"study": str(folder.resolve()), "reports": str(args.reports.resolve())}
    executed = execute(notebook, {**given, "mode": "live", **where}, into=args.reports)
    print(text_table(result_cells(study)))
    print(f"notebook: {executed}\nreport:   {args.reports / 'latest.html'}")
    return 0


def _spec(args: Namespace) -> StudySpec:
    from kit.ui.choices import choose

    if args.spec:
        return from_json(read_text(args.spec).encode(), StudySpec)
    missing = [f"--{name}" for name in ("release", "scenario") if not getattr(args, name)]
    if missing:
        raise SpecError(
            f"a study without {' and '.join(missing)}",
            "at least one of each",
            "name them (python -m kit releases and scenarios list them), or give --spec FILE",
        )
    sequential = _test(args)
    default_repeats = MOST_TRIALS if sequential else 3
    return choose(
        args.release,
        args.scenario,
        name=args.name,
        concurrency=args.concurrency,
        requests=args.requests,
        repeats=args.repeats if args.repeats is not None else default_repeats,
        sequential=sequential,
        least_repeats=args.least,
        seed=args.seed or 0,
        engine=args.engine,
    )


def _test(args: Namespace) -> TrialTest | None:
    """The test of a sequential study: the usual one, but for what was given."""
    from kit.study.sequential import TrialTest

    given = {
        name: getattr(args, name)
        for name in ("alpha", "beta", "survives", "crashes")
        if getattr(args, name) is not None
    }
    if given and not args.sequential:
        raise SpecError(
            f"--{' and --'.join(given)} for a study of a fixed number of trials",
            "a sequential one, which these are about",
            "add --sequential, or leave them out",
        )
    return TrialTest(**given) if args.sequential else None


def _run_shown(spec: StudySpec, folder: Path, parallel: int | None) -> StudyFolder:
    """Run a study with its progress on standard error."""
    from kit.kv.advice import foreseen
    from kit.runner.study import run_study
    from kit.study.plan import first_of_each_cell
    from kit.ui.progress import TextProgress

    show = TextProgress(sys.stderr)
    remark(f"study folder: {folder}")
    for warning in foreseen(first_of_each_cell(spec)):
        remark(warning)
    _prepare(spec)
    try:
        return run_study(spec, folder, parallel=parallel, on_progress=show)
    except KeyboardInterrupt:
        show.close()
        remark("stopped; what is done is kept, and the same command goes on from there")
        raise
    finally:
        show.close()


def _prepare(spec: StudySpec) -> None:
    """Fetch the servers that are not cached, release by release, and say so as it goes."""
    from kit.servers.prepare import prepare_servers

    sys.stderr.write("servers (fetched if not in the cache):")
    try:
        for server in spec.servers:
            sys.stderr.write(f" {server.label}")
            sys.stderr.flush()
            prepare_servers([server])
    finally:
        sys.stderr.write("\n")
