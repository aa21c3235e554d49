"""The load worker as its trial sees it: a process that sends a workload and writes records."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from load_helpers import finished, run_load, started, trial, workload
from scripted_server import SILENCE, Script, ScriptedServer, asked, generate

from kit.load.traffic.traffic import Traffic
from kit.load.worker.closed_loop import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, Protocol


def wait_until(condition: object, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM])
def test_every_request_is_sent_once_and_recorded_once(tmp_path: Path, protocol: Protocol) -> None:
    load = workload(protocol=protocol, requests=60)
    with ScriptedServer() as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert [row["request"] for row in rows] == list(range(60))
    assert {row["outcome"] for row in rows} == {"ok"}
    traffic = Traffic(load)
    sent = Counter(asked(body)[0].encode() for _, body in server.seen)
    assert sent == Counter(traffic.call(number).text for number in range(60))
    assert server.most_open <= 4
    for row in rows:
        times = [row[name] for name in ("scheduled_ns", "sent_ns", "first_ns", "end_ns")]
        assert times == sorted(times)
        if protocol is Protocol.HTTP_GENERATE_STREAM:
            assert row["tokens"] == len(row["token_ns"]) == 5
            assert row["token_ns"] == sorted(row["token_ns"])
            assert row["first_ns"] == row["token_ns"][0]
        else:
            assert row["tokens"] is None
            assert row["token_ns"] is None


@pytest.mark.slow
def test_several_workers_share_one_workload_exactly(tmp_path: Path) -> None:
    load = workload(requests=50, processes=3, concurrency=5, turns=2)
    with ScriptedServer() as server:
        folder, workers = started(load, Endpoint(http_port=server.port), tmp_path / "t")
        finished(workers)
    rows = folder.requests().to_pylist()
    assert sorted(row["request"] for row in rows) == list(range(50))
    assert {row["outcome"] for row in rows} == {"ok"}
    assert {row["worker"] for row in rows} == {0, 1, 2}
    assert all(row["conversation"] % 3 == row["worker"] for row in rows)
    assert server.most_open <= 5


@pytest.mark.slow
def test_a_request_that_is_open_when_the_server_dies_is_in_flight(tmp_path: Path) -> None:
    def respond(head: bytes, body: bytes) -> Script:
        return [SILENCE] if len(server.seen) > 10 else generate(head, body)

    with ScriptedServer(respond) as server:
        folder, workers = started(workload(), Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: len(server.seen) >= 14)
        server.die()
        workers[0].server_died(time.monotonic_ns())
        finished(workers)
    outcomes = Counter(row["outcome"] for row in folder.requests().to_pylist())
    assert outcomes["ok"] == 10
    assert outcomes["in_flight"] == 4
    assert set(outcomes) <= {"ok", "in_flight", "refused"}


@pytest.mark.slow
def test_a_connection_that_breaks_while_the_server_lives_is_reset(tmp_path: Path) -> None:
    def respond(head: bytes, body: bytes) -> Script:
        return ["reset"] if len(server.seen) % 5 == 0 else generate(head, body)

    with ScriptedServer(respond) as server:
        rows = run_load(workload(), server.port, tmp_path / "t")
    assert Counter(row["outcome"] for row in rows) == {"ok": 32, "reset": 8}


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_worker_loses_at_most_half_a_second_of_records(tmp_path: Path) -> None:
    def slowly(head: bytes, body: bytes) -> Script:
        return [0.005, *generate(head, body)]

    with ScriptedServer(slowly) as server:
        load = workload(requests=100_000)
        folder, workers = started(load, Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: workers[0].progress().ended > 1000)
        workers[0].kill()
    # On a busy machine the clock says nothing about the worker, so its own counts and ticks do:
    # 4 clients whose answers take 5 ms at least end 400 requests in half a second at the most.
    ended = workers[0].progress().ended
    workers[0].close()
    assert ended - folder.requests().num_rows < 400
    client = folder.client()
    late_ns = 1e9 * max(client["loop_lag_s"].to_pylist())
    ticks = client["t_ns"].to_pylist()
    assert len(ticks) >= 3
    for earlier, later in pairwise(ticks):
        assert later - earlier < 500e6 + 5 * late_ns, "it writes every few ticks, late or not"


@pytest.mark.slow
def test_a_worker_whose_parent_is_gone_writes_what_it_has_and_leaves(tmp_path: Path) -> None:
    with ScriptedServer(lambda head, body: [0.02, *generate(head, body)]) as server:
        load = workload(requests=100_000)
        folder, workers = started(load, Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: workers[0].progress().ended > 10)
        workers[0].close()
        assert workers[0].wait(10) not in (None, 0)
    assert folder.requests().num_rows > 10


@pytest.mark.slow
def test_a_worker_whose_disk_is_full_fails_and_says_why(tmp_path: Path) -> None:
    with ScriptedServer(lambda head, body: [0.005, *generate(head, body)]) as server:
        load = workload(requests=100_000)
        folder, workers = started(load, Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: folder.requests().num_rows > 20)
        assert workers[0].error() is None
        pid = workers[0].pid
        assert pid is not None
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
        assert workers[0].wait(30) not in (None, 0), "it lives on, and looks like a hung server"
        workers[0].close()
    assert "requests-0.arrows cannot be written" in (workers[0].error() or "")
    assert "File too large" in (workers[0].error() or "")
    assert folder.requests().num_rows > 20


#: A worker with a defect: a callback of its event loop raises.
BROKEN = """
import sys
from kit.load.worker import worker
from kit.load.http.connection import Connection

