"""What a Dask worker does as a load host of a trial: runs load workers, says what they have done.

The trial's machine asks several times a second (`exchange`): what it has to tell the workers goes
there, their counts and what they have recorded since come back. Asked so, a host also says what
its clock shows. A host that is asked no more, since the trial or its machine is gone, ends its
workers by itself and removes its scratch folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from kit.load.worker.counters import Counters, Elsewhere, Field, counters_path
from kit.load.worker.process import LoadWorker
from kit.runner.dask_host import is_cut
from kit.runner.place import POLL_S
from kit.servers.runs import register
from kit.servers.traces import sweep
from kit.study.encoding import from_json
from kit.study.files import size_bytes
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.spec import Endpoint, TrialSpec
from kit.study.traces.keep import FOLDER as TRACES

#: Asked by nobody for so long, a host ends its load.
FORGOTTEN_S = 15.0
#: How long workers may take to write what they hold.
LEAVE_S = 10.0
#: How long a connection to the server may take when a host looks whether it reaches it.
REACH_S = 5.0
#: What workers need to write when their Dask worker is gone.
WRITE_S = 2.0
#: Of one file, the most that goes into one answer.
MOST_BYTES = 4 * 2**20


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is told. have: bytes that came of each file so far."""

    have: dict[str, int] = {}
    start_ns: int | None = None  # by the host's clock, as is:
    died_ns: int | None = None
    stop: bool = False
    elsewhere: Elsewhere = Elsewhere()  # what the workers of the other hosts have counted
    leave: bool = False  # everything has come


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """One load worker of a host."""

    words: list[int] | None  # kit.load.worker.counters.Field; None: there are none yet
    code: int | None  # as LoadWorker.poll
    error: str | None


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says."""

    now_ns: int  # when it was asked
    workers: dict[int, WorkerState] = {}
    parts: dict[str, bytes] = {}  # of files, what comes after what the caller has
    is_whole: bool = False  # all workers have ended, and nothing is left to send
    failed: str = ""  # why it cannot take part


#: By the keys of their tasks.
_LOADS: dict[str, _Load] = {}


def clock() -> int:
    """What this host's clock shows."""
    return time.monotonic_ns()


def exchange(key: str, ask: bytes) -> bytes:
    """Answer the trial's machine, in the Dask worker's event loop; b"": not begun, or over."""
    now_ns = time.monotonic_ns()
    load = _LOADS.get(key)
    return b"" if load is None else load.answer(msgspec.msgpack.decode(ask, type=Ask), now_ns)


def serve(
    key: str, spec: bytes, endpoint: bytes, workers: Sequence[int], traces: Mapping[str, bytes]
) -> None:
    """Run these load workers of a trial until its machine says that it has everything.

    key: of the Dask task that calls this. spec, endpoint: TrialSpec and Endpoint as JSON.
    traces: the files of the study's `traces` folder.

    Raises:
        StoreError, SpecError: the scratch folder cannot be written, the spec not be read.
    """
    run = register()
    try:
        with _swept_if_killed():
            _serve(run.folder, key, spec, endpoint, workers, traces)
    finally:
        run.forget()


def _serve(
    scratch: Path,
    key: str,
    spec: bytes,
    endpoint: bytes,
    workers: Sequence[int],
    traces: Mapping[str, bytes],
) -> None:
    study = StudyFolder(scratch / "study")
    (study.path / TRACES).mkdir(parents=True)
    for name, data in traces.items():
        (study.path / TRACES / Path(name).name).write_bytes(data)
    trial = from_json(spec, TrialSpec)
    load = _Load(trial, from_json(endpoint, Endpoint), study.new_trial(trial), workers)
    _LOADS[key] = load
    try:
        load.run(key)
    finally:
        _LOADS.pop(key, None)
        load.close()


