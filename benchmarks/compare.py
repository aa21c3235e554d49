"""Runs clients against one source, in turn and round by round, and compares their figures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import kit_worker
from benchmarks.commands import readable
from benchmarks.processes import Usage, client_core, cores, measure
from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import Source
from benchmarks.tools import PEERS, Work
from kit.study.spec import Endpoint, Workload

KIT = "kit"
#: Tools that need so long before the first request that a short run would measure their start.
_SECONDS = {"aiperf": 20.0, "guidellm": 20.0}
#: And some need a minute or two on one core until they send it.
_TIMEOUT_S = {"guidellm": 300.0}

Taken = dict[str, list[Usage]]


def side_by_side(
    source: Callable[[], AbstractContextManager[Source]],
    names: Sequence[str],
    *,
    clients: int,
    tokens: int,
    streams: bool,
    seconds: float,
    rounds: int,
    change: Callable[[Workload], Workload] = lambda load: load,
    on_all_cores: bool = False,
    interval_us: int = 0,
) -> tuple[Taken, dict[str, str]]:
    """What each client took, by round, and the commands; one at a time.

    on_all_cores: each client runs wherever it likes, with as many processes as there are cores
        where it can be told; otherwise all of them run on the same one.
    """
    taken: Taken = {name: [] for name in (KIT, *names)}
    commands: dict[str, str] = {}
    for _ in range(rounds):
        for name in (KIT, *names):
            if name != KIT and PEERS[name].version() is None:
                continue
            with source() as up, tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
                work = Work(
                    port=up.port,
                    clients=clients,
                    tokens=tokens,
                    streams=streams,
                    seconds=_SECONDS.get(name, seconds),
                    folder=Path(scratch),
                    cores=len(cores()) if on_all_cores else 1,
                    interval_us=interval_us,
                )
                if name == KIT:
                    load = change(kit_worker.workload(work))
                    endpoint = Endpoint(http_port=up.port)
                    command = kit_worker.prepare(load, endpoint, work.folder)
                else:
                    command = PEERS[name].command(work)
                core = None if on_all_cores else client_core()
                usage = measure(
                    command,
                    up.count,
                    core=core,
                    folder=work.folder,
                    timeout_s=_TIMEOUT_S.get(name, 120.0),
                )
                if name == KIT:
                    _check(work.folder, usage)
                elif usage.requests_per_s is None:
                    print(f"{name}: no steady part; it said: {usage.output[-800:]}")
            taken[name].append(usage)
            commands[name] = readable(command, {scratch: "FOLDER", str(work.port): "PORT"})
    return taken, commands


def _check(folder: Path, usage: Usage) -> None:
    """The kit's own figures count only if every answer was right and on record."""
    outcomes = kit_worker.trial(folder).requests()["outcome"]
    wrong = {outcome for outcome in outcomes.unique().to_pylist() if outcome != "ok"}
    if wrong or usage.exit_code != 0 or not len(outcomes):
        raise AssertionError(f"outcomes {wrong}, exit {usage.exit_code}: {usage.output[-2000:]}")
    if len(outcomes) != usage.requests:
        raise AssertionError(f"{len(outcomes)} records of {usage.requests} requests served")


def ratios(
    results: Results,
    prefix: str,
    taken: Taken,
    commands: dict[str, str],
    read: Callable[[Usage], float | None],
    targets: dict[str, str | None],
    *,
    unit: str = "ratio",
) -> None:
    """The kit's figure over each peer's, round by round."""
    for name, target in targets.items():
        pairs = zip(taken[KIT], taken[name], strict=False)
        values = [
            ours / theirs
            for kit, peer in pairs
            if (ours := read(kit)) is not None and (theirs := read(peer)) is not None
        ]
        note = None if values else _why_not(name, taken[name])
        results.add(
            Result(
                name=f"{prefix}_vs_{name}",
                unit=unit,
                target=target,
                peer=name,
                peer_version=PEERS[name].version(),
                command=commands.get(name),
                note=note,
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )


def absolutes(
    results: Results,
    prefix: str,
    taken: Taken,
    commands: dict[str, str],
    read: Callable[[Usage], float | None],
    unit: str,
    *,
    target: str | None = None,
) -> None:
    """Each client's own figure; the target is the kit's."""
    for name, usages in taken.items():
        if not usages:
            continue
        results.add(
            Result(
                name=f"{prefix}_{name}",
                unit=unit,
                target=target if name == KIT else None,
                peer=None if name == KIT else name,
                peer_version=None if name == KIT else PEERS[name].version(),
                command=commands[name],
                **over_rounds([read(usage) for usage in usages]),  # type: ignore[arg-type]
                note=None if any(read(u) for u in usages) else _why_not(name, usages),
            )
        )


def _why_not(name: str, usages: Sequence[Usage]) -> str:
    if not usages:
        return f"{name} is not installed (python -m benchmarks install)"
    return "it never ran steadily: " + " ".join(usages[-1].output.split())[-300:]