Connection.received = lambda connection, data, now_ns: 1 / 0
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_error_in_a_callback_ends_the_worker(tmp_path: Path) -> None:
    folder = TrialFolder.create(tmp_path / "t", trial(workload(requests=100_000)))
    with ScriptedServer() as server:
        endpoint = msgspec.json.encode(Endpoint(http_port=server.port)).decode()
        with subprocess.Popen(
            [sys.executable, "-c", BROKEN, str(folder.path), "0", endpoint],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                code = process.wait(20)
            finally:
                process.kill()
            assert code == 1
            assert process.stderr is not None
            assert process.stderr.read().rstrip().endswith(b"ZeroDivisionError: division by zero")


@pytest.mark.slow
def test_a_stopped_worker_records_what_is_open(tmp_path: Path) -> None:
    with ScriptedServer(lambda head, body: [SILENCE]) as server:
        folder, workers = started(workload(), Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: len(server.seen) == 4)
        workers[0].stop()
        finished(workers)
    rows = folder.requests().to_pylist()
    assert [row["outcome"] for row in rows] == ["in_flight"] * 4
    assert all(row["end_ns"] >= row["sent_ns"] for row in rows)


@pytest.mark.slow
def test_a_refused_client_backs_off(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        port = server.port
    rows = run_load(workload(requests=24), port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"refused"}
    assert all(row["sent_ns"] is None for row in rows)
    for client in range(4):
        due = sorted(row["scheduled_ns"] for row in rows if row["client"] == client)
        waits = [later - earlier for earlier, later in pairwise(due)]
        for place, wait_ns in enumerate(waits):
            least_s = min(FIRST_BACKOFF_S * 2**place, LONGEST_BACKOFF_S)
            assert wait_ns >= 0.95e9 * least_s, (client, waits)  # timers know milliseconds


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_known_when_a_worker_broke(tmp_path: Path, number: signal.Signals) -> None:
    """One that breaks once the server is dead has done nothing to the server."""
    with ScriptedServer(lambda head, body: [SILENCE]) as server:
        _, [worker] = started(workload(), Endpoint(http_port=server.port), tmp_path / "t")
        wait_until(lambda: server.seen)
        assert worker.pid is not None
        died_ns = time.monotonic_ns()
        os.kill(worker.pid, number)
        wait_until(lambda: worker.poll() is not None)
        worker.close()
    said = f"somebody ended it with {number.name}"
    assert (worker.error(until_ns=died_ns), worker.error()) == (None, said)
    wait_until(lambda: worker.error(until_ns=time.monotonic_ns()) == said)
