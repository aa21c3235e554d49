"""What a trial sees of its load while it runs: whether anything comes, and who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from calm import in_a_calm_moment
from load_helpers import run_load, trial, workload
from scripted_server import SILENCE, STREAM_HEAD, Script, ScriptedServer, chunk, event

from kit.load.worker.counts import gave_up, never_answered
from kit.load.worker.workers import Workers
from kit.study.folder import REQUESTS, TrialFolder
from kit.study.spec import (
    ArrivalKind,
    Arrivals,
    Endpoint,
    Fault,
    FaultKind,
    Protocol,
    Workload,
    fixed,
)

Respond = Callable[[bytes, bytes], Script]


def silent(head: bytes, body: bytes) -> Script:
    return [SILENCE]


def endless(head: bytes, body: bytes) -> Script:
    yield STREAM_HEAD
    while True:
        yield chunk(event(" more"))
        yield 0.1


@contextmanager
def under(load: Workload, respond: Respond, path: Path) -> Iterator[Workers]:
    """The workers of a load, running."""
    spec = trial(load)
    with ScriptedServer(respond) as server:
        workers = Workers(
            spec, Endpoint(http_port=server.port), TrialFolder.create(path / "t", spec)
        )
        workers.start()
        try:
            yield workers
        finally:
            workers.stop()
            workers.close()


def wait_until(workers: Workers, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
        workers.look()


def longest_quiet_s(workers: Workers, seconds: float, until_ended: int | None = None) -> float:
    """The longest silence, while requests wait, that a trial sees in so many seconds."""
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end and (until_ended is None or workers.ended < until_ended):
        time.sleep(0.05)
        workers.look()
        worst = max(worst, workers.quiet_s() or 0.0)
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_that_goes_on_without_an_end_is_progress(tmp_path: Path, processes: int) -> None:
    load = workload(
        protocol=Protocol.HTTP_GENERATE_STREAM,
        processes=processes,
        output_tokens=fixed(500),
        timeout_s=30.0,
    )
    with under(load, endless, tmp_path) as workers:
        wait_until(workers, lambda: workers.waiting == 4)
        quiet_s = in_a_calm_moment(lambda _: longest_quiet_s(workers, 4.0), lambda s: s < 2.0)
        assert quiet_s < 2.0
        assert workers.ended == 0


@pytest.mark.slow
@pytest.mark.parametrize("timeout_s", [30.0, 0.5])
def test_a_silent_server_makes_no_progress_however_soon_clients_give_up(
    tmp_path: Path, timeout_s: float
) -> None:
    load = workload(requests=10_000, timeout_s=timeout_s)
    with under(load, silent, tmp_path) as workers:
        wait_until(workers, lambda: (workers.quiet_s() or 0.0) > 2.5)
        assert workers.waiting == 4
        assert (workers.ended > 0) == (timeout_s < 1)


@pytest.mark.slow
def test_one_worker_that_gets_answers_is_progress_for_all(tmp_path: Path) -> None:
    traffic: list[bytes] = []

    def only_first(head: bytes, body: bytes) -> Script:
        traffic.append(body)
        return endless(head, body) if len(traffic) == 1 else [SILENCE]

    load = workload(
        protocol=Protocol.HTTP_GENERATE_STREAM,
        processes=2,
        output_tokens=fixed(500),
        timeout_s=30.0,
    )
    with under(load, only_first, tmp_path) as workers:
        wait_until(workers, lambda: workers.waiting == 4)
        quiet_s = in_a_calm_moment(lambda _: longest_quiet_s(workers, 3.0), lambda s: s < 2.0)
        assert quiet_s < 2.0


@pytest.mark.slow
def test_a_request_that_we_keep_open_ourselves_does_not_wait(tmp_path: Path) -> None:
    load = workload(faults=(Fault(kind=FaultKind.HALF_OPEN),), timeout_s=30.0)
    with under(load, silent, tmp_path) as workers:
        wait_until(workers, lambda: workers.in_flight == 4)
        longest_quiet_s(workers, 1.0)
        assert (workers.in_flight, workers.waiting, workers.quiet_s()) == (4, 0, None)


@pytest.mark.slow
def test_a_slow_reader_waits_until_its_answer_has_begun(tmp_path: Path) -> None:
    def begin_then_pause(head: bytes, body: bytes) -> Script:
        yield 2.0
        yield STREAM_HEAD
        yield SILENCE

    fault = Fault(kind=FaultKind.SLOW_READER, bytes_per_s=20.0)
    load = workload(
        protocol=Protocol.HTTP_GENERATE_STREAM, faults=(fault,), requests=4, timeout_s=30.0
    )
    with under(load, begin_then_pause, tmp_path) as workers:
        wait_until(workers, lambda: workers.waiting == 4)
        wait_until(workers, lambda: workers.waiting == 0)
        assert workers.in_flight == 4


@pytest.mark.slow
def test_silence_between_rare_requests_is_nobody_waiting(tmp_path: Path) -> None:
    arrivals = Arrivals(kind=ArrivalKind.CONSTANT, rate_per_s=0.4, concurrency=None)

    def slowly(head: bytes, body: bytes) -> Script:
        yield 0.6
        yield b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"

    with under(workload(arrivals=arrivals, requests=3), slowly, tmp_path) as workers:
        assert longest_quiet_s(workers, 20.0, until_ended=2) < 2.0
        assert workers.ended >= 2


@pytest.mark.slow
def test_only_a_request_to_which_nothing_came_is_never_answered(tmp_path: Path) -> None:
    def some(head: bytes, body: bytes) -> Script:
        return [SILENCE] if len(server.seen) % 2 else [b"HTTP/1.1 200 OK\r\n", SILENCE]

    with ScriptedServer(some) as server:
        rows = run_load(workload(requests=8, timeout_s=1.0), server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"timeout"}
    table = pa.Table.from_pylist(rows, schema=REQUESTS)
    assert gave_up(table) == 8
    assert never_answered(table, after_s=1.0) == 4
    assert never_answered(table, after_s=5.0) == 0


@pytest.mark.slow
def test_a_deadline_of_the_traffic_is_no_lost_answer(tmp_path: Path) -> None:
    fault = Fault(kind=FaultKind.DEADLINE, deadline_s=fixed(0.2))
    with ScriptedServer(silent) as server:
        rows = run_load(workload(requests=8, faults=(fault,)), server.port, tmp_path / "t")
    table = pa.Table.from_pylist(rows, schema=REQUESTS)
    assert gave_up(table) == never_answered(table, after_s=0.1) == 0
