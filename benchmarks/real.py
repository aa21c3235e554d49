"""The kit and perf_analyzer against the same real Triton model: throughput, latencies and cost.

Rates and latencies are what each client says, from its first request to its last answer. Processor
time is that of the whole process tree while the server was busy, a request as the server counts
them: neither is charged its start.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

from benchmarks import kit_worker
from benchmarks.commands import readable
from benchmarks.processes import client_core, measure
from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import grpc_source
from benchmarks.tools import PEERS, PROMPT, Work, perf_analyzer, perf_analyzer_file
from kit.servers.embedded import EmbeddedServer
from kit.servers.repository import build_repository
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Client, Endpoint, Engine, Protocol, ServerSpec, TrialSpec

RELEASE = "24.10"
CLIENTS = 16
TOKENS = 16
SECONDS = 8.0
_ANSWERED = re.compile(r"^nv_inference_request_success\{.*\} (\d+)", re.MULTILINE)
_AGREEMENT = (
    "1 = the kit's p50s and perf_analyzer's agree: their ranges over the rounds overlap, "
    "perf_analyzer's widened in each round by the standard deviation that it reports"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one run was like.

    Latency is that of whole answers. (Of a decoupled model perf_analyzer says that it measures
    its first response; `average_ms` shows that it does not: it is nearly clients / rate.)
    """

    requests_per_s: float
    cpu_us_a_request: float | None
    p50_ms: float
    average_ms: float
    deviation_ms: float


def http(results: Results, rounds: int) -> None:
    """HTTP infer on a model that is not decoupled, which perf_analyzer can also call."""
    _compare(results, rounds, "http", "unary", Protocol.HTTP_INFER, ["-i", "http"], None)


def grpc(results: Results, rounds: int) -> None:
    """gRPC streams on the simulated engine, 16 tokens an answer; and unary gRPC."""
    options = {"stream": ["-i", "grpc", "--streaming"], "unary": ["-i", "grpc"]}
    for name, model, protocol in _GRPC:
        _compare(results, rounds, f"grpc_{name}", model, protocol, options[name], "<= 0.8")


_GRPC = (("stream", "simulated", Protocol.GRPC_STREAM), ("unary", "unary", Protocol.GRPC_INFER))


def grpc_clients(results: Results, rounds: int) -> None:
    """The kit's own gRPC client and grpcio in the kit, in turn, on the same Triton server."""
    for name, model, protocol in _GRPC:
        with (
            tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
            _triton(model, Path(scratch)) as endpoint,
        ):
            counts = _answered(endpoint)
            _by_either_client(
                results,
                rounds,
                f"real_grpc_{name}",
                partial(_kit, protocol, model, endpoint, counts),
                case="grpc-clients",
                target=None,
            )


def grpc_clients_on_source(results: Results, rounds: int) -> None:
    """The same two on our own source, which costs them nothing but their own work."""
    for name, model, protocol in _GRPC:
        with grpc_source() as source:
            endpoint = Endpoint(grpc_port=source.port, http_port=source.port)
            _by_either_client(
                results,
                rounds,
                f"fast_grpc_{name}",
                partial(_kit, protocol, model, endpoint, source.count, clients=64),
                case="grpc-source",
                target="<= 0.25",
            )


