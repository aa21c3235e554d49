"""An endpoint, a log and a process → one time series in the trial's folder, while it runs.

One thread with an event loop of its own; each source is a task with its own clock, so that a
metrics endpoint that hangs delays neither the log nor the end. What a server does wrong gives
no row, never an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import fields, replace
from functools import partial
from typing import Final
from urllib.parse import quote

from kit.servers.base import Access
from kit.servers.watch.engine_log import EngineLog
from kit.servers.watch.fetch import Answer, NoAnswer, get
from kit.servers.watch.gpus import GpuWatch
from kit.servers.watch.liveness import Health, ServerProcesses
from kit.servers.watch.metrics_text import parse_metrics
from kit.servers.watch.names import (
    HEALTH,
    MODEL_READY,
    SERVER_READY,
    TRITON_METRICS,
    VLLM_METRICS,
    Sample,
)
from kit.servers.watch.rates import CounterRates
from kit.servers.watch.tail import Tail
from kit.study.arrow_file import ArrowAppender
from kit.study.folder import SAMPLES, TrialFolder
from kit.study.spec import Endpoint

#: A whole /metrics body of Triton with one model is 10 kB.
LIMIT_BYTES: Final = 4 * 1024 * 1024
#: An answer that takes longer would tell of another time than the rows beside it.
TIMEOUT_S: Final = 2.0
#: Health is asked less often than metrics: it goes through the port that is under test.
HEALTH_INTERVAL_S: Final = 0.5
#: The log is read so often that a line's time is close to when it was written.
LOG_INTERVAL_S: Final = 0.1
FLUSH_INTERVAL_S: Final = 0.25
#: Where /metrics is refused (a server that has none) it is asked this rarely.
REFUSED_INTERVAL_S: Final = 10.0
#: How long stop() waits for a last scrape, and then for the rest of the log.
LAST_SCRAPE_S: Final = 0.5
LAST_LOG_S: Final = 5.0
#: Rows held when the disk is slow; more than that are dropped, oldest first.
MAX_ROWS_HELD: Final = 200_000


class Watcher:
    """Samples one server from start() to stop() into samples-watch.arrows.

    access: headers and certificates for its health endpoints.
    model: whose readiness is asked. called: further models whose metrics are kept, which it calls.
    gpus: closed at the end; None: the server has none on this machine.
    The engine's figures are written at every tick, `nv_` metrics and `_info` when they change.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        folder: TrialFolder,
        *,
        pid: int | None,
        interval_s: float,
        model: str,
        called: Collection[str] = (),
        access: Access | None = None,
        gpus: GpuWatch | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._endpoint = endpoint
        self._path = folder.path / "samples-watch.arrows"
        self._interval_s = interval_s
        self._model = model
        self._access = access or Access()
        self._models = frozenset({model, *called})
        self._clock_ns = clock_ns
        self._processes = None if pid is None else ServerProcesses(pid)
        self._gpus = gpus
        self._tail = Tail(folder.log)
        self._engine_log = EngineLog()
        self._rows: deque[Sample] = deque(maxlen=MAX_ROWS_HELD)
        self._last_value: dict[tuple[str, str], float] = {}
        self._rates = CounterRates()
        self._ask_metrics_from_ns = 0
        self._health = Health()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        #: Why a source ended before its time: a defect of the kit or a full disk; else None.
        self.fault: str | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._appender = ArrowAppender(self._path, SAMPLES)
        # What Arrow loads for its first array is loaded now, while there is nothing to read.
        self._appender.append(_columns([]))
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Take a final sample and close the file; quick, and harmless when called again."""
        if self._thread.ident is None:
            return  # never started
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def health(self) -> Health:
        """What was seen last of the health endpoints and the stubs."""
        return self._health

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        sources: tuple[tuple[str, float, Callable[[], Awaitable[None]]], ...] = (
            ("log", min(LOG_INTERVAL_S, self._interval_s), self._read_log),
            ("metrics", self._interval_s, self._scrape),
            ("processes", self._interval_s, self._read_processes),
            ("GPUs", self._interval_s, self._read_gpus),
            ("health", max(HEALTH_INTERVAL_S, self._interval_s), self._ask_health),
            ("writing", FLUSH_INTERVAL_S, self._write),
        )
        tasks = [
            asyncio.create_task(_every(interval_s, step), name=name)
            for name, interval_s, step in sources
        ]
        for task in tasks:
            task.add_done_callback(self._note_fault)
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._finish()

    async def _finish(self) -> None:
        """A last sample of every source; one that fails costs no other its own."""
        self._ask_metrics_from_ns = 0
        for name, step in (
            ("processes", self._read_processes),
            ("GPUs", self._read_gpus),
            ("metrics", partial(self._scrape, LAST_SCRAPE_S)),
            ("log", self._read_rest_of_log),
            ("writing", self._write_rest),
        ):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - a defect, which is told and not hidden
                self.fault = self.fault or f"{name}: {error!r}"

    async def _read_rest_of_log(self) -> None:
        deadline_ns = self._clock_ns() + int(LAST_LOG_S * 1e9)
        await self._read_log()
        while self._tail.behind() and self._clock_ns() < deadline_ns:
            await self._read_log()
        self._add_lines(self._tail.flush())
        self._tail.close()

    async def _write_rest(self) -> None:
        try:
            await self._write()
        finally:
            self._appender.close()
            if self._gpus is not None:
                self._gpus.close()

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault = self.fault or f"{task.get_name()}: {error!r}"

    async def _read_log(self) -> None:
        self._add_lines(self._tail.read())

    def _add_lines(self, lines: Iterable[str]) -> None:
        t_ns = self._clock_ns()
        for line in lines:
            self._rows.extend(self._engine_log.read_line(line, t_ns=t_ns))

    async def _scrape(self, timeout_s: float = TIMEOUT_S) -> None:
        end = self._endpoint
        if self._clock_ns() < self._ask_metrics_from_ns:
            return
        if end.metrics_port is not None:  # Triton serves metrics in the clear, whatever `tls` says
            source = TRITON_METRICS
            answer = await get(
                end.metrics_host or end.host,
                end.metrics_port,
                "/metrics",
                timeout_s=timeout_s,
                limit_bytes=LIMIT_BYTES,
            )
        elif end.http_port is not None:  # vLLM's own server has them on its one port
            source = VLLM_METRICS
            answer = await self._get(end.http_port, "/metrics", timeout_s, tls=end.tls)
        else:
            return
        t_ns = self._clock_ns()
        if answer.status == 200:
            self._add(parse_metrics(answer.body, t_ns=t_ns, source=source, models=self._models))
        elif answer.status is not None:
            self._ask_metrics_from_ns = t_ns + int(REFUSED_INTERVAL_S * 1e9)

    def _add(self, samples: list[Sample]) -> None:
        for sample in (*samples, *self._rates.read(samples)):
            if sample.name.startswith("nv_") or sample.name.endswith("_info"):
                key = sample.name, sample.labels
                if self._last_value.get(key) == sample.value:
                    continue
                self._last_value[key] = sample.value
            self._rows.append(sample)

    async def _read_processes(self) -> None:
        if self._processes is not None:
            self._rows.extend(self._processes.read(t_ns=self._clock_ns()))
            self._health = replace(self._health, stubs_alive=self._processes.stubs_alive())

    async def _read_gpus(self) -> None:
        """In a thread: a driver that has lost its GPU may take seconds to say so."""
        if self._gpus is not None:
            self._rows.extend(await asyncio.to_thread(self._gpus.read, t_ns=self._clock_ns()))

    async def _ask_health(self) -> None:
        if (port := self._endpoint.http_port) is None:
            return
        paths = ("/v2/health/ready", f"/v2/models/{quote(self._model, safe='')}/ready")
        answers = await asyncio.gather(
            *(self._get(port, path, TIMEOUT_S, tls=self._endpoint.tls) for path in paths)
        )
        t_ns = self._clock_ns()
        ready, model_ready = (_is_ready(answer) for answer in answers)
        for name, value in ((SERVER_READY, ready), (MODEL_READY, model_ready)):
            if value is not None:
                row = Sample(t_ns=t_ns, source=HEALTH, name=name, value=float(value))
                self._rows.append(row)
        last = self._health
        if ready is not None or model_ready is not None:
            self._health = replace(
                last,
                ready=last.ready if ready is None else ready,
                model_ready=last.model_ready if model_ready is None else model_ready,
                at_ns=t_ns,
            )

    async def _get(self, port: int, path: str, timeout_s: float, *, tls: bool) -> Answer:
        return await get(
            self._endpoint.host,
            port,
            path,
            timeout_s=timeout_s,
            limit_bytes=LIMIT_BYTES,
            tls=self._access.tls or tls if tls else False,
            headers=self._access.headers,
        )

    async def _write(self) -> None:
        rows = list(self._rows)
        self._rows.clear()
        self._appender.append(_columns(rows))


def _columns(rows: list[Sample]) -> dict[str, list[object]]:
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(Sample)}


def _is_ready(answer: Answer) -> bool | None:
    """What an answer says about readiness; None: nothing, it did not come in time."""
    if answer.status is not None:
        return answer.status == 200
    return False if answer.why is NoAnswer.REFUSED else None


async def _every(interval_s: float, step: Callable[[], Awaitable[None]]) -> None:
    """Run `step` every `interval_s`; a tick that was missed is left out, not made up for."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await step()
        now = loop.time()
        due = due + interval_s if due + interval_s > now else now + interval_s
        await asyncio.sleep(due - now)
