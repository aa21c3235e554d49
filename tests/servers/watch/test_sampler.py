"""The watcher against servers that answer, refuse, hang, drip, flood and lie."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from kit.servers.watch import names, sampler
from kit.servers.watch.sampler import LIMIT_BYTES, Watcher
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, ServerSpec, TrialSpec

Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
LINE = (
    "INFO 11-22 10:00:00 [loggers.py:335] Engine 000: Avg prompt throughput: 9.0 tokens/s, Avg "
    "generation throughput: 2.0 tokens/s, Running: 7 reqs, Waiting: 9 reqs, CPU KV cache usage: "
    "50.0%\n"
)
METRICS = b"nv_cpu_utilization 0.25\nvllm:kv_cache_usage_perc 0.5\n"


async def answer_well(path: bytes, sink: asyncio.StreamWriter) -> None:
    body = METRICS if path == b"/metrics" else b""
    sink.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def never_answer(path: bytes, sink: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        sink.write(b"n")
        await asyncio.sleep(0.05)


async def flood(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 200 OK\r\n\r\n" + METRICS)
    for _ in range(LIMIT_BYTES // 1_000_000 * 10):
        sink.write(b"x" * 1_000_000)
        await sink.drain()


async def talk_garbage(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(os.urandom(5000))


async def never_end_the_head(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        sink.write(b"X-%d: " % id(path) + b"x" * 65_000 + b"\r\n")
        await sink.drain()


async def hang_up(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + METRICS + b"nv_torn 12")


async def talk_another_protocol(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")


async def have_no_such_page(path: bytes, sink: asyncio.StreamWriter) -> None:
    sink.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def serving(answering: Answering) -> Iterator[int]:
    """A server on a free port of 127.0.0.1 in a thread; gives the port."""
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    ready = threading.Event()
    end = asyncio.Event()

    async def handle(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            head = await source.readuntil(b"\r\n\r\n")
            await answering(head.split()[1], sink)
            await sink.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            sink.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    spec = TrialSpec(
        trial_id="t", server=ServerSpec(release="23.10"), scenario="s", model="simulated"
    )
    return TrialFolder.create(tmp_path / "trial", spec)


def watcher_of(folder: TrialFolder, endpoint: Endpoint, pid: int | None = None) -> Watcher:
    return Watcher(endpoint, folder, pid=pid, interval_s=0.05, model="simulated")


def wait_until(true: Callable[[], object]) -> None:
    """Return when `true()` is, or fail after a time that no healthy machine needs."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def seen(folder: TrialFolder) -> set[tuple[str, str]]:
    table = folder.samples()
    return set(zip(table["source"].to_pylist(), table["name"].to_pylist(), strict=True))


def test_every_source_that_a_server_has_is_sampled_with_its_name(folder: TrialFolder) -> None:
    folder.log.write_text(LINE)
    with serving(answer_well) as port:
        watcher = watcher_of(folder, Endpoint(http_port=port, metrics_port=port), os.getpid())
        watcher.start()
        wait_until(lambda: watcher.health().ready)
        watcher.stop()

    assert seen(folder) >= {
        (names.ENGINE_LOG, names.KV_USAGE),
        (names.TRITON_METRICS, names.KV_USAGE),
        (names.TRITON_METRICS, "nv_cpu_utilization"),
        (names.PROCESS, names.SERVER_RSS),
        (names.PROCESS, names.SERVER_CPU),
        (names.HEALTH, names.SERVER_READY),
        (names.HEALTH, names.MODEL_READY),
    }
    assert watcher.fault is None


def test_a_server_without_a_metrics_port_is_asked_on_its_http_port(folder: TrialFolder) -> None:
    with serving(answer_well) as port:
        watcher = watcher_of(folder, Endpoint(http_port=port))
        watcher.start()
        watcher.stop()

    assert (names.TRITON_METRICS, names.KV_USAGE) in seen(folder)


def test_what_a_torn_answer_of_the_metrics_port_tells_is_tritons(folder: TrialFolder) -> None:
    async def tear(path: bytes, sink: asyncio.StreamWriter) -> None:
        sink.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + METRICS.splitlines()[1])
        sink.write(b"\nnv_torn")

    with serving(tear) as port:
        watcher = watcher_of(folder, Endpoint(metrics_port=port))
        watcher.start()
        watcher.stop()

    assert seen(folder) == {(names.TRITON_METRICS, names.KV_USAGE)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "answering",
    [
        *(never_answer, drip, flood, talk_garbage, never_end_the_head),
        *(hang_up, have_no_such_page, talk_another_protocol),
    ],
)
def test_a_bad_metrics_endpoint_delays_neither_the_log_nor_the_end(
    folder: TrialFolder, answering: Answering
) -> None:
    folder.log.touch()
    with serving(answering) as port:
        watcher = watcher_of(folder, Endpoint(http_port=port, metrics_port=port))
        watcher.start()
        with folder.log.open("a") as log:
            log.write(LINE)
        wait_until(lambda: (names.ENGINE_LOG, names.KV_USAGE) in seen(folder))
        began = time.monotonic()
        watcher.stop()

    assert time.monotonic() - began < 10
    assert watcher.fault is None


