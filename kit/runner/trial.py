"""Runs one trial in this process: a server's life under a workload.

`python -m kit.runner.trial FOLDER` runs the spec that lies in FOLDER; it stops and cleans up when
its standard input closes, on SIGTERM and on SIGINT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from kit import __version__
from kit.crash.log.notices import FAULT_SIGNALS, signal_name
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.signature import signal_of, signature_of
from kit.crash.verdict import Evidence, judge, stop_words
from kit.errors import ContainerError, KitError, ServerStartError
from kit.load.worker.client_limited import client_stall_reason
from kit.load.worker.counts import count, ended, failed, gave_up, never_answered
from kit.load.worker.stop_rules import TOO_MANY_ERRORS, Stop
from kit.load.worker.workers import Workers, local_worker
from kit.runner.access import access_to
from kit.runner.outside import Outside, shortage
from kit.servers.base import End, Server
from kit.servers.factory import server_for, watched_gpus, watched_models
from kit.servers.processes import SHM, stopped_below
from kit.servers.startlog import was_too_slow
from kit.servers.traces import sweep
from kit.servers.watch.gpus import xid_words
from kit.servers.watch.liveness import Health
from kit.servers.watch.sampler import Watcher
from kit.study.files import read_end, write_whole
from kit.study.folder import TrialFolder
from kit.study.load_hosts import LoadHost
from kit.study.result import Outcome, TrialResult, Verdict
from kit.study.spec import ArrivalKind, Endpoint, TrialSpec
from kit.study.without_pandas import keep_pandas_out

if TYPE_CHECKING:
    from kit.runner.dask_load import DaskLoad

#: How often the server and the load are looked at; a death is noticed at once all the same.
TICK_S = 0.05
PROGRESS_S = 0.25
#: A server may die of its last request a moment after it has answered it.
SETTLE_S = 0.5
#: How long a server may take to end once its models are gone.
EXIT_S = 6.0
#: More than any stack and what led to it.
TAIL_BYTES = 4 * 1024 * 1024


class Trial:
    """The conduct of one trial: what happened when, and why it ended."""

    def __init__(
        self,
        spec: TrialSpec,
        folder: TrialFolder,
        interrupt: threading.Event,
        hosts: DaskLoad | None = None,
    ) -> None:
        self.spec = spec
        self._hosts = hosts
        self._load_hosts: tuple[LoadHost, ...] = ()
        self._xids = ""  # a sentence about the GPUs' errors
        self.folder = folder
        self.interrupt = interrupt
        self.starting = False
        self.load_finished = False
        self._rule: Stop | None = None
        self._lost = ""
        self._client_error: str | None = None
        self._later_client_error: str | None = None
        self._told_to_stop: str | None = None
        self._ready_ns: int | None = None
        self._load_started_ns: int | None = None
        self._died_ns: int | None = None
        self._exit_code: int | None = None
        self._health = Health()
        self._watch_fault: str | None = None
        self._quiet_s: float | None = None
        self._in_flight = self._waiting = 0
        self._started_ns = time.monotonic_ns()
        self._wall_offset_ns = time.time_ns() - self._started_ns
        self._told_s = 0.0
        self._outside = Outside(None, ())

    def run(self) -> TrialResult:
        """Start, load, stop, judge; the result is written to the folder, last."""
        self._tell("starting")
        with server_for(self.spec, self.folder, access=access_to(self.spec.server)) as server:
            self.starting = True
            try:
                endpoint = server.start()
            except ContainerError as error:
                return self._finish(Verdict.CLIENT_FAULT, str(error), server)
            except ServerStartError as error:
                return self._finish(*self._of_start(server, error), server)
            except KeyboardInterrupt:
                return self._finish(Verdict.INTERRUPTED, "Interrupted at the start.", server)
            finally:
                self.starting = False
            self._ready_ns = time.monotonic_ns()
            self._under_load(server, endpoint)
        verdict, reason = judge(self._evidence(server))
        reason = f"{reason} {self._xids}".strip()
        return self._finish(verdict, reason, server)

    def _of_start(self, server: Server, error: ServerStartError) -> tuple[Verdict, str]:
        """A server that dies of a fault signal before it is ready has crashed; one that says why
        it cannot start has been given something wrong, and one that was too slow tells nothing."""
        end = server.end()
        number = None if end is None else signal_of(end.exit_code)
        slow = was_too_slow(_tail(self.folder.log))
        why = shortage((SHM, self.folder.path))
        if end is None or number not in FAULT_SIGNALS or end.stopped_by or slow or why:
            return Verdict.CLIENT_FAULT, f"{error} ({why})" if why else str(error)
        self._exit_code, self._died_ns = end.exit_code, end.at_ns
        return Verdict.CRASHED, f"The server died of {signal_name(number)} before it was ready."

    def _under_load(self, server: Server, endpoint: Endpoint) -> None:
        gpus = watched_gpus(self.spec)
        watcher = Watcher(
            endpoint,
            self.folder,
            pid=server.pid,
            interval_s=self.spec.sample_interval_s,
            model=self.spec.model,
            called=watched_models(self.spec),
            access=access_to(self.spec.server),
            gpus=gpus,
        )
        make = self._hosts.make if self._hosts else local_worker
        load = Workers(self.spec, endpoint, self.folder, make)
        places = (self.folder.path, Path(tempfile.gettempdir()))
        self._outside = Outside(server.pid, places, self.folder.log)
        watcher.start()
        try:
            self._drive(server, load, watcher)
        finally:
            load.stop()
            # A worker that broke off, or had to be, closed its connections: what the server did
            # then is not this traffic's doing.
            # One that broke only after the server's death did nothing to it.
            self._client_error = self._client_error or load.error(until_ns=self._died_ns)
            self._later_client_error = None if self._client_error else load.error()
            watcher.stop()
            load.close()
            if self._hosts is not None:
                self._collect(self._hosts)
        self._health, self._watch_fault = watcher.health(), watcher.fault
        self._xids = xid_words(gpus.xids) if gpus else ""
        self._tell("judging", load)

    def _collect(self, hosts: DaskLoad) -> None:
        """Merge what the load hosts recorded; what that shows to be missing is our own fault."""
        self._load_hosts = hosts.collect()
        self._load_started_ns = hosts.started_ns or self._load_started_ns
        if not (self._client_error or self._later_client_error):
            failed = (f"{host.label}: {host.failed}" for host in self._load_hosts if host.failed)
            self._client_error = next(failed, None)

    def _drive(self, server: Server, load: Workers, watcher: Watcher) -> None:
        """Let the load run until it is done, or the server is, or the trial's time."""
        self._load_started_ns = time.monotonic_ns()
        load.start()
        deadline = time.monotonic() + self.spec.timeout_s
        while not self.interrupt.is_set() and time.monotonic() < deadline:
            if server.end(TICK_S) is not None:
                break
            load.look()
            if self._tell("loading", load):
                self._outside.look()
            if load.done():
                server.end(SETTLE_S)
                break
            if load.waiting and (load.quiet_s() or 0.0) >= self.spec.hang_after_s:
                break
        self._outside.look()
        # A server that was told to end unloads its models first: only its exit says which it was.
        ending = watcher.health().stubs_alive is False and not self.interrupt.is_set()
        end = server.end(EXIT_S if ending else 0.0)
        load.look()
        self._in_flight, self._waiting = load.in_flight, load.waiting
        self._quiet_s = load.quiet_s()
        self.load_finished, self._rule = load.done(), load.stopped
        self._client_error = load.error(until_ns=None if end is None else end.at_ns)
        if any(stopped_below(pid) for pid in load.pids):
            self._client_error = self._client_error or "SIGSTOP to a load worker"
        if end is not None and end.lost:
            self._lost = end.lost
        elif end is not None:
            self._exit_code = end.exit_code
            self._died_ns = end.at_ns or time.monotonic_ns()
            load.server_died(self._died_ns)
            load.join()
        elif not self.load_finished:  # once the kit itself stops it, its log says so as well
            self._told_to_stop = stop_words(_tail(self.folder.log))

    def _evidence(self, server: Server) -> Evidence:
        requests = self.folder.requests()
        open_loop = self.spec.workload.arrivals.kind is not ArrivalKind.CLOSED
        client = self.folder.client().to_pydict()
        hang_after_s = self.spec.hang_after_s
        end = server.end()
        return Evidence(
            exit_code=end.exit_code if end else None,
            is_process_seen=server.sees_exit,
            stopped_answering=end.how if end and self._died_ns else "",
            was_reached=count(requests, Outcome.REFUSED) < requests.num_rows,
            answering_s=self._answering_s(),
            ok=count(requests, Outcome.OK),
            stop_requested=self._died_ns is None,
            log=_tail(self.folder.log),
            ended=ended(requests, self._died_ns),
            open=self._in_flight,
            waiting=self._waiting,
            gave_up=gave_up(requests),
            unanswered=never_answered(requests, after_s=hang_after_s),
            quiet_s=self._quiet_s,
            hang_after_s=hang_after_s,
            ready=self._health.ready,
            model_ready=self._health.model_ready,
            stub_alive=self._health.stubs_alive,
            load_finished=self.load_finished,
            stopped_early=self._stopped_early(requests),
            lost=self._lost,
            client_error=self._client_error,
            later_client_error=self._later_client_error,
            client_limit=client_stall_reason(client, silence_s=hang_after_s, open_loop=open_loop),
            interrupted=self.interrupt.is_set(),
            oom=self._killed_for_memory(server),
            stopped_by=self._stopped_by(end),
            shortage=self._outside.shortage,
        )

    def _stopped_early(self, requests: pa.Table) -> str | None:
        """Why the load, by its own rule, sent no more before its end."""
        if self._rule not in TOO_MANY_ERRORS:
            return None
        return f"{failed(requests):,} of {ended(requests, self._died_ns):,} requests failed"

    def _stopped_by(self, end: End | None) -> str | None:
        """Whose signal it was; a fault signal of the server itself is never its guard's."""
        own = end is None or signal_of(end.exit_code) in FAULT_SIGNALS
        others = None if own or end is None else end.stopped_by
        # What the guard says of itself came first: it then ends whatever is behind the server.
        return others or self._outside.stopped_by or self._told_to_stop

    def _killed_for_memory(self, server: Server) -> bool | None:
        """Whether the kernel killed for want of memory while a process of the server died."""
        end = server.end()
        killed = end is not None and end.exit_code == -signal.SIGKILL
        return server.out_of_memory() if killed or self._health.stubs_alive is False else None

    def _answering_s(self) -> float | None:
        """From the load's start until the server answered no more."""
        if self._died_ns is None or self._load_started_ns is None:
            return None
        return (self._died_ns - self._load_started_ns) / 1e9

    def _finish(self, verdict: Verdict, reason: str, server: Server) -> TrialResult:
        requests = self.folder.requests()
        maps = self.folder.maps
        result = TrialResult(
            trial_id=self.spec.trial_id,
            verdict=verdict,
            reason=reason,
            completed=ended(requests, self._died_ns),
            in_flight=count(requests, Outcome.IN_FLIGHT),
            exit_code=self._exit_code,
            signature=signature_of(
                _tail(self.folder.log),
                maps=MemoryMap.parse(maps.read_text()) if maps.exists() else None,
                exit_code=self._exit_code,
                modules=server.modules,
            ),
            started_ns=self._started_ns,
            ready_ns=self._ready_ns,
            load_started_ns=self._load_started_ns,
            died_ns=self._died_ns,
            ended_ns=time.monotonic_ns(),
            wall_offset_ns=self._wall_offset_ns,
            versions=server.versions | {"kit": __version__},
            load_hosts=self._load_hosts,
            watch_fault=self._watch_fault,
            stopped_early=self._stopped_early(requests),
        )
        self.folder.finish(result)
        return result

    def _tell(self, phase: str, load: Workers | None = None) -> bool:
        """Write progress.json; while loading, about every PROGRESS_S: else False."""
        now = time.monotonic()
        if phase == "loading" and now - self._told_s < PROGRESS_S:
            return False
        self._told_s = now
        counts = {
            "sent": load.sent if load else 0,
            "ended": load.ended if load else 0,
            "in_flight": load.in_flight if load else 0,
        }
        write_whole(
            self.folder.progress, msgspec.json.encode({"phase": phase, **counts}), durable=False
        )
        return True


