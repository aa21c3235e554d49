"""The front door's `kit.soak`: the test before a deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import SpecError
from kit.study.soak import SoakClaim
from kit.ui.arguments import folder as as_folder

if TYPE_CHECKING:
    from kit.runner.dask_cluster import Cluster
    from kit.runner.study import StudyProgress
    from kit.study.spec import Engine, ServerSpec, StudySpec, Workload
    from kit.ui.study_view import Study


def soak(
    server: str | ServerSpec,
    scenario: str | None = None,
    *,
    one_in: int = 1000,
    confidence: float = 0.95,
    failed: float = 0.01,
    workload: Workload | None = None,
    engine: str | Engine | None = None,
    name: str = "soak",
    seed: int = 0,
    on: Cluster | None = None,
    folder: str | Path | None = None,
    progress: bool | Callable[[StudyProgress], None] = True,
    yes: bool = False,
    most_requests: int | None = None,
    most_minutes: float | None = None,
    **traffic: Any,
) -> Study:
    """Send as many requests as it takes to claim "less than one crash in N", and look for leaks.

    server: a release, or a server (kit.attach, kit.container). scenario, workload, engine, name,
        seed, on, folder, progress, yes, most_requests, most_minutes, **traffic: as for kit.run, one
        value each; disconnects, deadlines and a trace as production has them.
    one_in, confidence: the claim, which decides the number of requests: 2,995 for one in 1,000 at
        95 %, if none crashes. failed: share of the requests that may fail.

    One server life takes all requests. `study.soak.answer` is the verdict, `study.soak.checks` its
    evidence: survival, failed requests, and whether latency, KV usage, memory, shared memory or
    open files grow.

    Raises:
        SpecError: a claim that this traffic cannot support. Else as kit.run.

    Example, which starts a real server:

        study = kit.soak("24.05", "control", one_in=500)
        study.soak
    """
    from kit.ui.consent import Cap
    from kit.ui.running import conduct

    spec = soak_spec(
        server,
        scenario,
        claim=SoakClaim(one_in=one_in, confidence=confidence, failed=failed),
        workload=workload,
        engine=engine,
        name=name,
        seed=seed,
        traffic=traffic,
    )
    where = None if folder is None else as_folder("folder", folder)
    cap = Cap(requests=most_requests, minutes=most_minutes, yes=yes)
    return conduct(spec, where, parallel=1, on=on, progress=progress, cap=cap)


def soak_spec(
    server: str | ServerSpec,
    scenario: str | None,
    *,
    claim: SoakClaim,
    workload: Workload | None,
    engine: str | Engine | None,
    name: str,
    seed: int,
    traffic: Mapping[str, Any],
) -> StudySpec:
    """The checked study of a soak.

    Raises:
        SpecError: as soak.
    """
    from kit.study.arguments import check_names
    from kit.study.grid import FIELDS
    from kit.study.plan import plan
    from kit.study.spec import ArrivalKind, Workload
    from kit.study.traces.pinned import pinned
    from kit.ui.choices import choose

    check_names(traffic, [word for word in FIELDS if word not in ("requests", "duration_s")])
    if workload is None and scenario is None:
        workload = Workload()
    spec = choose(
        server,
        scenario,
        workload,
        name=name,
        engine=engine,
        requests=claim.requests,
        repeats=1,
        seed=seed,
        **traffic,
    )
    spec = replace(spec, soak=claim)
    trials = plan(spec)
    if len(trials) != 1:
        raise SpecError(
            f"a soak of {len(trials)} servers or kinds of traffic",
            "one server under one traffic",
            "give one value each; soak once for each, and compare (kit.compare)",
        )
    load = trials[0].workload
    if load.trace is not None and load.arrivals.kind is ArrivalKind.TRACE:
        there = pinned(load.trace).requests
        if there < claim.requests:
            raise SpecError(
                f"{claim.words}, with {pinned(load.trace).about}",
                f"{claim.requests:,} requests: the file, at its own times, allows one_in = "
                f"{claim.supported(there)} at most",
                "lower one_in, or give concurrency or rate: then the file is gone through again",
            )
    return spec