def _by_either_client(
    results: Results,
    rounds: int,
    name: str,
    run: Callable[[float, Client], Seen],
    *,
    case: str,
    target: str | None,
) -> None:
    cpu: list[float | None] = []
    rate: list[float | None] = []
    run(2.0, Client.KIT)  # warms the server up
    for _ in range(rounds):
        own, reference = run(SECONDS, Client.KIT), run(SECONDS, Client.GRPCIO)
        rate.append(own.requests_per_s / reference.requests_per_s)
        if own.cpu_us_a_request and reference.cpu_us_a_request:
            cpu.append(own.cpu_us_a_request / reference.cpu_us_a_request)
    for what, values, unit, aim in (
        ("cpu", cpu, "ratio of CPU a request, steady part", target),
        ("rate", rate, "ratio", None),
    ):
        results.add(
            Result(
                name=f"{name}_{what}_vs_grpcio",
                unit=unit,
                target=aim,
                peer="grpcio",
                peer_version=version("grpcio"),
                command=f"python -m benchmarks {case}",
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )


@contextmanager
def _triton(model: str, folder: Path) -> Iterator[Endpoint]:
    engine = Engine(decode_step_ms=2.0, max_sequences=64, blocks=4096, log_stats=False)
    spec = TrialSpec(
        trial_id="bench",
        server=ServerSpec(release=RELEASE),
        scenario="bench",
        model=model,
        engine=engine,
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
    cpu_target: str | None,
) -> None:
    version = PEERS["perf_analyzer"].version()
    if version is None:
        print("perf_analyzer is not installed (python -m benchmarks install)")
        return
    ours: list[Seen] = []
    theirs: list[Seen] = []
    command = ""
    with (
        tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
        _triton(model, Path(scratch)) as endpoint,
    ):
        counts = _answered(endpoint)
        _kit(protocol, model, endpoint, counts, 2.0)  # warms the server up
        for _ in range(rounds):
            ours.append(_kit(protocol, model, endpoint, counts, SECONDS))
            requests = round(ours[-1].requests_per_s * SECONDS)
            seen, command = _perf_analyzer(options, model, endpoint, requests)
            theirs.append(seen)
    pairs = list(zip(ours, theirs, strict=True))
    rate = [kit.requests_per_s / peer.requests_per_s for kit, peer in pairs]
    p50 = [kit.p50_ms / peer.p50_ms for kit, peer in pairs]
    cpu = [
        kit.cpu_us_a_request / peer.cpu_us_a_request
        for kit, peer in pairs
        if kit.cpu_us_a_request and peer.cpu_us_a_request
    ]
    agrees, note = agreement(ours, theirs)
    for what, values, unit, target in (
        ("rate", rate, "ratio", ">= 1"),
        ("p50_latency", p50, "ratio", None),
        ("cpu", cpu, "ratio of CPU a request, steady part", cpu_target),
    ):
        results.add(
            Result(
                name=f"real_{name}_{what}_vs_perf_analyzer",
                unit=unit,
                target=target,
                peer="perf_analyzer",
                peer_version=version,
                command=command,
                note=note if what == "p50_latency" else None,
                **over_rounds(values),  # type: ignore[arg-type]
            )
        )
    results.add(
        Result(
            name=f"real_{name}_latency_agrees_with_perf_analyzer",
            value=float(agrees),
            unit=_AGREEMENT,
            target=">= 1",
            peer="perf_analyzer",
            peer_version=version,
            command=command,
            note=note,
            rounds=rounds,
        )
    )


def agreement(ours: Sequence[Seen], theirs: Sequence[Seen]) -> tuple[bool, str]:
    """Whether the latencies agree within perf_analyzer's own spread, and the figures."""
    low, high = min(s.p50_ms for s in ours), max(s.p50_ms for s in ours)
    least = min(s.p50_ms - s.deviation_ms for s in theirs)
    most = max(s.p50_ms + s.deviation_ms for s in theirs)
    peer = theirs[-1]
    note = (
        f"p50 of the kit {low:.2f}-{high:.2f} ms; of perf_analyzer "
        f"{min(s.p50_ms for s in theirs):.2f}-{max(s.p50_ms for s in theirs):.2f} ms, with its "
        f"standard deviations {least:.2f}-{most:.2f} ms. perf_analyzer's average is "
        f"{peer.average_ms:.1f} ms, clients / rate {1e3 * CLIENTS / peer.requests_per_s:.1f} ms"
    )
    return low <= most and least <= high, note


def _answered(endpoint: Endpoint) -> Callable[[], tuple[int, int]]:
    """Counts the requests that the server has answered, over all models."""
    url = f"http://127.0.0.1:{endpoint.metrics_port}/metrics"

    def count() -> tuple[int, int]:
        with urlopen(url, timeout=10.0) as answer:
            text = answer.read().decode()
        return sum(map(int, _ANSWERED.findall(text))), 0

    return count


def _kit(
    protocol: Protocol,
    model: str,
    endpoint: Endpoint,
    counts: Callable[[], tuple[int, int]],
    seconds: float,
    client: Client = Client.KIT,
    *,
    clients: int = CLIENTS,
) -> Seen:
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        folder = Path(scratch)
        work = Work(
            port=0, clients=clients, tokens=TOKENS, streams=False, seconds=seconds, folder=folder
        )
        load = kit_worker.workload(work, protocol=protocol, grpc_client=client)
        command = kit_worker.prepare(load, endpoint, folder, model)
        usage = measure(command, counts, core=client_core(), folder=folder)
        assert usage.exit_code == 0, usage.output
        table = kit_worker.trial(folder).requests()
    assert table["outcome"].unique().to_pylist() == ["ok"], table["outcome"].unique()
    rows = table.select(["sent_ns", "end_ns"]).to_pylist()
    span_s = (max(row["end_ns"] for row in rows) - min(row["sent_ns"] for row in rows)) / 1e9
    latencies = [(row["end_ns"] - row["sent_ns"]) / 1e6 for row in rows]
    return Seen(
        requests_per_s=len(rows) / span_s,
        cpu_us_a_request=usage.cpu_us_a_request,
        p50_ms=statistics.median(latencies),
        average_ms=statistics.fmean(latencies),
        deviation_ms=statistics.pstdev(latencies),
    )


def _perf_analyzer(
    options: Sequence[str], model: str, endpoint: Endpoint, requests: int
) -> tuple[Seen, str]:
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
        usage = measure(command, _answered(endpoint), core=client_core(), folder=Path(scratch))
    said = usage.output
    found = re.search(
        r"Throughput: ([\d.]+) infer/sec"
        r"[\s\S]*?Avg latency: (\d+) usec \(standard deviation (\d+) usec\)"
        r"[\s\S]*?p50 latency: (\d+) usec",
        said,
    )
    assert found, said
    average, deviation, p50 = (float(text) / 1e3 for text in found.groups()[1:])
    seen = Seen(
        requests_per_s=float(found[1]),
        cpu_us_a_request=usage.cpu_us_a_request,
        p50_ms=p50,
        average_ms=average,
        deviation_ms=deviation,
    )
    return seen, readable(command, {str(port): "PORT"})
