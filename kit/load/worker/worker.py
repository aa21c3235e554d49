"""The load worker's process: sends its share of a trial's traffic and records it.

`python -m kit.load.worker.worker FOLDER WORKER ENDPOINT_JSON` runs worker WORKER of the folder's
spec.
It listens on its standard input: `died <ns>` (the server is dead since), `stop`, and end of file
(whoever started it is gone); each makes it write what it has and leave. Where load comes from
several hosts it begins at `start <ns>`, a time of its own host's clock; else all workers are on one
machine, and agree on their start by the counters that they share. It ends with 0 when its workload
came to a stop rule, the death of the server included, and fails with a traceback when something in
it went wrong: a run that only half goes on would look like a server that hangs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec

from kit.load.channels import channels_for
from kit.load.http.target import credentials_from
from kit.load.link import Clock
from kit.load.traffic.traffic import Traffic
from kit.load.worker.counters import Counters, CountsElsewhere, Field, counters_path
from kit.load.worker.health import ClientHealth
from kit.load.worker.pacers import pacer_for, workers_of
from kit.load.worker.recorder import Recorder
from kit.load.worker.run import WorkerRun
from kit.load.worker.stop_rules import stop_rules
from kit.load.worker.timer import Timer
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint
from kit.study.without_pandas import keep_pandas_out

#: How long workers wait for each other before the first request.
MEET_S = 10.0
ORPHANED = 3


async def run_worker(
    folder: TrialFolder, worker: int, endpoint: Endpoint, clock: Clock = monotonic_ns
) -> int:
    """Run one worker to its end; its exit code."""
    spec = folder.spec
    workload = spec.workload
    processes = workers_of(workload)
    counters = Counters(counters_path(folder.path, worker), create=True)
    secrets = credentials_from(os.environ).secrets
    traffic = Traffic(workload, longest_tokens=spec.engine.max_model_tokens, within=folder.path)
    recorder = Recorder(
        folder.path, worker, workload, secrets, traffic.places, counter=traffic.counter
    )
    health = ClientHealth(folder.path, worker, clock)
    run = WorkerRun(
        workload,
        traffic,
        recorder,
        counters,
        health,
        stop_rules(workload),
        worker=worker,
        processes=processes,
        elsewhere=CountsElsewhere(folder.path, worker, processes),
        loop=asyncio.get_running_loop(),
        clock=clock,
    )
    ending = _Commands(run, counters)
    faults = _Faults(run, counters)
    with closing(recorder), closing(health), _noted(counters, clock):
        if worker < processes:
            channels = channels_for(spec, endpoint, os.environ)
            run.pacer = pacer_for(run, workload, channels, worker, processes, folder.path)
            ending.listen()
            await _resolve_once(endpoint)
            gc.collect()
            gc.freeze()  # what lives for the whole run need not be looked at again,
            gc.set_threshold(50_000)  # and a run makes hardly any garbage in circles
            counters.words[Field.READY_NS] = clock()
            if workload.load_hosts is not None:
                start_ns = await ending.told_start(clock)
            else:
                start_ns = await _meet(folder.path, processes, clock)
            run.begin(start_ns)
            await run.done.wait()
            faults.rethrow()
            run.close()
            await channels.close()
    return ending.code


@contextmanager
def _noted(counters: Counters, clock: Clock) -> Iterator[None]:
    """Note when an error ends the run: before its connections are closed, and not after."""
    try:
        yield
    except BaseException:
        counters.broke(clock())
        raise


async def _resolve_once(endpoint: Endpoint) -> None:
    """Look the server's name up before the start: the first look-up loads a codec and starts
    threads, which takes tens of milliseconds that would be the first requests'."""
    endpoint.host.encode("idna")
    with suppress(OSError):  # what cannot be found is for the requests to say
        await asyncio.get_running_loop().getaddrinfo(
            endpoint.host, endpoint.http_port or endpoint.grpc_port
        )


