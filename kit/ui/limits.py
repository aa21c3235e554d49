"""The front door's `kit.find_limit`, and what a study of it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.study.limit import Goals, LimitSearch, LoadKind
from kit.ui.arguments import folder as as_folder

if TYPE_CHECKING:
    from kit.runner.dask_cluster import Cluster
    from kit.runner.study import StudyProgress
    from kit.study.spec import Engine, ServerSpec, StudySpec, Workload
    from kit.ui.study_view import Study

#: Requests a second to begin with, and the most; of clients one worker can have.
RATES = (1.0, 10_000.0)
CLIENTS = (1.0, 1024.0)


def find_limit(
    server: str | ServerSpec,
    scenario: str | None = None,
    *,
    p95_ttft_ms: float | None = None,
    p95_itl_ms: float | None = None,
    p95_e2e_ms: float | None = None,
    failed: float | None = 0.01,
    kv: float | None = None,
    by: str | None = None,
    low: float | None = None,
    high: float | None = None,
    within: float = 0.05,
    most_trials: int = 12,
    requests: int = 400,
    workload: Workload | None = None,
    engine: str | Engine | None = None,
    name: str = "limit",
    seed: int = 0,
    on: Cluster | None = None,
    folder: str | Path | None = None,
    progress: bool | Callable[[StudyProgress], None] = True,
    yes: bool = False,
    most_requests: int | None = None,
    most_minutes: float | None = None,
    **traffic: Any,
) -> Study:
    """Find the highest load at which the goals hold and the server lives.

    server: a release, or a server (kit.attach, kit.container). scenario, workload, engine, name,
        seed, on, folder, progress, yes, most_requests, most_minutes, **traffic: as for kit.run, one
        value each.
    p95_ttft_ms: time to the first token. p95_itl_ms: gap between tokens. p95_e2e_ms: whole answer.
        failed: share of the requests. kv: share of the KV cache in use, p95 over time. None: no
        such goal.
    by: "concurrency" (closed loop), or "rate" (open loop, requests a second); None: rate if the
        traffic is an open loop.
    low, high: loads between which the limit is looked for; no trial has more than eight times the
        load that has held before.
    within: how exactly, a share of the limit; most_trials: it ends then, decided or not.
    requests: of one trial, warm-up not counted.
    on: with load_hosts only, since trials of several hosts cannot be compared by their latencies.

    It is a study as any other: the same call goes on where it was stopped. `study.limit` is the
    answer, `study.plot_limit()` the picture.

    Raises:
        SpecError: no goal, or a search that no trial could tell anything of. NotEnoughDataError:
            the server does not tell what a goal is about. Else as kit.run.

    Example, which starts real servers:

        study = kit.find_limit("24.05", p95_ttft_ms=200, protocol="http-generate-stream")
        study.limit
    """
    from kit.ui.consent import Cap
    from kit.ui.running import conduct

    spec = limit_spec(
        server,
        scenario,
        goals={
            "p95_ttft_ms": p95_ttft_ms,
            "p95_itl_ms": p95_itl_ms,
            "p95_e2e_ms": p95_e2e_ms,
            "failed": failed,
            "kv": kv,
        },
        by=by,
        low=low,
        high=high,
        within=within,
        most_trials=most_trials,
        requests=requests,
        workload=workload,
        engine=engine,
        name=name,
        seed=seed,
        traffic=traffic,
    )
    where = None if folder is None else as_folder("folder", folder)
    cap = Cap(requests=most_requests, minutes=most_minutes, yes=yes)
    return conduct(spec, where, parallel=1, on=on, progress=progress, cap=cap)


def limit_spec(
    server: str | ServerSpec,
    scenario: str | None,
    *,
    goals: Mapping[str, float | None],
    by: str | None,
    low: float | None,
    high: float | None,
    within: float,
    most_trials: int,
    requests: int,
    workload: Workload | None,
    engine: str | Engine | None,
    name: str,
    seed: int,
    traffic: Mapping[str, Any],
) -> StudySpec:
    """The checked study of a search.

    Raises:
        SpecError: as find_limit.
    """
    from kit.runner.limit import check_search
    from kit.study.arguments import as_member, check_names
    from kit.study.grid import FIELDS
    from kit.study.workload import Workload
    from kit.ui.choices import choose

    check_names(traffic, FIELDS)
    asked = Goals(**goals)
    if workload is None and scenario is None:
        workload = Workload()
    is_open = workload is not None and not workload.is_closed_loop
    kind = LoadKind.RATE if is_open or traffic.get("arrivals") else LoadKind.CONCURRENCY
    if by is not None:
        kind = as_member("by", by, LoadKind)
    usual = RATES if kind is LoadKind.RATE else CLIENTS
    spec = replace(
        choose(
            server,
            scenario,
            workload,
            name=name,
            engine=engine,
            repeats=1,
            seed=seed,
            **traffic,
        ),
        limit=LimitSearch(
            by=kind,
            goals=asked,
            low=usual[0] if low is None else low,
            high=max(usual[1], low or 0.0) if high is None else high,
            within=within,
            most_trials=most_trials,
            requests=requests,
        ),
    )
    check_search(spec)
    return spec
