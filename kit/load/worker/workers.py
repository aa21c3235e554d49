"""All load workers of a trial, started, watched and ended as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from kit.load.worker.counters import LoadProgress
from kit.load.worker.process import LoadWorker
from kit.load.worker.stop_rules import Stop
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, TrialSpec

#: How long workers may take to write what they hold, and how often they are looked at.
FLUSH_S = 10.0
POLL_S = 0.02


class Worker(Protocol):
    """One load worker, wherever it runs: a process of this machine (LoadWorker), or a host's."""

    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def progress(self) -> LoadProgress: ...
    def poll(self) -> int | None: ...
    def error(self, *, until_ns: int | None = None) -> str | None: ...
    def server_died(self, died_ns: int) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


#: Makes worker number so much of a trial, which is not started yet.
MakeWorker = Callable[[TrialSpec, Endpoint, TrialFolder, int], Worker]


def local_worker(spec: TrialSpec, endpoint: Endpoint, folder: TrialFolder, number: int) -> Worker:
    """A process of this machine."""
    return LoadWorker(spec, endpoint, folder, worker=number)


class Workers:
    """All load workers of a trial, seen as one. make: where they run."""

    def __init__(
        self,
        spec: TrialSpec,
        endpoint: Endpoint,
        folder: TrialFolder,
        make: MakeWorker = local_worker,
    ) -> None:
        count = spec.workload.workers
        self._workers = [make(spec, endpoint, folder, number) for number in range(count)]
        self.sent = self.ended = self.ok = self.in_flight = self.waiting = 0
        self.quiet_since_ns: int | None = None
        self.stopped: Stop | None = None  # the rule that ended the load before the last request

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def look(self) -> None:
        """Bring the counts up to date."""
        seen = [worker.progress() for worker in self._workers]
        self.sent = sum(p.sent for p in seen)
        self.ended = sum(p.ended for p in seen)
        self.ok = sum(p.ok for p in seen)
        self.in_flight = sum(p.in_flight for p in seen)
        self.waiting = sum(p.waiting for p in seen)
        self.stopped = next((p.stop for p in seen if p.stop), None)
        # Quiet is it from the last progress of any worker on, but not for longer than some
        # request has been waiting: where requests are rare, there is silence between them.
        waiting = [p.waiting_since_ns for p in seen if p.waiting_since_ns is not None]
        progress = [p.progress_ns for p in seen if p.progress_ns is not None]
        self.quiet_since_ns = max([min(waiting), *progress]) if waiting else None

    def quiet_s(self) -> float | None:
        """For how long nothing has come although some request was waiting; None: none waits."""
        if self.quiet_since_ns is None:
            return None
        return (time.monotonic_ns() - self.quiet_since_ns) / 1e9

    @property
    def pids(self) -> list[int]:
        """The processes of those that were started."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def done(self) -> bool:
        return all(worker.poll() is not None for worker in self._workers)

    def error(self, *, until_ns: int | None = None) -> str | None:
        """What the first worker that failed has said of it; None: none has, or only later."""
        said = (worker.error(until_ns=until_ns) for worker in self._workers)
        return next((why for why in said if why), None)

    def server_died(self, died_ns: int) -> None:
        for worker in self._workers:
            worker.server_died(died_ns)

    def stop(self) -> None:
        """End the traffic; return when every worker has written its records or was killed."""
        for worker in self._workers:
            worker.stop()
        self.join()

    def join(self) -> None:
        """Wait until every worker has ended, FLUSH_S at most; then kill those that have not."""
        deadline = time.monotonic() + FLUSH_S
        while not self.done() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
