"""Whether a worker's memory stays flat over a million requests."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path

from benchmarks import kit_worker
from benchmarks.processes import client_core, measure
from benchmarks.results import Result, Results
from benchmarks.source import own_source
from benchmarks.tools import Work
from kit.study.spec import Endpoint

REQUESTS = 1_000_000


def memory(results: Results, rounds: int) -> None:
    """Resident memory in the last tenth of a million requests less that in the second tenth."""
    with own_source() as source, tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        folder = Path(scratch)
        work = Work(
            port=source.port, clients=64, tokens=16, streams=False, seconds=1.0, folder=folder
        )
        load = dataclasses.replace(kit_worker.workload(work), requests=REQUESTS, duration_s=None)
        command = kit_worker.prepare(load, Endpoint(http_port=source.port), folder)
        usage = measure(command, source.count, core=client_core(), folder=folder, timeout_s=600.0)
        trial = kit_worker.trial(folder)
        rows = trial.client().to_pydict()
        recorded = trial.requests().num_rows
    assert usage.exit_code == 0, usage.output
    assert recorded == REQUESTS, recorded
    resident = [
        (ended, rss) for ended, rss in zip(rows["ended"], rows["rss_bytes"], strict=True) if rss
    ]
    early = [rss for ended, rss in resident if 0.1 <= ended / REQUESTS < 0.2]
    late = [rss for ended, rss in resident if ended / REQUESTS >= 0.9]
    grown = (statistics.median(late) - statistics.median(early)) / 1e6
    results.add(
        Result(
            name="memory_growth_over_1000000_requests",
            value=grown,
            unit="MB, last tenth less second tenth",
            target="<= 5",
            command="python -m benchmarks memory",
            note=f"resident at most {max(rss for _, rss in resident) / 1e6:.0f} MB",
            rounds=1,
        )
    )
