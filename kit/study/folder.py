"""Study and trial folders: spec first, Arrow records appended as they happen, result last.

A trial folder holds

    spec.json             TrialSpec, written first
    server.json           what runs: pid, ports, versions, command (JSON object)
    server.log            stdout and stderr of the server, as it came
    server.maps           /proc/<pid>/maps of the ready server
    requests-<w>.arrows   REQUESTS, Arrow IPC stream of load worker <w>
    client-<w>.arrows     CLIENT, the health of that worker
    samples-<who>.arrows  SAMPLES, what the watchers saw
    progress.json         counts for a progress bar, replaced about four times a second
    result.json           TrialResult, the end marker, written last

A study folder holds `study.json` (StudySpec), `trials/<trial_id>/` and, once all trials are
done, `done.json`. Files are only ever appended to or replaced whole.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Self, TypeVar

import pyarrow as pa

from kit.errors import StoreError
from kit.study.encoding import from_json, to_json
from kit.study.files import read_rows, write_whole
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec

T = TypeVar("T")

#: One row a request. Times are CLOCK_MONOTONIC nanoseconds; null = it did not come to that.
REQUESTS = pa.schema(
    [
        ("request", pa.int64()),  # number in the trial's traffic, 0-based, over all workers
        ("worker", pa.int16()),
        ("client", pa.int32()),  # closed loop: which of the N clients; open loop: null
        ("conversation", pa.int64()),
        ("turn", pa.int16()),
        ("warmup", pa.bool_()),
        ("scheduled_ns", pa.int64()),  # when it was due; closed loop: when its client was free
        ("sent_ns", pa.int64()),  # last byte of the request handed to the kernel
        ("first_ns", pa.int64()),  # first token (streams) or first byte of the body
        ("end_ns", pa.int64()),
        ("token_ns", pa.list_(pa.int64())),  # arrival of every token event; null when not streamed
        ("tokens", pa.int32()),  # token events seen; null when the protocol does not show them
        ("prompt_tokens", pa.int32()),
        ("output_tokens_asked", pa.int32()),
        ("bytes_received", pa.int64()),
        ("status", pa.int32()),  # HTTP or gRPC status code
        ("outcome", pa.string()),  # kit.study.result.Outcome
        ("cause", pa.string()),  # one short line: the error or the reason
        ("fault", pa.string()),  # kit.study.spec.FaultKind, what we did to it on purpose
        ("evidence", pa.string()),  # for wrong or malformed answers: what came, at most 500 chars
        # Whose time first_ns, token_ns and the end of an answer have: "kernel", when it came to
        # this machine, or "client", when the client read it (all older records).
        ("clock", pa.string()),
    ]
)

#: Health of one load worker, one row a tick.
CLIENT = pa.schema(
    [
        ("t_ns", pa.int64()),
        ("worker", pa.int16()),
        ("loop_lag_s", pa.float64()),  # worst lateness of a timer in the tick
        ("dispatch_delay_s", pa.float64()),  # worst scheduled -> sent in the tick; null: none sent
        ("cpu_fraction", pa.float64()),  # of one core
        ("rss_bytes", pa.int64()),
        ("in_flight", pa.int32()),
        ("sent", pa.int64()),
        ("ended", pa.int64()),
        ("ok", pa.int64()),
    ]
)

#: What the watchers saw, long form: one row a value. No row = not exported.
SAMPLES = pa.schema(
    [
        ("t_ns", pa.int64()),
        ("source", pa.string()),  # engine_log, triton_metrics, vllm_metrics, process, health
        ("name", pa.string()),  # the kit's name (kit/servers/watch), else the server's own
        ("value", pa.float64()),
        ("labels", pa.string()),  # JSON object of the metric's labels; "" = none
    ]
)


class TrialFolder:
    """The paths of one trial folder and typed access to its JSON files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "server.log"
        self.maps = path / "server.maps"
        self.server = path / "server.json"
        self.progress = path / "progress.json"

    @classmethod
    def create(cls, path: Path, spec: TrialSpec) -> TrialFolder:
        """Make the folder with its spec.

        Raises:
            StoreError: it exists already with another spec, or cannot be made.
        """
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be made: {error}", "a writable folder", "choose another folder"
            ) from error
        write_whole(path / "spec.json", to_json(spec))
        return folder

    @property
    def spec(self) -> TrialSpec:
        return _read_noun(self.path / "spec.json", TrialSpec)

    @property
    def result(self) -> TrialResult | None:
        """The end marker; None = interrupted or still running."""
        path = self.path / "result.json"
        return _read_noun(path, TrialResult) if path.exists() else None

    def finish(self, result: TrialResult) -> None:
        write_whole(self.path / "result.json", to_json(result))

    def log_text(self) -> str | None:
        """The server's log, as far as it was kept; None: it was not."""
        return self.log.read_text(errors="replace") if self.log.exists() else None

    def memory_map(self) -> str | None:
        """`/proc/<pid>/maps` of the ready server; None: it was not kept."""
        return self.maps.read_text(errors="replace") if self.maps.exists() else None

    def requests(self) -> pa.Table:
        return self._concat("requests-*.arrows", REQUESTS)

    def client(self) -> pa.Table:
        return self._concat("client-*.arrows", CLIENT)

    def samples(self) -> pa.Table:
        return self._concat("samples-*.arrows", SAMPLES)

    def _concat(self, pattern: str, schema: pa.Schema) -> pa.Table:
        tables = [read_rows(path, schema) for path in sorted(self.path.glob(pattern))]
        return pa.concat_tables(tables) if tables else schema.empty_table()


