"""Study and trial folders: spec first, Arrow records appended as they happen, result last.

A trial folder holds

    spec.json             TrialSpec, written first
    server.json           what runs: pid, ports, versions, command (JSON object)
    server.log            stdout and stderr of the server, as it came
    server.maps           /proc/<pid>/maps of the ready server
    requests-<w>.arrows   REQUESTS, Arrow IPC stream of load worker <w>
    client-<w>.arrows     CLIENT, the health of that worker
    samples-<who>.arrows  SAMPLES, what the watchers saw
    hosts/                while load hosts send: what came of the two above, by their own clocks
    *.arrows.sums         checksums of the batches of each (kit.study.arrow_file)
    packed.json           lists the *.parquet that stand in for the *.arrows (kit.study.packed)
    progress.json         counts for a progress bar, replaced about four times a second
    result.json           TrialResult, the end marker, written last

A study folder holds `study.json` (StudySpec), `trials/<trial_id>/`, `traces/` (traffic
files, kit.study.traces.keep, and tokenizers), what its last run remarked (kit.study.remarks) and,
once all trials are done, `done.json`. Files are only ever appended to or replaced whole.

A folder object reads a file once and again only when the file has changed: keep the object, and
ask it as often as you like.

A folder may come from a stranger, or from a disk that failed. Files that are damaged, or no regular
files of the folder itself, cost only what they hold: the rest is read, `damage` says what is
missing, and a DamagedStudyWarning is given.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa

from kit.errors import DamagedStudyWarning, StoreError
from kit.study.encoding import to_json
from kit.study.files import read_text, write_whole
from kit.study.locks import lock
from kit.study.records import (
    count_records,
    file_state,
    read_noun,
    read_records,
    records_state,
    stream_records,
)
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec
from kit.study.tokenizer_file import keep_tokenizer
from kit.study.traces.keep import keep
from kit.study.words import numbers_in_order

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
        ("prompt_tokens", pa.int32()),  # as made: words, or tokens of the workload's tokenizer
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
        # Of a request that was answered well: who counted its tokens (TokensBy), those of its
        # prompt and those of its answer. Null of any other, and in older records.
        ("tokens_by", pa.string()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
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


#: The tables of a trial, by the first part of their files' names.
SCHEMAS = {"requests": REQUESTS, "client": CLIENT, "samples": SAMPLES}
#: Ends of the names of files that a trial's readers see.
_RECORDED = (".arrows", ".parquet", ".json")


class TrialFolder:
    """The paths of one trial folder and typed access to its JSON files."""

    def __init__(self, path: Path, *, within: Path | None = None) -> None:
        """within: the study's folder, that nothing in the trial's may lead out of."""
        self.path = path
        self._within = within or path
        self.log = path / "server.log"
        self.maps = path / "server.maps"
        self.server = path / "server.json"
        self.progress = path / "progress.json"
        self._kept: dict[str, tuple[Hashable, Any]] = {}
        self._damage: dict[str, list[str]] = {}

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
        path = self.path / "spec.json"
        return self._once(
            "spec", file_state(path), lambda: read_noun(path, TrialSpec, self._within)
        )

    @property
    def result(self) -> TrialResult | None:
        """The end marker; None = interrupted, still running, or damaged."""
        path = self.path / "result.json"
        if not os.path.lexists(path):
            return None
        state = file_state(path)

        def read() -> TrialResult | None:
            try:
                self._note("result", [])
                return read_noun(path, TrialResult, self._within)
            except StoreError as error:
                self._note("result", [error.given])
                return None

        return self._once("result", state, read)

    @property
    def damage(self) -> list[str]:
        """What is missing of what has been read so far, a phrase a file."""
        return [text for texts in self._damage.values() for text in texts]

    def _note(self, what: str, damage: list[str]) -> None:
        self._damage[what] = damage
        for text in damage:
            warnings.warn(text, DamagedStudyWarning, stacklevel=4)

    def log_text(self) -> str | None:
        """The server's log, as far as it was kept; None: it was not."""
        return self._text("log", self.log)

    def memory_map(self) -> str | None:
        """`/proc/<pid>/maps` of the ready server; None: it was not kept."""
        return self._text("maps", self.maps)

    def _text(self, what: str, path: Path) -> str | None:
        if not os.path.lexists(path):
            return None
        try:
            return read_text(path, within=self._within)
        except StoreError as error:
            self._note(what, [error.given])
            return None

    def state(self) -> Hashable:
        """Equal for as long as nothing has been written that a reader of the trial would see."""
        try:
            with os.scandir(self.path) as entries:
                names = [e.name for e in entries if e.name.endswith(_RECORDED)]
        except OSError:
            return ()
        seen = sorted(set(names) - {"progress.json"})
        return tuple((name, file_state(self.path / name)) for name in seen)

    def _once(self, what: str, state: Hashable, read: Callable[[], T]) -> T:
        """What `read` gives, read again only if the state of the files is another than before."""
        kept = self._kept.get(what)
        if kept is None or kept[0] != state:
            kept = self._kept[what] = state, read()
        value: T = kept[1]
        return value

    def finish(self, result: TrialResult) -> None:
        write_whole(self.path / "result.json", to_json(result))

    def requests(self) -> pa.Table:
        return self._table("requests")

    def client(self) -> pa.Table:
        return self._table("client")

    def samples(self) -> pa.Table:
        return self._table("samples")

    def rows(self, table: str) -> int:
        """Rows of a table ("requests", "client", "samples"), counted without reading them."""
        return count_records(self.path, table, within=self._within)

    def parts(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a table piece by piece, none of which is kept; columns: only these.

        A packed trial (kit.study.packed) takes the memory of one part, whatever its size.
        """
        damage: list[str] = []
        yield from stream_records(
            self.path, table, SCHEMAS[table], damage, within=self._within, columns=columns
        )
        self._note(table, damage)

    def _table(self, table: str) -> pa.Table:
        def read() -> pa.Table:
            found, damage = read_records(self.path, table, SCHEMAS[table], within=self._within)
            self._note(table, damage)
            return found

        return self._once(table, records_state(self.path, table), read)


class StudyFolder:
    """The paths of one study folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._only: frozenset[str] | None = None
        self._trials: dict[str, TrialFolder] = {}
        self._damage: dict[str, tuple[Hashable, str]] = {}  # of specs that cannot be read
        self._spec: tuple[Hashable, StudySpec] | None = None

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
        path = self.path / "study.json"
        state = file_state(path)
        if self._spec is None or self._spec[0] != state:
            self._spec = state, read_noun(path, StudySpec, self.path)
        return self._spec[1]

    def state(self) -> Hashable:
        """Equal for as long as nothing has been written that a reader of its trials would see."""
        return tuple((trial.path.name, trial.state()) for trial in self.trials())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from running trials into the folder.

        Raises:
            StoreError: another process does so now.
        """
        with (self.path / "lock").open("w") as file:
            try:
                lock(file, wait=False)
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
        keep(self.path, spec.workload.trace)
        keep_tokenizer(self.path, spec.workload.tokenizer)
        path = self.trial(spec.trial_id).path
        if path.exists():
            attempts = self.path / "interrupted"
            attempts.mkdir(exist_ok=True)
            path.rename(attempts / f"{path.name}.{time.time_ns()}")
        return TrialFolder.create(path, spec)

    def trial(self, trial_id: str) -> TrialFolder:
        if trial_id not in self._trials:
            if Path(trial_id).name != trial_id or "\0" in trial_id:
                raise StoreError(
                    f"a trial named {trial_id!r}", "a name without folders", "rename it"
                )
            path = self.path / "trials" / trial_id
            self._trials[trial_id] = TrialFolder(path, within=self.path)
        return self._trials[trial_id]

    def trials(self) -> list[TrialFolder]:
        """All trial folders whose spec can be read, by name: concurrency 4 before 16."""
        found = (path.parent.name for path in self.path.glob("trials/*/spec.json"))
        names = sorted(found, key=numbers_in_order)
        return [
            self.trial(name)
            for name in names
            if self.holds(name) and self._is_readable(self.trial(name))
        ]

    def _is_readable(self, trial: TrialFolder) -> bool:
        name, state = trial.path.name, file_state(trial.path / "spec.json")
        known = self._damage.pop(name, None)
        if known is not None and known[0] == state:
            self._damage[name] = known
            return False
        try:
            return bool(trial.spec.trial_id)
        except StoreError as error:
            self._damage[name] = state, f"{error.given}: the trial is left out"
            warnings.warn(self._damage[name][1], DamagedStudyWarning, stacklevel=3)
            return False

    @property
    def damage(self) -> list[str]:
        """What is missing of what has been read of the study so far, a phrase a file."""
        of_trials = [text for trial in self._trials.values() for text in trial.damage]
        return [*(text for _, text in self._damage.values()), *of_trials]
