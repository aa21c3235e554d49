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
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pyarrow as pa

from kit.errors import StoreError
from kit.records import StudySpec, TrialResult, TrialSpec, from_json, to_json

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
        ("outcome", pa.string()),  # kit.records.Outcome
        ("cause", pa.string()),  # one short line: the error or the reason
        ("fault", pa.string()),  # kit.records.FaultKind, what we did to it on purpose
        ("evidence", pa.string()),  # for wrong or malformed answers: what came, at most 500 chars
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
        ("name", pa.string()),  # the kit's name (kit/watch), else the server's own
        ("value", pa.float64()),
        ("labels", pa.string()),  # JSON object of the metric's labels; "" = none
    ]
)


#: Continuation mark and a message of length 0: how an Arrow IPC stream ends.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a reader sees the old or the new file, never half."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error}",
            "a writable folder",
            "choose another folder or free space",
        ) from error


class ArrowAppender:
    """Appends tables of one schema to an Arrow IPC stream file; each batch is one write.

    A killed writer tears at most its last batch; `read_rows` drops the torn tail. Use it as a
    context manager.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = path.open("xb", buffering=0)
        # Messages are serialized whole: pyarrow's own stream writer would make a system call of
        # every buffer, some forty a batch.
        self._file.write(schema.serialize())

    def append(self, columns: dict[str, list[object]]) -> None:
        """Append rows given as columns; every column of the schema, equally long."""
        batch = pa.record_batch(
            [pa.array(columns[f.name], f.type) for f in self._schema], schema=self._schema
        )
        self.append_batch(batch)

    def append_batch(self, batch: pa.RecordBatch) -> None:
        """Append a batch of the file's schema that the caller has built."""
        if batch.num_rows:
            self._file.write(batch.serialize())

    def close(self) -> None:
        """Write the end-of-stream mark and close the file."""
        if not self._file.closed:
            self._file.write(_END_OF_STREAM)
            self._file.close()

    def __enter__(self) -> ArrowAppender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    """All whole batches of an Arrow IPC stream file; a missing file or a torn tail is no error.

    Raises:
        StoreError: the file holds rows of another schema.
    """
    batches: list[pa.RecordBatch] = []
    if path.exists():
        batches.extend(_whole_batches(path))
    for batch in batches:
        if not batch.schema.equals(schema):
            raise StoreError(
                f"{path} holds columns {', '.join(batch.schema.names)}",
                f"columns {', '.join(schema.names)}",
                "read it with the version of the kit that wrote it",
            )
    return pa.Table.from_batches(batches, schema=schema)


def _whole_batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            yield from reader
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError, EOFError):
        return  # torn, or not yet begun: what came before stands


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

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.path / "trials" / trial_id)

    def trials(self) -> list[TrialFolder]:
        """All trial folders that have a spec, sorted by name."""
        return [TrialFolder(p.parent) for p in sorted(self.path.glob("trials/*/spec.json"))]


def _read_noun(path: Path, noun: type[T]) -> T:
    try:
        return from_json(path.read_bytes(), noun)
    except FileNotFoundError as error:
        raise StoreError(
            f"no {path.name} in {path.parent}", "a folder that the kit wrote", "check the path"
        ) from error
