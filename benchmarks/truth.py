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


#: The truth is also asked of a client that is busy with something else for so long at a time.
BUSY_MS = 5
_TARGETS = {"ttft_error_median": "<= 100", "itl_error_median": "<= 100"}
_TAILS = {"ttft_error_p99": "<= 200", "itl_error_p99": "<= 100"}


def truth(results: Results, rounds: int) -> None:
    """256 streams of 64 events 20 ms apart: TTFT and ITL as the client and as the server see them.

    Server: first send - receive, and gaps between sends. The difference is the client's error and
    both ways through the kernel. Once more with a client that is kept busy 5 ms at a time.
    """
    for prefix, busy_ms in (("truth", 0), ("truth_busy", BUSY_MS)):
        taken: dict[str, list[float | None]] = {name: [] for name in {**_TARGETS, **_TAILS}}
        clocks: set[str] = set()
        for _ in range(rounds):
            ttft, itl, clock = _errors_us(busy_ms)
            taken["ttft_error_median"].append(statistics.median(ttft))
            taken["itl_error_median"].append(statistics.median(itl))
            taken["ttft_error_p99"].append(_p99(ttft))
            taken["itl_error_p99"].append(_p99(itl))
            clocks |= clock
        for name, target in {**_TARGETS, **_TAILS}.items():
            results.add(
                Result(
                    name=f"{prefix}_{name}",
                    unit="microseconds at 256 streams"
                    + (f", client busy {busy_ms} ms at a time" if busy_ms else ""),
                    target=target,
                    command="python -m benchmarks truth",
                    note=f"clock of the records: {', '.join(sorted(clocks))}",
                    **over_rounds(taken[name]),  # type: ignore[arg-type]
                )
            )


def _errors_us(busy_ms: int) -> tuple[list[float], list[float], set[str]]:
    """(errors of TTFT, of the gaps between events, clocks of the records)."""
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
        env = {"KIT_BENCH_BUSY_MS": str(busy_ms)}
        usage = measure(command, source.count, core=client_core(), folder=folder, env=env)
        assert usage.exit_code == 0, usage.output
        sent_by = {nonce: (received, sent) for nonce, received, sent in source.stamps()}
        traffic = Traffic(load)
        first_errors, gap_errors, clocks = [], [], set()
        for row in kit_worker.trial(folder).requests().to_pylist():
            if row["request"] < _WARM_UP or row["outcome"] != "ok":
                continue
            received, sent = sent_by[int(traffic.call(row["request"]).digits, 16)]
            seen = row["token_ns"]
            clocks.add(row["clock"])
            first_errors.append(abs((seen[0] - row["sent_ns"]) - (sent[0] - received)) / 1e3)
            gap_errors += [
                abs((b - a) - (d - c)) / 1e3
                for a, b, c, d in zip(seen, seen[1:], sent, sent[1:], strict=False)
            ]
    return first_errors, gap_errors, clocks


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


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