@pytest.mark.slow
def test_a_source_that_fails_is_told_and_costs_the_others_nothing(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(body: bytes, **_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(sampler, "parse_metrics", fail)
    folder.log.touch()
    with serving(answer_well) as port:
        watcher = watcher_of(folder, Endpoint(metrics_port=port))
        watcher.start()
        wait_until(lambda: watcher.fault)
        folder.log.write_text(LINE * 5_000)
        watcher.stop()

    assert watcher.fault == "metrics: ValueError('a defect')"
    assert folder.samples()["name"].to_pylist().count(names.KV_USAGE) == 5_000


def mutated(data: bytes, random: Random) -> bytes:
    """Truncated, torn into another, with foreign bytes inside, or many times itself."""
    at, length = random.randrange(len(data)), random.randrange(1, 400)
    return random.choice(
        [
            data[:at],
            data[:at] + data,
            data[:at] + random.randbytes(length) + data[at:],
            data[:at] + b"\xff\x00\r\n\n{}" * length + data[at:],
            data.replace(b" ", random.randbytes(1)),
            data * length,
        ]
    )


@pytest.mark.slow
def test_input_mutated_in_every_way_never_stops_the_watcher(folder: TrialFolder) -> None:
    random = Random(11)  # the same mutations in every run
    left = [mutated(METRICS, random) for _ in range(60)]

    async def answer_badly(path: bytes, sink: asyncio.StreamWriter) -> None:
        if not left:
            await answer_well(path, sink)
            return
        body = left.pop()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        answer = head + body
        sink.write(mutated(answer, random) if random.random() < 0.5 else answer)

    folder.log.touch()
    with serving(answer_badly) as port:
        watcher = Watcher(
            Endpoint(metrics_port=port), folder, pid=None, interval_s=0.01, model="simulated"
        )
        watcher.start()
        while left:
            with folder.log.open("ab") as log:
                log.write(mutated(LINE.encode(), random))
            time.sleep(0.01)
        with folder.log.open("a") as log:
            log.write("\n" + LINE.replace("50.0%", "12.5%"))
        wait_until(lambda: 0.125 in folder.samples()["value"].to_pylist())
        before = folder.samples()["source"].to_pylist().count(names.TRITON_METRICS)
        wait_until(
            lambda: folder.samples()["source"].to_pylist().count(names.TRITON_METRICS) > before
        )
        watcher.stop()

    assert watcher.fault is None


def test_what_came_of_a_torn_answer_is_kept_but_for_its_last_line(folder: TrialFolder) -> None:
    with serving(hang_up) as port:
        watcher = watcher_of(folder, Endpoint(metrics_port=port))
        watcher.start()
        watcher.stop()

    assert seen(folder) >= {(names.TRITON_METRICS, names.KV_USAGE)}
    assert (names.TRITON_METRICS, "nv_torn") not in seen(folder)


def test_a_server_that_is_gone_is_not_ready(folder: TrialFolder) -> None:
    with serving(answer_well) as port:
        pass
    watcher = watcher_of(folder, Endpoint(http_port=port, metrics_port=port))
    watcher.start()
    wait_until(lambda: watcher.health().ready is False)
    watcher.stop()

    assert names.kv_state(folder.samples()).exported is False


@pytest.mark.slow
def test_a_server_that_is_silent_has_told_nothing(folder: TrialFolder) -> None:
    with serving(never_answer) as port:
        watcher = watcher_of(folder, Endpoint(http_port=port))
        watcher.start()
        watcher.stop()

    assert watcher.health().ready is None
    assert folder.samples().num_rows == 0


def test_metrics_that_do_not_change_are_written_once_and_kv_usage_each_time(
    folder: TrialFolder,
) -> None:
    with serving(answer_well) as port:
        watcher = watcher_of(folder, Endpoint(metrics_port=port))
        watcher.start()
        kv = names.TRITON_METRICS, names.KV_USAGE
        wait_until(lambda: folder.samples()["name"].to_pylist().count(kv[1]) >= 3)
        watcher.stop()

    assert folder.samples()["name"].to_pylist().count("nv_cpu_utilization") == 1


@pytest.mark.slow
def test_the_end_of_the_log_is_read_even_without_its_newline(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "LAST_LOG_S", 60.0)  # a slow machine is not what is tested
    watcher = watcher_of(folder, Endpoint())
    watcher.start()
    folder.log.write_text(LINE * 20_000 + LINE.rstrip("\n"))
    watcher.stop()

    assert folder.samples()["name"].to_pylist().count(names.KV_USAGE) == 20_001


def test_a_process_below_the_server_is_seen_to_die(folder: TrialFolder) -> None:
    stub = "import sys; sys.stdin.read()"
    server = (
        "import subprocess, sys\n"
        f"stub = subprocess.Popen([sys.executable, '-c', {stub!r}], stdin=subprocess.PIPE)\n"
        "print('up', flush=True); sys.stdin.readline()\n"
        "stub.kill(); stub.wait(); print('killed', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        watcher = watcher_of(folder, Endpoint(), process.pid)
        watcher.start()
        wait_until(lambda: watcher.health().stubs_alive)
        print(file=process.stdin, flush=True)
        process.stdout.readline()
        wait_until(lambda: watcher.health().stubs_alive is False)
        watcher.stop()
        process.communicate("\n")

    assert (names.PROCESS, names.STUB_RSS) in seen(folder)


def test_a_server_that_died_before_the_start_gives_no_rows(folder: TrialFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    watcher = watcher_of(folder, Endpoint(), process.pid)
    watcher.start()
    watcher.stop()

    assert folder.samples().num_rows == 0
    assert watcher.health().stubs_alive is None


def test_stop_may_be_called_twice_or_without_a_start(folder: TrialFolder) -> None:
    watcher_of(folder, Endpoint()).stop()
    watcher = watcher_of(folder, Endpoint())
    watcher.start()
    watcher.stop()
    watcher.stop()

    assert watcher.fault is None
