"""Ten thousand streams at once on one core, an event a second each, for a minute."""

from __future__ import annotations

import dataclasses
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks import kit_worker
from benchmarks.processes import Usage, client_core, measure
from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import own_source
from benchmarks.tools import Work
from kit.load.traffic.traffic import Traffic
from kit.study.spec import Endpoint, Protocol

STREAMS = 10_000
EVENTS = 60
PACE_US = 1_000_000
_STAMP_WORDS = 1 << 20  # three words a stream, and one an event


def many_streams(results: Results, rounds: int) -> None:
    """10,000 streams on one core, an event a second each, for a minute: what is lost, and cost."""
    figures: dict[str, list[float | None]] = {}
    clocks: set[str] = set()
    for _ in range(rounds):
        usage, taken, clock = _once()
        clocks |= clock
        taken |= {
            "cpu": usage.cores,
            "cpu_an_event": usage.cpu_us_an_event,
            "rss": usage.peak_rss_bytes / 1e6,
        }
        for name, value in taken.items():
            figures.setdefault(name, []).append(value)
    units = {
        "events_lost": (
            f"events of {STREAMS * EVENTS:,} that were sent and are on no record",
            "<= 0",
        ),
        "not_ok": (f"requests of {STREAMS:,} that are not well", "<= 0"),
        "itl_error_p99": ("microseconds from the source's own gaps", "<= 1000"),
        "cpu": ("of one core", "<= 1"),
        "cpu_an_event": ("microseconds of CPU an event", None),
        "rss": ("MB at most", None),
    }
    for name, values in figures.items():
        unit, target = units[name]
        results.add(
            Result(
                name=f"many_streams_{name}",
                unit=unit,
                target=target,
                command="python -m benchmarks many-streams",
                note=f"clock of the records: {', '.join(sorted(clocks))}",
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )


def _once() -> tuple[Usage, dict[str, float | None], set[str]]:
    """(usage, figures, clocks of the records) of one run."""
    with (
        own_source(interval_us=PACE_US, stamps=_STAMP_WORDS) as source,
        tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
    ):
        folder = Path(scratch)
        work = Work(
            port=source.port,
            clients=STREAMS,
            tokens=EVENTS,
            streams=True,
            seconds=1.0,
            folder=folder,
        )
        load = dataclasses.replace(
            kit_worker.workload(work),
            protocol=Protocol.HTTP_GENERATE_STREAM,
            requests=STREAMS,
            duration_s=None,
            timeout_s=300.0,
        )
        command = kit_worker.prepare(load, Endpoint(http_port=source.port), folder)
        usage = measure(command, source.count, core=client_core(), folder=folder, timeout_s=300.0)
        assert usage.exit_code == 0, usage.output
        sent_by = {nonce: sent for nonce, _, sent in source.stamps()}
        rows = kit_worker.trial(folder).requests().to_pylist()
    assert len(sent_by) == STREAMS, f"the source stamped {len(sent_by)} streams"
    traffic = Traffic(load)
    errors_us: list[float] = []
    seen = 0
    for row in rows:
        came, sent = row["token_ns"] or [], sent_by[int(traffic.call(row["request"]).digits, 16)]
        seen += len(came)
        gaps = zip(pairwise(came), pairwise(sent), strict=False)
        errors_us += [abs((b - a) - (d - c)) / 1e3 for (a, b), (c, d) in gaps]
    taken: dict[str, float | None] = {
        "events_lost": STREAMS * EVENTS - seen,
        "not_ok": sum(row["outcome"] != "ok" for row in rows) + STREAMS - len(rows),
        "itl_error_p99": float(np.percentile(errors_us, 99)) if errors_us else None,
    }
    return usage, taken, {row["clock"] for row in rows}
