"""The kit and perf_analyzer against the same real Triton model: throughput and latencies."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import kit_worker
from benchmarks.processes import client_core, measure
from benchmarks.results import Result, Results, over_rounds
from benchmarks.tools import PEERS, PROMPT, Work, perf_analyzer, perf_analyzer_file
from kit.records import Endpoint, Engine, Protocol, TrialSpec
from kit.releases import get_release
from kit.servers.embedded import EmbeddedServer
from kit.servers.repository import build_repository
from kit.store import TrialFolder

RELEASE = "24.10"
CLIENTS = 16
TOKENS = 16
SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one client reports of one run."""

    requests_per_s: float
    p50_ms: float
    cpu_us_a_request: float | None


def http(results: Results, rounds: int) -> None:
    """HTTP infer on a model that is not decoupled, which perf_analyzer can also call."""
    _compare(results, rounds, "http", "unary", Protocol.HTTP_INFER, ["-i", "http"])


def grpc(results: Results, rounds: int) -> None:
    """gRPC streams on the simulated engine, 16 tokens an answer; and unary gRPC."""
    streaming = ["-i", "grpc", "--streaming"]
    _compare(results, rounds, "grpc_stream", "simulated", Protocol.GRPC_STREAM, streaming)
    _compare(results, rounds, "grpc_unary", "unary", Protocol.GRPC_INFER, ["-i", "grpc"])


@contextmanager
def _triton(model: str, folder: Path) -> Iterator[Endpoint]:
    engine = Engine(decode_step_ms=2.0, max_sequences=64, blocks=4096, log_stats=False)
    spec = TrialSpec(
        trial_id="bench", release=RELEASE, scenario="bench", model=model, engine=engine
    )
    trial = TrialFolder.create(folder / "server", spec)
    repository = build_repository(spec, folder / "repository")
    with EmbeddedServer(get_release(RELEASE), repository, trial) as server:
        yield server.endpoint


def _compare(
    results: Results,
    rounds: int,
    name: str,
    model: str,
    protocol: Protocol,
    options: Sequence[str],
) -> None:
    if PEERS["perf_analyzer"].version() is None:
        return
    ours: list[Seen] = []
    theirs: list[Seen] = []
    command: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
        _triton(model, Path(scratch)) as endpoint,
    ):
        _kit(protocol, model, endpoint, 2.0)  # warms the server up
        for _ in range(rounds):
            ours.append(_kit(protocol, model, endpoint, SECONDS))
            requests = round(ours[-1].requests_per_s * SECONDS)
            seen, command = _perf_analyzer(options, model, endpoint, requests)
            theirs.append(seen)
    shown = " ".join(command)
    spread = [seen.p50_ms for seen in theirs]
    pairs = list(zip(ours, theirs, strict=True))
    rate = [kit.requests_per_s / peer.requests_per_s for kit, peer in pairs]
    p50 = [kit.p50_ms / peer.p50_ms for kit, peer in pairs]
    cpu = [
        kit.cpu_us_a_request / peer.cpu_us_a_request
        for kit, peer in pairs
        if kit.cpu_us_a_request and peer.cpu_us_a_request
    ]
    note = (
        f"p50 of perf_analyzer over its own rounds: {min(spread):.2f}-{max(spread):.2f} ms; "
        f"the kit's: {min(s.p50_ms for s in ours):.2f}-{max(s.p50_ms for s in ours):.2f} ms"
    )
    for what, values, target in (
        ("rate", rate, ">= 1"),
        ("p50_latency", p50, None),
        ("cpu", cpu, None),
    ):
        results.add(
            Result(
                name=f"real_{name}_{what}_vs_perf_analyzer",
                unit="ratio",
                target=target,
                peer="perf_analyzer",
                peer_version=PEERS["perf_analyzer"].version(),
                command=re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", shown),
                note=note if what == "p50_latency" else None,
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )
    within = min(spread) <= statistics.median(s.p50_ms for s in ours) <= max(spread)
    results.add(
        Result(
            name=f"real_{name}_latency_within_perf_analyzers_spread",
            value=float(within),
            unit="1 = the kit's median p50 lies within perf_analyzer's range over its rounds",
            target=">= 1",
            peer="perf_analyzer",
            peer_version=PEERS["perf_analyzer"].version(),
            note=note,
            rounds=rounds,
        )
    )


def _kit(protocol: Protocol, model: str, endpoint: Endpoint, seconds: float) -> Seen:
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        folder = Path(scratch)
        work = Work(
            port=0, clients=CLIENTS, tokens=TOKENS, streams=False, seconds=seconds, folder=folder
        )
        load = kit_worker.workload(work, protocol=protocol)
        command = kit_worker.prepare(load, endpoint, folder, model)
        trial = kit_worker.trial(folder)
        usage = measure(command, lambda: (0, 0), core=client_core(), folder=folder)
        assert usage.exit_code == 0, usage.output
        table = trial.requests()
        cpu = _steady_cpu_us(trial.client().to_pydict())
    assert table["outcome"].unique().to_pylist() == ["ok"], table["outcome"].unique()
    rows = table.select(["sent_ns", "first_ns", "end_ns"]).to_pylist()
    span = max(row["end_ns"] for row in rows) - min(row["sent_ns"] for row in rows)
    # perf_analyzer measures a decoupled model to its first response.
    last = "first_ns" if protocol is Protocol.GRPC_STREAM else "end_ns"
    latencies = [(row[last] - row["sent_ns"]) / 1e6 for row in rows]
    return Seen(
        requests_per_s=len(rows) / (span / 1e9),
        p50_ms=statistics.median(latencies),
        cpu_us_a_request=cpu,
    )


def _steady_cpu_us(rows: dict[str, list[float]]) -> float | None:
    """Processor time a request between a worker's first tick and its last."""
    times, shares, ended = rows["t_ns"], rows["cpu_fraction"], rows["ended"]
    seconds = sum(
        share * (b - a) / 1e9 for a, b, share in zip(times, times[1:], shares[1:], strict=False)
    )
    done = ended[-1] - ended[0]
    return 1e6 * seconds / done if done else None


def _perf_analyzer(
    options: Sequence[str], model: str, endpoint: Endpoint, requests: int
) -> tuple[Seen, list[str]]:
    port = endpoint.grpc_port if "grpc" in options else endpoint.http_port
    tensors = {
        "text_input": [PROMPT],
        "stream": [True],
        "sampling_parameters": [f'{{"max_tokens":{TOKENS}}}'],
    }
    command = [
        *(*perf_analyzer(), "-m", model, *options, "-u", f"127.0.0.1:{port}"),
        *("--input-data", perf_analyzer_file("triton.json", {"data": [tensors]})),
        *("--concurrency-range", str(CLIENTS), "--request-count", str(requests), "-s", "99"),
    ]
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        usage = measure(command, lambda: (0, 0), core=client_core(), folder=Path(scratch))
    said = usage.output
    rate = re.search(r"Throughput: ([\d.]+) infer/sec", said)
    p50 = re.search(r"p50 latency: (\d+) usec", said)
    assert rate, said
    assert p50, said
    return (
        Seen(
            requests_per_s=float(rate[1]),
            p50_ms=float(p50[1]) / 1e3,
            cpu_us_a_request=usage.total_cpu_s / requests * 1e6,
        ),
        command,
    )
