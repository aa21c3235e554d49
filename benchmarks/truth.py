"""How far the kit's times are from those of a server that stamps what it sends and receives."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path

from benchmarks import kit_worker
from benchmarks.processes import client_core, measure
from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import own_source
from benchmarks.tools import Work
from kit.load.traffic.traffic import Traffic
from kit.load.worker.client_limited import client_limited
from kit.study.spec import ArrivalKind, Arrivals, Endpoint, Protocol

_STAMP_WORDS = 1 << 22
_WARM_UP = 512  # first requests, which also make connections
RATE_PER_S = 2000.0


def truth(results: Results, rounds: int) -> None:
    """256 streams of 64 events 20 ms apart: TTFT and ITL as the client and as the server see them.

    Server: first send - receive, and gaps between sends. The difference is the client's error and
    both ways through the kernel.
    """
    ttft: list[float | None] = []
    itl: list[float | None] = []
    tails: list[float | None] = []
    for _ in range(rounds):
        with (
            own_source(interval_us=20_000, stamps=_STAMP_WORDS) as source,
            tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
        ):
            folder = Path(scratch)
            work = Work(
                port=source.port, clients=256, tokens=64, streams=True, seconds=8.0, folder=folder
            )
            load = kit_worker.workload(work, protocol=Protocol.HTTP_GENERATE_STREAM)
            command = kit_worker.prepare(load, Endpoint(http_port=source.port), folder)
            usage = measure(command, source.count, core=client_core(), folder=folder)
            assert usage.exit_code == 0, usage.output
            told = {nonce: (received, sent) for nonce, received, sent in source.stamps()}
            traffic = Traffic(load)
            first_errors, gap_errors = [], []
            for row in kit_worker.trial(folder).requests().to_pylist():
                if row["request"] < _WARM_UP or row["outcome"] != "ok":
                    continue
                received, sent = told[int(traffic.call(row["request"]).digits, 16)]
                seen = row["token_ns"]
                first_errors.append(abs((seen[0] - row["sent_ns"]) - (sent[0] - received)))
                gap_errors += [
                    abs((b - a) - (d - c))
                    for a, b, c, d in zip(seen, seen[1:], sent, sent[1:], strict=False)
                ]
        ttft.append(statistics.median(first_errors) / 1e3)
        itl.append(statistics.median(gap_errors) / 1e3)
        tails.append(sorted(gap_errors)[int(0.99 * len(gap_errors))] / 1e3)
    for name, values, target in (
        ("truth_ttft_error_median", ttft, "<= 100"),
        ("truth_itl_error_median", itl, "<= 100"),
        ("truth_itl_error_p99", tails, None),
    ):
        results.add(
            Result(
                name=name,
                unit="microseconds at 256 streams",
                target=target,
                command="python -m benchmarks truth",
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )


def dispatch(results: Results, rounds: int) -> None:
    """An open loop at 2,000 requests/s: how late requests leave, and whether the run says so."""
    for kind in (ArrivalKind.CONSTANT, ArrivalKind.POISSON):
        late: list[float | None] = []
        said: list[str] = []
        for _ in range(rounds):
            with (
                own_source() as source,
                tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
            ):
                folder = Path(scratch)
                work = Work(
                    port=source.port,
                    clients=1,
                    tokens=16,
                    streams=False,
                    seconds=8.0,
                    folder=folder,
                )
                arrivals = Arrivals(kind=kind, rate_per_s=RATE_PER_S, concurrency=None)
                load = dataclasses.replace(kit_worker.workload(work), arrivals=arrivals)
                command = kit_worker.prepare(load, Endpoint(http_port=source.port), folder)
                usage = measure(command, source.count, core=client_core(), folder=folder)
                assert usage.exit_code == 0, usage.output
                trial = kit_worker.trial(folder)
                rows, health = trial.requests().to_pylist(), trial.client().to_pydict()
            delays = sorted((row["sent_ns"] - row["scheduled_ns"]) / 1e6 for row in rows[_WARM_UP:])
            late.append(delays[int(0.99 * len(delays))])
            limit = client_limited(health, open_loop=True)
            said.append("; ".join(limit.reasons) or "kept up")
        results.add(
            Result(
                name=f"dispatch_delay_p99_{kind.value}",
                unit=f"ms at {RATE_PER_S:.0f} requests/s",
                target="<= 2",
                command="python -m benchmarks dispatch",
                note="the run says: " + " | ".join(said),
                **over_rounds(late),  # type: ignore[arg-type]
            )
        )
