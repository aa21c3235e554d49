"""Runs a workload against a port and gives its records; what the load tests have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kit.load.worker.process import LoadWorker
from kit.study.folder import TrialFolder
from kit.study.spec import Arrivals, Endpoint, Protocol, ServerSpec, TrialSpec, Workload, fixed


def workload(**changes: Any) -> Workload:
    """A small closed loop with short timeouts, with some fields changed."""
    concurrency = changes.pop("concurrency", 4)
    plain = Workload(
        protocol=Protocol.HTTP_GENERATE,
        arrivals=Arrivals(concurrency=concurrency),
        requests=40,
        prompt_tokens=fixed(6),
        output_tokens=fixed(5),
        timeout_s=5.0,
        seed=7,
    )
    return dataclasses.replace(plain, **changes)


def trial(load: Workload) -> TrialSpec:
    return TrialSpec(
        trial_id="t", server=ServerSpec(release="23.10"), scenario="s", model="m", workload=load
    )


def started(load: Workload, endpoint: Endpoint, path: Path) -> tuple[TrialFolder, list[LoadWorker]]:
    """A trial folder and its running load workers."""
    spec = trial(load)
    folder = TrialFolder.create(path, spec)
    workers = [LoadWorker(spec, endpoint, folder, worker=w) for w in range(load.processes)]
    for worker in workers:
        worker.start()
    return folder, workers


def finished(workers: Iterable[LoadWorker], timeout_s: float = 60.0) -> None:
    """Wait until every worker has run its workload to a stop rule."""
    for worker in workers:
        code = worker.wait(timeout_s)
        if code is None:
            worker.kill()
        worker.close()
        assert code == 0, worker.log.read_text()


def run_load(load: Workload, port: int, path: Path, **endpoint: Any) -> list[dict[str, Any]]:
    """The request records of the workload, in the order of their numbers."""
    folder, workers = started(load, Endpoint(http_port=port, **endpoint), path)
    finished(workers)
    return sorted(folder.requests().to_pylist(), key=lambda row: row["request"])
