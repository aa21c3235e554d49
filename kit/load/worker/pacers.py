"""Makes the pacer of a worker's share of a workload."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from kit.load.channels import Channels
from kit.load.traffic.arrivals import due_times
from kit.load.traffic.schedule import check_steps, concurrency_profile
from kit.load.worker.closed_loop import ClosedLoop
from kit.load.worker.open_loop import OpenLoop
from kit.load.worker.pacer import Pacer
from kit.load.worker.run import WorkerRun
from kit.study.spec import ArrivalKind, Workload

#: Open files that are not connections.
_OTHER_FILES = 128
#: An open loop without a cap stops here at the latest.
_MOST_OPEN = 60_000


def workers_of(workload: Workload) -> int:
    """How many workers have a part in the workload: never more than clients or places.

    Raises:
        SpecError: the workload's steps cannot be taken.
    """
    arrivals = workload.arrivals
    most = arrivals.concurrency
    if arrivals.kind is ArrivalKind.CLOSED:
        most = int(concurrency_profile(arrivals).most)
    processes = workload.workers if most is None else min(workload.workers, most)
    check_steps(arrivals, processes)
    return processes


def pacer_for(
    run: WorkerRun,
    workload: Workload,
    channels: Channels,
    worker: int,
    processes: int,
    within: Path | None = None,
) -> Pacer:
    """The pacer of worker `worker` of `processes`. within: the trial's folder."""
    arrivals = workload.arrivals
    files = _allow_files()
    if arrivals.kind is not ArrivalKind.CLOSED:
        share = _share(arrivals.concurrency, worker, processes)
        return OpenLoop(
            run,
            islice(due_times(workload, within), worker, None, processes),
            lambda: channels.make(run),
            min(files, _MOST_OPEN if share is None else share),
        )
    profile = concurrency_profile(arrivals)
    return ClosedLoop(
        run,
        range(worker, int(profile.most), processes),
        lambda: channels.make(run),
        lambda seconds: round(profile.at(seconds)),
        varies=bool(profile.steps),
        conversations=run.has_turns,
    )


def _share(total: int | None, worker: int, processes: int) -> int | None:
    if total is None:
        return None
    return total // processes + (worker < total % processes)


def _allow_files() -> int:
    """Raise the limit of open files as far as this user may; how many connections that allows."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return _MOST_OPEN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, soft - _OTHER_FILES)
