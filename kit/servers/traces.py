"""Runs whose owner is dead in, nothing of them left: processes, shared memory, folders.

`sweep` is called at the start of each run and by `python -m kit clean`. It needs no word from
the dead owner: what a run started carries the run's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from kit.servers.cache import remove_half_filled
from kit.servers.processes import kill, marked, remove_shared_memory, semaphores_of
from kit.servers.python_env import remove_noted
from kit.servers.runs import Run, is_over, registered

_ROUNDS = 5  # of looking for processes, as a dying one may still have started another


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was found of one run, and removed."""

    run: str  # "cache": half-filled entries of the cache, whichever run filled them
    processes: tuple[int, ...]
    shared_memory: tuple[str, ...]
    folders: tuple[str, ...]


def sweep() -> list[Trace]:
    """Remove everything of runs whose owner died; what was removed, one entry a run."""
    traces = [remove(run) for run in registered() if is_over(run)]
    half_filled = tuple(str(path) for path in remove_half_filled())
    if half_filled:
        traces.append(Trace(run="cache", processes=(), shared_memory=(), folders=half_filled))
    return traces


def remove(run: Run) -> Trace:
    """Remove everything of one run, whatever state it is in, and take it off the register."""
    killed: set[int] = set()
    semaphores: set[str] = set()
    for _ in range(_ROUNDS):
        pids = marked(run.name)
        if not pids:
            break
        semaphores |= semaphores_of(pids)
        kill(pids, timeout_s=5.0)
        killed |= set(pids)
    regions = remove_shared_memory(run.shm_prefix)
    for name in semaphores:
        regions += remove_shared_memory(name)
    folders: tuple[str, ...] = (str(run.folder),) if run.folder.exists() else ()
    folders += tuple(remove_noted(run.record))
    run.forget()
    return Trace(
        run=run.name,
        processes=tuple(sorted(killed)),
        shared_memory=tuple(sorted(regions)),
        folders=folders,
    )
