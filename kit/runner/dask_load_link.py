"""One load host of a trial, seen from the trial: begun, compared by its clock, followed, ended.

A thread for each host does this, since a call to one may hang while its link is cut. What it has
recorded lies at once in the trial's folder, by its own clock; kit.load.hosts.merge converts it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kit.errors import ClusterError, KitError
from kit.load.hosts.clocks import ClockLine, ClockOffset, RoundTrip, offset_of
from kit.load.traffic.call import NEVER
from kit.load.worker.counters import Elsewhere, Field, LoadProgress, progress_of, sum_of
from kit.runner.dask_call import Called, WorkerCall
from kit.runner.dask_host import RESOURCE
from kit.runner.dask_load_host import Ask, HostState, WorkerState, clock, exchange, serve

if TYPE_CHECKING:
    from distributed import Client, Future

#: A host is asked this often.
ASK_S = 0.15
#: Round trips of one comparison of clocks: so many, and more while the error is larger than that.
ROUND_TRIPS, MOST_ROUND_TRIPS = 24, 240
GOOD_ERROR_NS = 500_000
#: A comparison takes no longer than this.
COMPARE_S = 3.0
#: A host that has not answered for so long is lost.
LOST_S = 6.0
#: How long hosts may take to begin: their machines to be free, their workers to be ready.
READY_S = 60.0
#: From when every host is ready to the common start: they must have heard of it by then.
LEAD_NS = 500_000_000
#: Of a host that was lost, the last so many round trips stand for the comparison afterwards.
_LAST_TRIPS = 20
#: States of a task of Dask's that runs no more.
_OVER = ("error", "cancelled", "finished", "lost")
#: Round trips that are kept to see whether clocks kept their pace.
_MOST_TRIPS = 10_000


class Together:
    """What the hosts of one trial have in common: the start, and one comparison at a time."""

    def __init__(self, hosts: int) -> None:
        self._barrier = threading.Barrier(hosts, self._choose)
        self.comparing = threading.Lock()
        self.start_ns: int | None = None  # by this machine's clock; None: not all were ready
        self.counted: Callable[[], Elsewhere] = Elsewhere  # over all hosts

    def _choose(self) -> None:
        self.start_ns = time.monotonic_ns() + LEAD_NS

    def wait(self) -> int:
        """Wait for all hosts; the common start.

        Raises:
            threading.BrokenBarrierError: a host failed, or the load was stopped.
        """
        self._barrier.wait(READY_S)
        assert self.start_ns is not None
        return self.start_ns

    def give_up(self) -> None:
        """There will be no common start any more."""
        self._barrier.abort()


class HostLink:
    """The way to one host, whose load workers have these numbers."""

    def __init__(
        self,
        client: Client,
        address: str,
        label: str,
        *,
        key: str,
        workers: Sequence[int],
        arrived: Path,
        together: Together,
        on_failure: Callable[[], None],
    ) -> None:
        self.label, self.workers = label, tuple(workers)
        self.failed = ""  # why the host, or its part of the load, was lost
        self.heard_ns = time.monotonic_ns()
        self.over = threading.Event()
        self.before: ClockOffset | None = None
        self.after: ClockOffset | None = None
        self._client, self._address, self._key = client, address, key
        self._arrived, self._together, self._on_failure = arrived, together, on_failure
        self._states: dict[int, WorkerState] = {}
        self._have: dict[str, int] = {}
        self._trips: deque[RoundTrip] = deque(maxlen=_MOST_TRIPS)
        self._died_ns: int | None = None
        self._stop = False
        self._wake = threading.Event()
        self._future: Future | None = None
        self._thread: threading.Thread | None = None

    # What the trial's thread calls.

    def begin(self, spec: bytes, endpoint: bytes, traces: Mapping[str, bytes]) -> None:
        """Start the host's workers; the second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(spec, endpoint, traces), name=self.label, daemon=True
            )
            self._thread.start()

    def progress(self, worker: int) -> LoadProgress:
        """How far a worker had come when it was last heard of; times by this machine's clock."""
        state = self._states.get(worker)
        if state is None or state.words is None or self.before is None:
            return LoadProgress()
        return progress_of(state.words, ClockLine(self.before, self.before).to_caller)

    def code(self, worker: int) -> int | None:
        """As LoadWorker.poll; it has ended when all that it wrote is here."""
        if not self.over.is_set():
            return None
        state = self._states.get(worker)
        if self.failed or state is None or state.code is None:
            return 1 if self.failed else 0
        return state.code

    def error(self, worker: int) -> str | None:
        if self.failed:
            return f"{self.label}: {self.failed}"
        state = self._states.get(worker)
        return f"{self.label}: {state.error}" if state is not None and state.error else None

    def counted(self) -> Elsewhere:
        """Requests that failed and that ended there so far."""
        words = [state.words for state in self._states.values() if state.words is not None]
        return sum_of(words)

    @property
    def ended_itself(self) -> bool:
        """Its load came to its own end: nothing cut it short."""
        return not (self._stop or self.failed or self._died_ns is not None)

    def server_died(self, died_ns: int) -> None:
        if not self.over.is_set():
            self._died_ns = died_ns
            self._tell()

    def stop(self) -> None:
        if not self.over.is_set():
            self._stop = True
            self._tell()

    def drop(self, why: str) -> None:
        """Wait for it no longer."""
        if not self.over.is_set():
            self.failed = self.failed or why
            self.over.set()
        self._tell()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def line(self) -> ClockLine | None:
        """Its clock against this machine's; None: it was never compared."""
        if self.before is None:
            return None
        after = self.after
        if after is None and self._trips:
            after = offset_of(list(self._trips)[-_LAST_TRIPS:])
        return ClockLine(self.before, after or self.before, self._trips)

    # Its thread.

    def _tell(self) -> None:
        """Have the host hear of it at once."""
        self._wake.set()
        if self._stop or self._died_ns is not None:
            self._together.give_up()

    def _run(self, spec: bytes, endpoint: bytes, traces: Mapping[str, bytes]) -> None:
        try:
            self._conduct(spec, endpoint, traces)
        except threading.BrokenBarrierError:
            self.stop()  # another host has failed and says why, or the load was stopped
        except KitError as error:
            self._fail(error.given)
        except Exception as error:  # noqa: BLE001 - whatever it is, this host's part is lost
            self._fail(f"{type(error).__name__}: {error}".rstrip(": "))
        finally:
            self.over.set()
            if self._future is not None:
                with contextlib.suppress(Exception):  # the scheduler may be gone
                    self._future.cancel(force=True)

    def _fail(self, why: str) -> None:
        self.failed = self.failed or why
        self._together.give_up()
        self._on_failure()

    def _conduct(self, spec: bytes, endpoint: bytes, traces: Mapping[str, bytes]) -> None:
        self._future = self._client.submit(
            serve,
            *(self._key, spec, endpoint, self.workers, dict(traces)),
            key=self._key,
            workers=[self._address],
            resources={RESOURCE: 1},
            pure=False,
        )
        call = WorkerCall(self._client, self._address)
        self._await_ready(call)
        self.before = self._compared(call)
        start_ns = self._together.wait()
        host_start_ns = ClockLine(self.before, self.before).to_host(start_ns)
        state = self._asked(call, start_ns=host_start_ns)
        while not (state is not None and state.is_whole):
            self._wake.wait(0.0 if state is not None and state.parts else ASK_S)
            self._wake.clear()
            if self.over.is_set():  # it is waited for no longer
                return
            state = self._asked(call)
        with contextlib.suppress(OSError, ClusterError):  # all that it recorded is here
            self.after = self._compared(call)
            self._asked(call, leave=True)

    def _await_ready(self, call: WorkerCall) -> None:
        """Wait until all workers there could begin.

        Raises:
            ClusterError: they could not in time, or one has failed.
        """
        until_s = time.monotonic() + READY_S
        while time.monotonic() < until_s:
            state = self._asked(call)
            if self._stop or self._died_ns is not None:
                raise threading.BrokenBarrierError
            if state is not None and all(map(_is_ready, state.workers.values())):
                return
            self._wake.wait(ASK_S)
            self._wake.clear()
        was_heard = bool(self._states)
        raise ClusterError(
            f"its workers were not ready in {READY_S:g} s"
            if was_heard
            else f"it did not begin in {READY_S:g} s: it is busy with other trials, or gone",
            "hosts that are free",
            "wait for the other study, or take another cluster",
        )

    def _compared(self, call: WorkerCall) -> ClockOffset:
        """Its clock against this machine's, while no other host asks."""
        trips: list[RoundTrip] = []
        until_s = time.monotonic() + COMPARE_S
        while len(trips) < ROUND_TRIPS or (
            len(trips) < MOST_ROUND_TRIPS
            and time.monotonic() < until_s
            and offset_of(trips).error_ns > GOOD_ERROR_NS
        ):
            with self._together.comparing:
                called = call(clock)
            trips.append(_trip(called, called.answer))
        return offset_of(trips)

    def _asked(
        self, call: WorkerCall, *, start_ns: int | None = None, leave: bool = False
    ) -> HostState | None:
        """Exchange what there is with the host; None: its task has not begun.

        Raises:
            ClusterError: it has failed, or is lost.
        """
        died_ns, all_, own = self._died_ns, self._together.counted(), self.counted()
        ask = Ask(
            have=self._have,
            start_ns=start_ns,
            died_ns=None if died_ns is None else self._by_host(died_ns),
            stop=self._stop,
            elsewhere=Elsewhere(all_.errors - own.errors, all_.ended - own.ended),
            leave=leave,
        )
        called = self._until_lost(call, msgspec.msgpack.encode(ask))
        if not called.answer:
            if self._future is not None and self._future.status in _OVER:
                raise ClusterError(self._said(), "a host that takes part", "see its log")
            return None
        state = msgspec.msgpack.decode(called.answer, type=HostState)
        self._states = state.workers
        for name, part in state.parts.items():
            self._keep(name, part)
        self._trips.append(_trip(called, state.now_ns))
        if state.failed:
            raise ClusterError(state.failed, "a server that each load host reaches", "name it so")
        return state

    def _until_lost(self, call: WorkerCall, ask: bytes) -> Called:
        """Ask until the host has answered, or for too long has not."""
        while True:
            try:
                called = call(exchange, self._key, ask)
            except (OSError, ClusterError) as error:
                if isinstance(error, ClusterError):
                    raise
                silent_s = (time.monotonic_ns() - self.heard_ns) / 1e9
                if silent_s > LOST_S or self.over.is_set():
                    raise ClusterError(
                        f"it has not answered for {silent_s:.0f} s",
                        "hosts that stay until the trial ends",
                        "the trial is run again by the next call",
                    ) from error
                time.sleep(ASK_S)
            else:
                self.heard_ns = time.monotonic_ns()
                return called

    def _keep(self, name: str, part: bytes) -> None:
        """Append what came to its file. The name is made here: what a host sends is data."""
        known = [f"{kind}-{w}.arrows" for kind in ("requests", "client") for w in self.workers]
        if name not in (*known, *(f"load-{w}.log" for w in self.workers)):
            raise ClusterError(f"it sent a file {name!r}", "its workers' records", "see its kit")
        with (self._arrived / name).open("ab") as file:
            file.write(part)
        self._have[name] = self._have.get(name, 0) + len(part)

    def _by_host(self, caller_ns: int) -> int | None:
        if self.before is None:
            return None
        return ClockLine(self.before, self.before).to_host(caller_ns)

    def _said(self) -> str:
        assert self._future is not None
        if self._future.status == "finished":
            return "it ended its load, since it was asked by nobody for too long"
        with contextlib.suppress(Exception):
            error = self._future.exception(timeout=1)
            return error.given if isinstance(error, KitError) else f"its task failed: {error}"
        return "its task was cancelled"


def _trip(called: Called, read_ns: int) -> RoundTrip:
    return RoundTrip(asked_ns=called.asked_ns, read_ns=read_ns, came_ns=called.came_ns)


def _is_ready(state: WorkerState) -> bool:
    """Raises:
    ClusterError: it has failed.
    """
    if state.code:
        raise ClusterError(state.error or f"status {state.code}", "a worker that starts", "")
    ready = state.words is not None and state.words[Field.READY_NS] != NEVER
    return ready or state.code == 0
