"""`kit shrink`: a crash's smallest traffic, as a script for a bug report.

The result goes to standard output, progress and remarks to standard error.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.study.result import TrialResult
from kit.study.sequential import Decision
from kit.study.words import aligned
from kit.ui.console import DONE, print_json, print_text, remark
from kit.ui.options import Subparsers, add_command, add_json

if TYPE_CHECKING:
    from kit.reproduce.export import Exported
    from kit.reproduce.shrink import ShrinkStep, Shrunk
    from kit.study.folder import StudyFolder, TrialFolder

#: Where a reproducer goes when nobody says otherwise, below the current folder.
REPRODUCERS = Path("reproducers")
TRIALS = "trials"


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "shrink",
        shrink,
        "a crash's smallest traffic, as a script for a report",
        about="Make the traffic of a trial whose server died smaller while it still dies so, and "
        "write it as one standalone script with a filled-in report. The same command goes on "
        "where it was stopped.",
        examples="studies/study-20260101-120000\n"
        "data/recorded/first_light --trial 24.10_cancel-race_c16_r0",
    )
    parser.add_argument("study", type=Path, help="folder of a study, live or recorded")
    parser.add_argument("--trial", metavar="ID", help="(one with the study's commonest crash)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (reproducers/TRIAL)")
    parser.add_argument(
        "--wanted", type=float, default=0.8, metavar="P", help="share that must die (%(default)s)"
    )
    parser.add_argument(
        "--budget", type=int, default=80, metavar="N", help="most trials (%(default)s)"
    )
    parser.add_argument(
        "--parallel", type=int, default=2, metavar="N", help="trials at a time (%(default)s)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=5,
        metavar="N",
        help="servers that the script is tried on (%(default)s)",
    )
    add_json(parser)


def shrink(args: Namespace) -> int:
    """The smallest traffic that still kills the server of a trial, as a script and a report."""
    from kit.reproduce.export import REPORT, SCRIPT, write_reproducer
    from kit.reproduce.finding import finding_of
    from kit.reproduce.script import check_exportable
    from kit.reproduce.shrink_study import shrink_in
    from kit.study.folder import StudyFolder
    from kit.study.recorded import open_study

    chosen, crash = _chosen(open_study(args.study), args.trial)
    trial = chosen.spec
    out = args.out or REPRODUCERS / trial.trial_id
    remark(f"shrinking {trial.trial_id}; its trials go to {out / TRIALS}")
    shrunk = shrink_in(
        out / TRIALS,
        trial,
        wanted=args.wanted,
        budget=args.budget,
        parallel=args.parallel,
        like=crash,
        on_step=lambda step: remark(_step_line(step)),
    )
    check_exportable(shrunk.smallest)
    remark("writing the script, and trying it on fresh servers")
    found = finding_of(shrunk, StudyFolder(out / TRIALS))
    exported = write_reproducer(found, out, times=args.runs, parallel=args.parallel)
    if args.json:
        files = {"script": str(out / SCRIPT), "report": str(out / REPORT)}
        runs = {"runs": exported.runs, "beside": exported.beside}
        print_json({**files, "shrunk": shrunk, **runs})
    else:
        print_text("\n".join(_lines(shrunk, exported)))
    return DONE


def _chosen(study: StudyFolder, name: str | None) -> tuple[TrialFolder, TrialResult]:
    """The trial of that name; else one with the commonest crash."""
    from kit.crash.groups import commonest_death

    ended = [(trial, r) for trial in study.trials() if (r := trial.result) is not None]
    dead = [(trial, r) for trial, r in ended if r.verdict.is_death]
    if name is not None:
        dead = [(trial, r) for trial, r in dead if trial.spec.trial_id == name]
    if not dead:
        what = f"{study.path} without a dead server" + (f" in the trial {name!r}" if name else "")
        there = [trial.spec.trial_id for trial, r in ended if r.verdict.is_death]
        raise SpecError(
            what,
            f"a trial that crashed: {', '.join(there) or 'this study has none'}",
            "name one of those" if there else "choose another study, or run more trials",
        )
    found = commonest_death(dead, lambda one: one[1])
    assert found is not None, "there are dead servers"
    return found


def _step_line(step: ShrinkStep) -> str:
    died = f"{step.deaths} of {step.trials} died"
    other = f", {step.other_deaths} of another crash" if step.other_deaths else ""
    kept = "kept" if step.decision is Decision.CRASHES else "not enough"
    return f"  {'final: ' if step.final else ''}{step.what}: {died}{other}; {kept}"


def _lines(shrunk: Shrunk, exported: Exported) -> Iterable[str]:
    from kit.reproduce.check import tally
    from kit.reproduce.export import REPORT, SCRIPT
    from kit.reproduce.script import say_traffic

    yield f"from: {say_traffic(shrunk.original)}"
    yield f"to:   {say_traffic(shrunk.smallest)}"
    yield ""
    header = ("what", "servers", "died", "share", "95 % interval")
    rows = [
        ("as the trial was", *_counted(shrunk.steps[0].deaths, shrunk.steps[0].trials)),
        ("the smallest", *_counted(shrunk.deaths, shrunk.trials)),
    ]
    for label, runs in (("reproduce.py", exported.runs), ("reproduce.py", exported.beside)):
        if runs:
            crashed = tally(runs, exported.crash).same
            rows.append((f"{label} on {runs[0].release}", *_counted(crashed, len(runs))))
    yield aligned(header, rows)
    yield ""
    if not shrunk.reached:
        yield f"It was not shown to die in {shrunk.wanted:.0%} of the trials."
    yield (
        f"{shrunk.spent_trials} servers, {shrunk.spent_requests:,} requests, "
        f"{shrunk.spent_s:.0f} s of servers' time"
    )
    yield f"{exported.folder / SCRIPT}\n{exported.folder / REPORT}"


def _counted(deaths: int, trials: int) -> tuple[str, str, str, str]:
    from kit.stats.intervals import share

    seen = share(deaths, trials)
    return str(trials), str(deaths), f"{seen.value:.0%}", f"{seen.low:.0%} to {seen.high:.0%}"
