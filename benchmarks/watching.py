"""What watching a server costs: the watcher, the server it scrapes, and the load beside both."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from benchmarks import kit_worker
from benchmarks.processes import client_core, measure
from benchmarks.real import CLIENTS, RELEASE, TOKENS
from benchmarks.results import Result, Results, over_rounds
from benchmarks.tools import Work
from kit.servers.embedded import EmbeddedServer
from kit.servers.repository import build_repository
from kit.servers.watch import fetch
from kit.servers.watch.sampler import LIMIT_BYTES, TIMEOUT_S, Watcher
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, Engine, Protocol, ServerSpec, TrialSpec

MODEL = "simulated"
#: As a trial has it unless its spec says otherwise.
INTERVAL_S = 0.25
SECONDS = 8.0
#: Scrapes of an idle server: so many that they stand out from what it does by itself.
SCRAPES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the load generator saw of one run, and what the server's processes took."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    server_cores: float
    watcher_cores: float | None  # None: nobody watched


def watching(results: Results, rounds: int) -> None:
    """A real server under load with the watcher on and off, in turn; and its scrapes alone."""
    watched: list[Load] = []
    alone: list[Load] = []
    scrape_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch, _server(Path(scratch)) as up:
        _load(up, watch=False, seconds=2.0)  # warms the server up
        for number in range(rounds):
            # Whichever comes second has the warmer machine, so they take turns.
            for watch in (True, False) if number % 2 else (False, True):
                (watched if watch else alone).append(_load(up, watch=watch, seconds=SECONDS))
            scrape_ms.append(_scrape_cost_ms(up))
    pairs = list(zip(watched, alone, strict=True))
    _add(results, "watching_cpu", [w.watcher_cores for w in watched], "cores", "<= 0.1")
    _add(results, "watching_server_cpu_a_scrape", scrape_ms, "ms of the server's processor time")
    ratios: tuple[tuple[str, Callable[[Load], float], str], ...] = (
        ("rate", lambda seen: seen.requests_per_s, ">= 0.95"),
        ("p50_latency", lambda seen: seen.p50_ms, "<= 1.05"),
        ("p95_latency", lambda seen: seen.p95_ms, "<= 1.1"),
        ("server_cpu", lambda seen: seen.server_cores, "<= 1.05"),
    )
    for name, figure, target in ratios:
        values = [figure(on) / figure(off) for on, off in pairs]
        spread = [figure(off) / figure(off_) for off in alone for off_ in alone]
        note = f"rounds without it differ among each other by up to {max(spread) - 1:.1%}"
        _add(results, f"watching_{name}_vs_unwatched", values, "ratio", target, note)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Up:
    server: EmbeddedServer
    trial: TrialFolder
    endpoint: Endpoint


@contextmanager
def _server(folder: Path) -> Iterator[_Up]:
    """The simulated engine with its log lines and metrics, as a trial has it."""
    engine = Engine(decode_step_ms=2.0, max_sequences=64, blocks=4096)
    spec = TrialSpec(
        trial_id="bench",
        server=ServerSpec(release=RELEASE),
        scenario="bench",
        model=MODEL,
        engine=engine,
    )
    trial = TrialFolder.create(folder / "server", spec)
    repository = build_repository(spec, folder / "repository")
    with EmbeddedServer(get_release(RELEASE), repository, trial) as server:
        yield _Up(server=server, trial=trial, endpoint=server.endpoint)


def _load(up: _Up, *, watch: bool, seconds: float) -> Load:
    """One run of the load generator, with a watcher in a process of its own beside it or not."""
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        folder = Path(scratch)
        work = Work(
            port=0, clients=CLIENTS, tokens=TOKENS, streams=False, seconds=seconds, folder=folder
        )
        load = kit_worker.workload(work, protocol=Protocol.HTTP_GENERATE)
        command = kit_worker.prepare(load, up.endpoint, folder, MODEL)
        with _watcher(up, folder) if watch else nullcontext() as watcher:
            began, server = time.monotonic(), _cpu_s(up.server.pid)
            own = watcher.cpu_s() if watcher else 0.0
            usage = measure(command, lambda: (0, 0), core=client_core(), folder=folder)
            took = time.monotonic() - began
            server_cores = (_cpu_s(up.server.pid) - server) / took
            watcher_cores = (watcher.cpu_s() - own) / took if watcher else None
        assert usage.exit_code == 0, usage.output
        table = kit_worker.trial(folder).requests()
    assert table["outcome"].unique().to_pylist() == ["ok"], table["outcome"].unique()
    rows = table.select(["sent_ns", "end_ns"]).to_pylist()
    span = max(row["end_ns"] for row in rows) - min(row["sent_ns"] for row in rows)
    cuts = statistics.quantiles([(row["end_ns"] - row["sent_ns"]) / 1e6 for row in rows], n=20)
    return Load(
        requests_per_s=len(rows) / (span / 1e9),
        p50_ms=cuts[9],
        p95_ms=cuts[18],
        server_cores=server_cores,
        watcher_cores=watcher_cores,
    )


class _Watching:
    """A watcher that runs, and how much processor time it took so far."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process = process

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def _watcher(up: _Up, folder: Path) -> Iterator[_Watching]:
    """`python -m benchmarks.watching` beside the server, from its first sample to its last."""
    spec = TrialSpec(
        trial_id="watch", server=ServerSpec(release=RELEASE), scenario="bench", model=MODEL
    )
    trial = TrialFolder.create(folder / "watch", spec)
    trial.log.symlink_to(up.trial.log.resolve())
    words = [str(trial.path), str(up.server.pid), msgspec.json.encode(up.endpoint).decode()]
    process = psutil.Popen(
        [sys.executable, "-m", "benchmarks.watching", *words],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=-1,
        stdout=-1,
        text=True,
    )
    try:
        assert process.stdout.readline() == "watching\n"
        yield _Watching(process)
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
        names = set(trial.samples()["name"].to_pylist())
        assert {"kv_usage_fraction", "nv_inference_request_success"} <= names, names
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _scrape_cost_ms(up: _Up) -> float:
    """Processor time of the server for one scrape: many of an idle one, less what it does alone."""

    async def scrape() -> None:
        port = up.endpoint.metrics_port
        assert port is not None
        for _ in range(SCRAPES):
            answer = await fetch.get(
                up.endpoint.host, port, "/metrics", timeout_s=TIMEOUT_S, limit_bytes=LIMIT_BYTES
            )
            assert answer.status == 200

    began, before = time.monotonic(), _cpu_s(up.server.pid)
    asyncio.run(scrape())
    took, scraped = time.monotonic() - began, _cpu_s(up.server.pid) - before
    before = _cpu_s(up.server.pid)
    time.sleep(took)
    return max(0.0, scraped - (_cpu_s(up.server.pid) - before)) / SCRAPES * 1e3


def _cpu_s(pid: int | None) -> float:
    """Of the server and its stubs."""
    assert pid is not None
    server = psutil.Process(pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _add(
    results: Results,
    name: str,
    values: list[float] | list[float | None],
    unit: str,
    target: str | None = None,
    note: str | None = None,
) -> None:
    results.add(
        Result(
            name=name,
            unit=unit,
            target=target,
            command="python -m benchmarks watching",
            note=note or f"every {INTERVAL_S:g} s, {CLIENTS} clients, Triton {RELEASE}",
            **over_rounds(values),  # type: ignore[arg-type]
        )
    )


def main() -> None:
    """`python -m benchmarks.watching FOLDER PID ENDPOINT`: watch until a line comes in."""
    folder, pid, endpoint = sys.argv[1:]
    watcher = Watcher(
        msgspec.json.decode(endpoint, type=Endpoint),
        TrialFolder(Path(folder)),
        pid=int(pid),
        interval_s=INTERVAL_S,
        model=MODEL,
    )
    watcher.start()
    print("watching", flush=True)
    sys.stdin.readline()
    watcher.stop()
    assert watcher.fault is None, watcher.fault


if __name__ == "__main__":
    main()