async def _meet(folder: Path, processes: int, clock: Clock) -> int:
    """Wait until every worker is ready; the same start for all of them."""
    if processes == 1:
        return clock()
    give_up_ns = clock() + round(MEET_S * 1e9)
    while clock() < give_up_ns:
        ready = [_ready_ns(folder, other) for other in range(processes)]
        if all(ready):
            start_ns = max(ready) + 50_000_000
            await _until(start_ns, clock)
            return start_ns
        await asyncio.sleep(0.005)
    return clock()


async def _until(at_ns: int, clock: Clock) -> None:
    """Wait for a moment, by the kernel's timer: those of the loop are a millisecond late."""
    rung = asyncio.Event()
    timer = Timer(asyncio.get_running_loop(), clock, rung.set)
    timer.set(at_ns)
    await rung.wait()
    timer.close()


def _ready_ns(folder: Path, worker: int) -> int:
    """When that worker was ready; 0: not yet."""
    try:
        counters = Counters(counters_path(folder, worker))
    except (OSError, ValueError):
        return 0
    ready = counters.words[Field.READY_NS]
    counters.close()
    return max(0, ready)


class _Faults:
    """Ends the run at the first error that a callback of the event loop lets out.

    Left alone the loop would only log it; a clock that is not set again, or a connection whose
    end nobody hears of, would then look like a server that does not answer.
    """

    def __init__(self, run: WorkerRun, counters: Counters) -> None:
        self._run = run
        self._counters = counters
        self._first: BaseException | None = None
        run.loop.set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        error = context.get("exception")
        # What a task or a future of a library keeps to itself is its own affair, and so is that
        # gRPC's poller finds nothing to read; the channels let their tasks' errors out.
        own = not context.keys() & {"task", "future"} and not isinstance(error, BlockingIOError)
        if isinstance(error, BaseException) and own and self._first is None:
            self._first = error
            self._counters.broke(self._run.clock())
            self._run.done.set()

    def rethrow(self) -> None:
        """Raise the error, if there was one."""
        if self._first is not None:
            raise self._first


class _Commands:
    """Reads the standard input of the worker and does what it says."""

    def __init__(self, run: WorkerRun, counters: Counters) -> None:
        self._run = run
        self._counters = counters
        self._rest = b""
        self._start_ns: int | None = None
        self._told = asyncio.Event()
        self.code = 0

    async def told_start(self, clock: Clock) -> int:
        """Wait for the start that is told; the moment itself. A run that is stopped begins now."""
        await self._told.wait()
        if self._start_ns is None:
            return clock()
        await _until(self._start_ns, clock)
        return self._start_ns

    def listen(self) -> None:
        if sys.platform == "win32":  # its loops cannot wait for a pipe
            threading.Thread(target=self._read_aside, daemon=True).start()
            return
        os.set_blocking(0, False)
        self._run.loop.add_reader(0, self._read)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._run.loop.add_signal_handler(
                number, self._leave, f"ended by {number.name}", 128 + number
            )

    def _leave(self, why: str, code: int) -> None:
        """Write what there is and end; a run that is cut short so says nothing of the server."""
        self.code = code
        self._counters.broke(self._run.clock())
        self._run.stop(why)
        self._run.done.set()
        self._told.set()

    def _read_aside(self) -> None:
        """Read in a thread, and have the loop's own do what was read."""
        data = b"-"
        while data:
            data = os.read(0, 4096)
            self._run.loop.call_soon_threadsafe(self._take, data)

    def _read(self) -> None:
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            return
        if not data:
            self._run.loop.remove_reader(0)
        self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:
            self._leave("orphaned", ORPHANED)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"died", when]:
                    self._run.server_died(int(when))
                    self._told.set()
                case [b"stop"]:
                    self._run.stop()
                    self._told.set()
                case [b"start", when]:
                    self._start_ns = int(when)
                    self._told.set()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, twice as fast as asyncio's, where there is one: not on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def main(arguments: list[str]) -> int:
    path, worker, endpoint = arguments
    keep_pandas_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a notebook's interrupt is its owner's affair
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(
            run_worker(
                TrialFolder(Path(path)),
                int(worker),
                msgspec.json.decode(endpoint, type=Endpoint),
            )
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
