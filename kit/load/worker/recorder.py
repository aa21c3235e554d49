"""Writes ended calls as rows of kit.study.folder.REQUESTS into the trial folder.

A row is packed into a fixed binary layout when the call ends and turned into Arrow columns by
the batch, so that keeping records costs well under two microseconds a request and a flush takes
a fraction of a millisecond, however many rows it writes: while it runs, nothing is stamped.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kit.load.traffic.call import NEVER, Call
from kit.load.traffic.traffic import continuation
from kit.load.worker.redact import forms, redacted
from kit.study.arrow_file import ArrowAppender
from kit.study.folder import REQUESTS
from kit.study.result import Outcome, TokensBy
from kit.study.spec import FaultKind, Workload

if TYPE_CHECKING:
    from kit.load.traffic.token_corpus import TokenCounter

_OK = Outcome.OK
_OUTCOMES = sorted(Outcome, key=lambda outcome: outcome is not _OK)  # OK has code 0
_CODES = {outcome: code for code, outcome in enumerate(_OUTCOMES)}
_FAULTS = list(FaultKind)

_LAYOUT = np.dtype(
    [
        ("request", "<i8"),
        ("scheduled_ns", "<i8"),
        ("sent_ns", "<i8"),
        ("first_ns", "<i8"),
        ("end_ns", "<i8"),
        ("bytes_received", "<i8"),
        ("client", "<i4"),
        ("tokens", "<i4"),
        ("prompt_tokens", "<i4"),
        ("output_tokens_asked", "<i4"),
        ("status", "<i4"),
        ("outcome", "<i4"),
        ("clock", "<i4"),
        ("usage_in", "<i4"),
        ("tokens_out", "<i4"),
    ]
)
_ROW = Struct("<6q9i")
assert _ROW.size == _LAYOUT.itemsize
_TYPES = {
    name: REQUESTS.field(name).type
    for name in _LAYOUT.names or ()
    if name not in ("outcome", "clock", "usage_in", "tokens_out")
}
_MAY_BE_MISSING = frozenset({"sent_ns", "first_ns", "end_ns", "client", "tokens", "status"})
#: Rows after which a flush is due whatever the clock says.
ROWS_A_BATCH = 4096
_SLACK = 512
#: Batches whose answers are still to be counted; with more of them the load waits.
_BATCHES_WAITING = 32


class Recorder:
    """Packs calls and appends them to `requests-<worker>.arrows`.

    secrets: texts that must not be written, in no form, whatever a server says.
    places: conversations and turns of requests, by their numbers; None: as `turns` says.
    counter: counts the tokens of answers whose server does not; None: words are counted.
    """

    def __init__(
        self,
        folder: Path,
        worker: int,
        workload: Workload,
        secrets: Sequence[str] = (),
        places: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
        *,
        counter: TokenCounter | None = None,
    ) -> None:
        self._worker = worker
        self._secrets = forms(secrets)
        self._warmup = workload.warmup_requests
        turns = workload.turns
        self._places = places or (lambda numbers: (numbers // turns, numbers % turns))
        self._appender = ArrowAppender(folder / f"requests-{worker}.arrows", REQUESTS)
        self._outcome_names = pa.array([str(outcome) for outcome in _OUTCOMES], pa.string())
        kits = TokensBy.WORDS if counter is None else TokensBy.TOKENIZER
        self._counters = pa.array([TokensBy.SERVER, kits], pa.string())
        self._counter = counter
        self._answers: dict[int, str] = {}  # to be counted
        #: Counts and writes, while the loop goes on: the library lets other threads run.
        self._pool = None if counter is None else ThreadPoolExecutor(1)
        self._written: deque[Future[None]] = deque()
        self._clock_names = pa.array(["client", "kernel"], pa.string())
        self._fault_names = pa.array([str(kind) for kind in _FAULTS], pa.string())
        self._buffer = bytearray(_ROW.size * (ROWS_A_BATCH + _SLACK))
        self._offset = 0
        self._full = _ROW.size * ROWS_A_BATCH
        self._stamps = array("q")
        self._streamed = False
        self._notes: dict[int, tuple[str | None, str | None]] = {}
        self._faults: dict[int, int] = {}
        self._worst_dispatch_ns = NEVER
        self._outcome_names.take(pa.array([0]))  # loads what the first flush would wait for

    def add(
        self,
        call: Call,
        outcome: Outcome = _OK,
        cause: str | None = None,
        evidence: str | None = None,
    ) -> None:
        """Keep how `call` ended."""
        offset = self._offset
        _ROW.pack_into(
            self._buffer,
            offset,
            call.number,
            call.scheduled_ns,
            call.sent_ns,
            call.first_ns,
            call.end_ns,
            call.received_bytes,
            call.client,
            call.tokens,
            call.prompt_tokens,
            call.output_tokens,
            call.status,
            0 if outcome is _OK else _CODES[outcome],
            call.has_kernel_clock,
            call.usage_in,
            call.tokens_out,
        )
        if call.token_ns is not None:
            self._streamed = True
            self._stamps.fromlist(call.token_ns)
            if len(call.token_ns) != call.tokens:
                raise AssertionError("a streamed call has one stamp a token event")
        if cause is not None or evidence is not None:
            self._notes[offset] = (self._redacted(cause), self._redacted(evidence))
        if self._counter is not None and outcome is _OK and call.usage_in == NEVER:
            self._answers[offset] = _answer(call)
        if call.fault is not None:
            self._faults[offset] = _FAULTS.index(call.fault.kind)
        self._offset = offset + _ROW.size
        if self._offset >= self._full:
            self.flush()

    def _redacted(self, text: str | None) -> str | None:
        """The text as it may be written."""
        return redacted(text, self._secrets) if text and self._secrets else text

    def flush(self) -> None:
        """Append what was kept since the last flush as one Arrow batch."""
        if not self._offset:
            return
        rows = np.frombuffer(self._buffer, _LAYOUT, count=self._offset // _ROW.size).copy()
        columns = {
            name: _column(rows[name], kind, name in _MAY_BE_MISSING)
            for name, kind in _TYPES.items()
        }
        count = len(rows)
        conversations, turns = self._places(rows["request"])
        columns["conversation"] = pa.array(conversations, pa.int64())
        columns["turn"] = pa.array(turns.astype(np.int16))
        columns["worker"] = pa.array(np.full(count, self._worker, np.int16))
        columns["warmup"] = pa.array(rows["request"] < self._warmup)
        columns["outcome"] = self._outcome_names.take(pa.array(rows["outcome"]))
        columns["clock"] = self._clock_names.take(pa.array(rows["clock"]))
        columns["token_ns"] = self._token_column(rows["tokens"])
        columns["fault"] = self._fault_column(count)
        columns["cause"], columns["evidence"] = self._note_columns(count)
        sent = rows["sent_ns"] != NEVER
        if sent.any():
            delays = rows["sent_ns"][sent] - rows["scheduled_ns"][sent]
            self._worst_dispatch_ns = max(self._worst_dispatch_ns, int(delays.max()))
        self._offset = 0
        self._stamps = array("q")
        self._streamed = False
        self._notes.clear()
        self._faults.clear()
        if self._pool is None:
            self._write(rows, columns, {})
            return
        while self._written and (self._written[0].done() or len(self._written) > _BATCHES_WAITING):
            self._written.popleft().result()
        answers, self._answers = self._answers, {}
        self._written.append(self._pool.submit(self._write, rows, columns, answers))

    def _write(
        self, rows: np.ndarray, columns: dict[str, pa.Array], answers: dict[int, str]
    ) -> None:
        if answers and self._counter is not None:
            places = np.fromiter(answers, np.int64) // _ROW.size
            rows["tokens_out"][places] = self._counter.counts([*answers.values()])
        columns |= self._counts(rows)
        self._appender.append_batch(
            pa.record_batch([columns[name] for name in REQUESTS.names], schema=REQUESTS)
        )

    def take_worst_dispatch_ns(self) -> int | None:
        """The longest time from due to sent among the rows flushed since the last question."""
        worst, self._worst_dispatch_ns = self._worst_dispatch_ns, NEVER
        return None if worst == NEVER else worst

    def _counts(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Who counted the tokens of the requests that were answered well, and how many."""
        is_unknown = rows["outcome"] != 0
        by_server = rows["usage_in"] != NEVER
        as_asked = rows["tokens_out"] == NEVER
        counted = np.where(by_server, rows["usage_in"], rows["prompt_tokens"])
        answers = np.where(as_asked, rows["output_tokens_asked"], rows["tokens_out"])
        who = pa.array(np.where(by_server, 0, 1).astype(np.int8), mask=is_unknown)
        return {
            "tokens_by": self._counters.take(who),
            "tokens_in": pa.array(counted, pa.int32(), mask=is_unknown),
            "tokens_out": pa.array(answers, pa.int32(), mask=is_unknown),
        }

    def _token_column(self, tokens: np.ndarray) -> pa.Array:
        kind = REQUESTS.field("token_ns").type
        if not self._streamed:
            return pa.nulls(len(tokens), kind)
        missing = tokens == NEVER
        offsets = np.zeros(len(tokens) + 1, np.int32)
        np.cumsum(np.where(missing, 0, tokens), out=offsets[1:])
        stamps = pa.array(np.frombuffer(self._stamps, np.int64))
        return pa.ListArray.from_arrays(
            pa.array(offsets), stamps, type=kind, mask=pa.array(missing)
        )

    def _fault_column(self, count: int) -> pa.Array:
        if not self._faults:
            return pa.nulls(count, pa.string())
        codes: list[int | None] = [None] * count
        for offset, code in self._faults.items():
            codes[offset // _ROW.size] = code
        return self._fault_names.take(pa.array(codes, pa.int8()))

    def _note_columns(self, count: int) -> tuple[pa.Array, pa.Array]:
        if not self._notes:
            return pa.nulls(count, pa.string()), pa.nulls(count, pa.string())
        causes: list[str | None] = [None] * count
        evidence: list[str | None] = [None] * count
        for offset, (cause, seen) in self._notes.items():
            causes[offset // _ROW.size] = cause
            evidence[offset // _ROW.size] = seen
        return pa.array(causes, pa.string()), pa.array(evidence, pa.string())

    def close(self) -> None:
        self.flush()
        if self._pool is not None:
            self._pool.shutdown()
            for written in self._written:
                written.result()
        self._appender.close()


def _answer(call: Call) -> str:
    """What the server said, without the prompt if it repeats that."""
    if call.answer is None:  # what was expected
        return continuation(call.digits, call.output_tokens).decode()
    return call.answer.removeprefix(call.text.decode())


def _column(values: np.ndarray, kind: pa.DataType, may_be_missing: bool) -> pa.Array:
    """The values as an Arrow column; NEVER becomes null where it can occur."""
    packed = np.ascontiguousarray(values)
    if may_be_missing:
        missing = packed == NEVER
        if missing.any():
            return pa.array(packed, kind, mask=missing)
    return pa.array(packed, kind)
