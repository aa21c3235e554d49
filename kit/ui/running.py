"""What `kit.run` does: arguments to a StudySpec, then the study with its progress shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import SpecError
from kit.runner.study import StudyProgress
from kit.servers.prepare import prepare_servers
from kit.study.arguments import check_names
from kit.study.folder import StudyFolder
from kit.study.grid import FIELDS, several
from kit.study.spec import StudySpec, Workload
from kit.ui.beginning import begin, run_within
from kit.ui.choices import Servers, choose, study_folder
from kit.ui.consent import Cap
from kit.ui.console import print_text, remark

if TYPE_CHECKING:
    from kit.runner.dask_cluster import Cluster
    from kit.ui.study_view import Study

OnProgress = Callable[[StudyProgress], None]
#: Keywords of kit.run that are no field of the traffic.
ARGUMENTS = (
    *("servers", "scenario", "release", "workload", "name", "engine", "requests", "repeats"),
    *("least_repeats", "sequential", "seed", "parallel", "on", "folder", "progress"),
    *("yes", "most_requests", "most_minutes"),
)


def spec_of(
    servers: Servers | None,
    scenario: str | Iterable[str] | None,
    *,
    release: Servers | None,
    workload: Workload | None,
    name: str | None,
    traffic: Mapping[str, Any],
    **others: Any,
) -> StudySpec:
    """The checked study that these arguments of kit.run describe.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: as kit.run.
    """
    check_names(traffic, dict.fromkeys((*ARGUMENTS, *FIELDS)))
    if (servers is None) == (release is None):
        raise SpecError(
            "kit.run with no server" if servers is None else "kit.run with servers and release",
            'one of the two, such as kit.run("24.05", …): they are the same argument',
            "kit.releases() lists the releases that run here",
        )
    given = release if servers is None else servers
    assert given is not None
    scenarios = [] if scenario is None else [str(one) for one in several(scenario)]
    return choose(given, scenario, workload, name=name or _name(scenarios), **others, **traffic)


def conduct(
    spec: StudySpec,
    folder: Path | None,
    *,
    parallel: int | None = None,
    on: Cluster | None = None,
    progress: bool | OnProgress = True,
    cap: Cap | None = None,
) -> Study:
    """Run what is left of a study with its progress shown, and open it.

    on: a Dask cluster that runs the trials; what this machine lacks for them is then not asked.
    cap: the study's budget; None: the usual one for servers that are not on this machine.

    Raises:
        StoreError and what kit.runner.study.run_study raises.
        PreflightError, NotConfirmedError: nothing was sent.
    """
    from kit.ui.study_view import Study

    path = study_folder(spec) if folder is None else folder
    cap = cap or Cap()
    lines: list[str] = []
    minutes = begin(
        spec, path, cap, lines.append, parallel=parallel, on=on, in_notebook=in_notebook()
    )
    if on is None:
        prepare_servers(spec.servers, _say if progress else None)
    say = _say if progress else _say_nothing
    with shown(progress, path, lines) as on_progress:
        try:
            run_within(
                spec, path, cap, minutes, say, parallel=parallel, on=on, on_progress=on_progress
            )
        except KeyboardInterrupt:
            if not (path / "study.json").exists():
                raise  # nothing was begun
            say("stopped; what is done is kept, and the same call goes on from there")
    return Study(StudyFolder(path))


@contextlib.contextmanager
def shown(
    progress: bool | OnProgress, folder: Path, lines: Iterable[str]
) -> Iterator[OnProgress | None]:
    """What shows the progress: the live view in a notebook or on a terminal, else lines.

    folder: of the study. lines: said first.
    """
    from kit.ui.cell_view import CellView
    from kit.ui.dashboard import text_progress

    if not progress:
        yield None
    elif callable(progress):
        yield progress
    elif in_notebook():
        for line in lines:
            print_text(line)
        with contextlib.closing(CellView(folder)) as view:
            yield view
    else:
        for line in lines:
            _say(line)
        with contextlib.closing(text_progress(sys.stderr, folder)) as text:
            yield text


def in_notebook() -> bool:
    """True if a kernel runs this, whose front end shows HTML."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _say_nothing(text: str) -> None:
    """For a caller who wants no progress."""


def _say(text: str) -> None:
    """A line on standard error, which a script's output does not mix with."""
    remark(text)


def _name(scenarios: Sequence[str]) -> str:
    """Of the folder, if nobody names the study."""
    return "-and-".join(scenarios) if 0 < len(scenarios) <= 2 else "study"
