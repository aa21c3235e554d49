"""What comes before and around the trials of a study, whoever asks for it: kit.run, a command.

What is checked, asked and said before anything is sent; then the trials, within their budget.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.runner.study import StudyProgress, check_where, run_study
from kit.servers.owner_commands import commands_for
from kit.study.folder import StudyFolder
from kit.study.plan import plan
from kit.study.spec import StudySpec
from kit.ui.consent import Cap, confirm, stopped_after
from kit.ui.panel_plan import planned
from kit.ui.preflighting import beforehand

if TYPE_CHECKING:
    from kit.runner.dask_cluster import Cluster


def begin(
    spec: StudySpec,
    folder: Path,
    cap: Cap,
    say: Callable[[str], None],
    *,
    parallel: int | None = None,
    on: Cluster | None = None,
    in_notebook: bool = False,
) -> float | None:
    """Check and ask what is to be checked and asked, and say what will be done.

    say: is told a line at a time. on: a Dask cluster that runs the trials; what this machine lacks
    for them is then not asked. Returns the minutes after which the study must be stopped; None:
    never.

    Raises:
        SpecError: it cannot be run there, or is more than the cap allows.
        PreflightError, NotConfirmedError: nothing was sent.
    """
    say(f"study folder: {folder}")
    if spec.has_load_hosts:  # before anything is asked of its server
        check_where(spec, plan(spec), on)
    if (folder / "done.json").exists():
        return None  # there is nothing to run
    is_here = on is None or spec.has_load_hosts
    if not is_here:
        _check_no_commands(spec)
    minutes = cap.minutes
    if is_here:
        for line in beforehand(spec, parallel=parallel):
            say(line)
        minutes = confirm(spec, cap, in_notebook=in_notebook)
    for line in planned(
        spec, requests=cap.requests, minutes=minutes, parallel=parallel, is_here=is_here
    ):
        say(line)
    return minutes


def _check_no_commands(spec: StudySpec) -> None:
    """Refuse what a cluster's hosts cannot do: an owner's commands are run on this machine.

    Raises:
        SpecError: there are some.
    """
    if spec.shares_a_server and any(commands_for(s.url or "", os.environ) for s in spec.servers):
        raise SpecError(
            "commands of a server's owner, and trials on a cluster's hosts",
            "trials on this machine, where the commands are run",
            "leave out on=, or the commands",
        )


def run_within(
    spec: StudySpec,
    folder: Path,
    cap: Cap,
    minutes: float | None,
    say: Callable[[str], None],
    *,
    parallel: int | None = None,
    on: Cluster | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> StudyFolder:
    """Run what is left of the study. minutes: as `begin` says; that they are over is said.

    Raises:
        What kit.runner.study.run_study raises.
    """
    with stopped_after(minutes, say=say) as over:
        return run_study(
            spec,
            folder,
            parallel=parallel,
            on=on,
            on_progress=on_progress,
            stop=over,
            most_requests=cap.requests,
        )