class StudyFolder:
    """The paths of one study folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._only: frozenset[str] | None = None

    def only(self, trial_ids: Iterable[str]) -> Self:
        """The same study, of which only these trials are read."""
        part = copy(self)
        part._only = frozenset(trial_ids)
        return part

    def holds(self, trial_id: str) -> bool:
        """False for a trial that `only` leaves out."""
        return self._only is None or trial_id in self._only

    @classmethod
    def create(cls, path: Path, spec: StudySpec) -> StudyFolder:
        """Make the folder, or open it again to resume the same study.

        Raises:
            StoreError: it holds another study.
        """
        folder = cls(path)
        marker = path / "study.json"
        if marker.exists():
            if folder.spec != spec:
                raise StoreError(
                    f"{path} holds another study",
                    "an empty folder, or the same spec",
                    "choose another folder, or give the spec that study.json has",
                )
            return folder
        try:
            (path / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be made: {error}", "a writable folder", "choose another folder"
            ) from error
        write_whole(marker, to_json(spec))
        return folder

    @property
    def spec(self) -> StudySpec:
        return _read_noun(self.path / "study.json", StudySpec)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from running trials into the folder.

        Raises:
            StoreError: another process does so now.
        """
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"{self.path} is being run into by another process",
                    "one at a time",
                    "wait for it, or name another folder",
                ) from error
            yield

    @property
    def finished(self) -> bool:
        """Whether every trial of the plan has its result."""
        return (self.path / "done.json").exists()

    def new_trial(self, spec: TrialSpec) -> TrialFolder:
        """The folder of a trial that is to be run, with its spec.

        What an interrupted attempt at it recorded is kept beside the trials.
        """
        path = self.trial(spec.trial_id).path
        if path.exists():
            attempts = self.path / "interrupted"
            attempts.mkdir(exist_ok=True)
            path.rename(attempts / f"{path.name}.{time.time_ns()}")
        return TrialFolder.create(path, spec)

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.path / "trials" / trial_id)

    def trials(self) -> list[TrialFolder]:
        """All trial folders that have a spec, sorted by name."""
        found = (p.parent for p in sorted(self.path.glob("trials/*/spec.json")))
        return [TrialFolder(path) for path in found if self.holds(path.name)]


def _read_noun(path: Path, noun: type[T]) -> T:
    try:
        return from_json(path.read_bytes(), noun)
    except FileNotFoundError as error:
        raise StoreError(
            f"no {path.name} in {path.parent}", "a folder that the kit wrote", "check the path"
        ) from error