def _tail(log: Path) -> str:
    """The end of a log, where its crash stands."""
    return read_end(log, TAIL_BYTES).decode(errors="replace")


def run_trial(spec: TrialSpec, folder: Path, load: bytes | None = None) -> TrialResult:
    """Run one trial into `folder`, which must hold its spec or nothing yet.

    load: the hosts from which its load comes (kit.runner.dask_load.LoadFrom as JSON); None: this
        machine.

    Ends early, cleans up and gives verdict `interrupted` on SIGTERM, SIGINT and when this
    process's parent goes away (its standard input closes). Call it in a process of its own.

    Raises:
        SpecError, StoreError: the trial cannot be run as written.
        UnsupportedPlatformError, LibpythonMissingError, DownloadError, HashMismatchError: this
            machine cannot run that server.
        ClusterError: the load hosts' cluster cannot be reached.
    """
    if load is None:
        return _conduct(spec, TrialFolder.create(folder, spec))
    from kit.runner.dask_load import LoadFrom, load_from

    made = TrialFolder.create(folder, spec)
    with load_from(msgspec.json.decode(load, type=LoadFrom), spec, made) as hosts:
        return _conduct(spec, made, hosts)


def _conduct(spec: TrialSpec, folder: TrialFolder, hosts: DaskLoad | None = None) -> TrialResult:
    """Run it, to its end or until this process is told to end."""
    interrupt = threading.Event()
    trial = Trial(spec, folder, interrupt, hosts)

    def on_signal(number: int, frame: FrameType | None) -> None:
        interrupt.set()
        if trial.starting:  # nothing looks at the event before the server is ready
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    threading.Thread(target=_interrupt_at_eof, daemon=True).start()
    return trial.run()


def _interrupt_at_eof() -> None:
    """Whoever started this trial holds the other end of its standard input."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> int:
    """`python -m kit.runner.trial FOLDER [LOAD]`, as of run_trial; 0 whatever the verdict is."""
    keep_pandas_out()
    folder, starter = Path(sys.argv[1]), os.getppid()
    try:
        load = sys.argv[2].encode() if len(sys.argv) > 2 else None
        run_trial(TrialFolder(folder).spec, folder, load)
    except KitError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        if os.getppid() != starter:  # it was killed, and cannot remove what it made
            with contextlib.suppress(OSError):  # somebody else removed it first
                sweep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