@contextlib.contextmanager
def _swept_if_killed() -> Iterator[None]:
    """Have a process of its own remove what this one leaves, should this one be killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kit.runner.dask_load_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Wait until whoever started this is gone, and remove what dead runs have left."""
    while os.read(0, 4096):
        pass
    time.sleep(WRITE_S)
    sweep()


class _Load:
    """The load workers of this host for one trial."""

    def __init__(
        self, spec: TrialSpec, endpoint: Endpoint, folder: TrialFolder, workers: Sequence[int]
    ) -> None:
        self._endpoint, self._folder = endpoint, folder
        self._workers = {w: LoadWorker(spec, endpoint, folder, worker=w) for w in workers}
        self._elsewhere: Counters | None = None
        load = spec.workload
        has_rule = load.max_errors is not None or load.max_error_fraction is not None
        if has_rule and len(workers) < load.workers:
            # Workers add up what they find of all others; this file stands for all other hosts.
            other = next(w for w in range(load.workers) if w not in self._workers)
            self._elsewhere = Counters(counters_path(folder.path, other), create=True)
        self._asked_s = time.monotonic()
        self._failed = ""
        self._started = False
        self._left = threading.Event()

    def run(self, key: str) -> None:
        """Until the caller has everything, or is there no more."""
        self._failed = _cannot_reach(self._endpoint)
        if not self._failed:
            for worker in self._workers.values():
                worker.start()
            self._started = True
        while not self._left.wait(POLL_S):
            if is_cut(key) or time.monotonic() - self._asked_s > FORGOTTEN_S:
                break

    def close(self) -> None:
        """End what still runs."""
        for worker in self._workers.values():
            worker.stop()
        until_s = time.monotonic() + LEAVE_S
        for worker in self._workers.values():
            if self._started and worker.wait(max(0.0, until_s - time.monotonic())) is None:
                worker.kill()
            worker.close()
        if self._elsewhere is not None:
            self._elsewhere.close()

    def answer(self, ask: Ask, now_ns: int) -> bytes:
        self._asked_s = time.monotonic()
        if self._elsewhere is not None:
            self._elsewhere.words[Field.ERRORS] = ask.elsewhere.errors
            self._elsewhere.words[Field.ENDED] = ask.elsewhere.ended
        for worker in self._workers.values():
            if ask.start_ns is not None:
                worker.begin(ask.start_ns)
            if ask.died_ns is not None:
                worker.server_died(ask.died_ns)
            if ask.stop:
                worker.stop()
        # The workers' ends first: what they have written by then is all that there will be.
        states = {number: _state(worker) for number, worker in self._workers.items()}
        parts, is_whole = {}, all(state.code is not None for state in states.values())
        for name in self._files():
            path, have = self._folder.path / name, ask.have.get(name, 0)
            part = _part(path, have)
            if part:
                parts[name] = part
            is_whole = is_whole and have + len(part) == size_bytes(path)
        if ask.leave:  # last: the folder may be gone at once
            self._left.set()
        return msgspec.msgpack.encode(
            HostState(
                now_ns=now_ns,
                workers=states,
                parts=parts,
                is_whole=is_whole,
                failed=self._failed,
            )
        )

    def _files(self) -> list[str]:
        kinds = ("requests-{}.arrows", "client-{}.arrows", "load-{}.log")
        return [kind.format(number) for number in self._workers for kind in kinds]


def _state(worker: LoadWorker) -> WorkerState:
    code = worker.poll()
    return WorkerState(words=worker.words(), code=code, error=worker.error() if code else None)


def _part(path: Path, have: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(have)
            return file.read(MOST_BYTES)
    except FileNotFoundError:
        return b""


def _cannot_reach(endpoint: Endpoint) -> str:
    """Why no connection to the server can be made from here; "": one can."""
    port = endpoint.http_port or endpoint.grpc_port or 0
    try:
        socket.create_connection((endpoint.host, port), REACH_S).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return f"it cannot reach the server at {endpoint.host}:{port}: {reason}"
    return ""


if __name__ == "__main__":
    main()
