"""Find and remove what runs whose owner is dead have left: processes, shared memory, folders.

`sweep` is called at the start of each run and by `python -m kit clean`. It needs no word from
the dead owner: what a run started carries the run's name. Nothing else is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kit.servers.cache import remove_half_filled
from kit.servers.containers_left import containers_of, remove_containers
from kit.servers.processes import kill, marked, regions, remove_regions, semaphores_of
from kit.servers.python_env import noted
from kit.servers.remove import remove_folder
from kit.servers.runs import Run, registered, why_over

_ROUNDS = 5  # of looking for processes, as a dying one may still have started another


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What was found of one run, and removed, and how it is known that it may be."""

    run: str  # "cache": half-filled entries of the cache, whichever run filled them
    processes: tuple[int, ...] = ()
    shared_memory: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    why: str = ""
    containers: tuple[str, ...] = ()
    unreached: bool = False  # its container engine does not answer: it stays on the register


def sweep(*, dry_run: bool = False) -> list[Leftover]:
    """Remove everything of runs whose owner died; what was removed, one entry a run.

    dry_run: say what it would be, and leave it.
    """
    traces = []
    for run in registered():
        why = why_over(run)
        if why is not None:
            traces.append(replace(find(run) if dry_run else remove(run), why=why))
    half_filled = tuple(str(path) for path in remove_half_filled(dry_run=dry_run))
    if half_filled:
        why = "nobody holds the lock of the entry that they are of"
        traces.append(Leftover(run="cache", folders=half_filled, why=why))
    return traces


def find(run: Run) -> Leftover:
    """What there is of one run now."""
    pids = marked(run.name)
    folders = [*([run.folder] if run.folder.exists() else []), *noted(run.record)]
    return Leftover(
        run=run.name,
        processes=tuple(sorted(pids)),
        shared_memory=tuple(sorted([*regions(run.shm_prefix), *semaphores_of(pids)])),
        folders=tuple(str(path) for path in folders),
        containers=tuple(containers_of(run)),
    )


def remove(run: Run) -> Leftover:
    """Remove everything of one run, whatever state it is in, and take it off the register."""
    containers = remove_containers(run)  # first: its processes bear the run's mark, too
    killed: set[int] = set()
    semaphores: set[str] = set()
    for _ in range(_ROUNDS):
        pids = marked(run.name)
        if not pids:
            break
        semaphores |= semaphores_of(pids)
        kill(pids, timeout_s=5.0)
        killed |= set(pids)
    removed = remove_regions([*regions(run.shm_prefix), *semaphores])
    folders = [path for path in (run.folder, *noted(run.record)) if remove_folder(path)]
    if containers is not None:
        run.forget()
    return Leftover(
        run=run.name,
        processes=tuple(sorted(killed)),
        shared_memory=tuple(sorted(removed)),
        folders=tuple(str(path) for path in folders),
        containers=tuple(containers or ()),
        unreached=containers is None,
    )
