"""The words for traffic that a study can vary: one table for Python, command line, panel and plots.

`FIELDS` says of each word what it means, its unit and its range. A study's grid maps such words
to values; `with_traffic` makes the workload of one point of it, `value_of` reads a word back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Final
from zlib import crc32

from kit.errors import SpecError
from kit.study.arguments import check_names
from kit.study.arrivals import as_trace
from kit.study.distribution import Distribution, DistributionKind
from kit.study.tokenizer_file import as_tokenizer, is_pinned, pinned_tokenizer
from kit.study.traces.pinned import TraceFile, pinned
from kit.study.traffic_field import (
    GridValue,
    Point,
    TrafficField,
    lengths_field,
    number_field,
    word_field,
)
from kit.study.workload import (
    LEAST_ERRORS,
    AnswerCheck,
    ArrivalKind,
    Client,
    FaultKind,
    Protocol,
    StreamErrors,
    Workload,
)


def _deadline(workload: Workload) -> Distribution | None:
    faults = [f for f in workload.faults if f.kind is FaultKind.DEADLINE]
    return faults[0].deadline_s if faults else None


def _text(value: object) -> str:
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise SpecError(
            f"prompt_set = {value!r}",
            "the name of a file in data/prompts, or a file's path",
            "give it as text",
        )
    return str(value)


#: In this order a trial's name tells them, and the first one varies slowest.
FIELDS: Final[dict[str, TrafficField]] = {
    row.name: row
    for row in (
        number_field(
            "concurrency",
            "c",
            "clients that each send when their last request ended; with rate: most in flight",
            lambda w: w.concurrency,
            unit="clients",
            low=1,
            whole=True,
        ),
        number_field(
            "rate",
            "rate",
            "requests a second, whatever comes back (open loop)",
            lambda w: w.rate,
            unit="requests/s",
            above=True,
        ),
        word_field(
            "arrivals",
            "arr",
            "when requests are sent: by clients (closed), at a rate, or as the trace has it",
            ArrivalKind,
            lambda w: w.arrivals.kind.value,
        ),
        number_field(
            "burstiness_cv",
            "cv",
            "coefficient of variation of the gaps between gamma arrivals",
            lambda w: w.arrivals.burstiness_cv if w.arrivals.kind is ArrivalKind.GAMMA else None,
            above=True,
        ),
        TrafficField(
            name="trace",
            help="a traffic file to replay: Azure, BurstGPT, Mooncake, ShareGPT, OpenAI requests, "
            "perf_analyzer, or a recorded trial",
            expected="the path of such a file; it is recognised by its content",
            short="trace",
            is_text=True,
            as_value=as_trace,
            of=lambda w: w.trace,
        ),
        number_field(
            "trace_speed",
            "speed",
            "the trace's times are gone through so many times faster",
            lambda w: w.arrivals.trace_speed,
            above=True,
        ),
        number_field(
            "trace_lengths",
            "lengths",
            "the trace's prompts and answers are so many times longer",
            lambda w: w.arrivals.trace_lengths,
            above=True,
        ),
        word_field(
            "protocol", "proto", "how requests travel", Protocol, lambda w: w.protocol.value
        ),
        lengths_field(
            "prompt_tokens",
            "in",
            "length of the prompts",
            lambda w: w.prompt_tokens,
            unit="tokens",
            low=1,
        ),
        lengths_field(
            "output_tokens",
            "out",
            "length of the answers that are asked for",
            lambda w: w.output_tokens,
            unit="tokens",
            low=1,
        ),
        number_field(
            "shared_prefix_tokens",
            "prefix",
            "length of the beginning that all prompts share",
            lambda w: w.shared_prefix_tokens,
            unit="tokens",
            whole=True,
        ),
        number_field(
            "turns",
            "turns",
            "turns of a conversation, each with the earlier ones in its prompt",
            lambda w: w.turns,
            unit="turns",
            low=1,
            whole=True,
        ),
        TrafficField(
            name="prompt_set",
            help="where prompts come from",
            expected="the name of a file in data/prompts, or a file's path",
            short="set",
            is_text=True,
            as_value=_text,
            of=lambda w: w.prompt_set,
        ),
        TrafficField(
            name="tokenizer",
            help="the model's tokenizer.json, or its folder: lengths are in its tokens, not words",
            expected="the path of a tokenizer.json, or of a folder that has one",
            short="tok",
            is_text=True,
            as_value=as_tokenizer,
            of=lambda w: w.tokenizer,
        ),
        number_field(
            "disconnect",
            "disc",
            "share of the requests whose client closes the connection in mid-answer",
            lambda w: w.share(FaultKind.DISCONNECT),
            unit="share",
            high=1,
        ),
        number_field(
            "cancel",
            "canc",
            "share of the requests that their client cancels in mid-answer",
            lambda w: w.share(FaultKind.CANCEL),
            unit="share",
            high=1,
        ),
        lengths_field(
            "deadline_s",
            "deadline",
            "client deadline after which a request is given up",
            _deadline,
            unit="s",
            low=0,
        ),
        number_field(
            "requests",
            "n",
            "requests of a trial, at most",
            lambda w: w.requests,
            unit="requests",
            low=1,
            whole=True,
        ),
        number_field(
            "duration_s",
            "for",
            "a trial sends for so long, at most",
            lambda w: w.duration_s,
            unit="s",
            above=True,
        ),
        number_field(
            "warmup_requests",
            "warm",
            "requests sent first and left out of latency",
            lambda w: w.warmup_requests,
            unit="requests",
            whole=True,
        ),
        number_field(
            "timeout_s",
            "timeout",
            "how long a client waits for a whole answer",
            lambda w: w.timeout_s,
            unit="s",
            above=True,
        ),
        number_field(
            "max_errors",
            "errors",
            "a trial stops after so many requests that failed",
            lambda w: w.max_errors,
            unit="requests",
            low=1,
            whole=True,
        ),
        number_field(
            "max_error_fraction",
            "errshare",
            f"a trial stops once so large a share of its requests failed, {LEAST_ERRORS} at least",
            lambda w: w.max_error_fraction,
            unit="share",
            above=True,
            high=1,
        ),
        word_field(
            "answer_check",
            "check",
            "what an answer must hold: all of it, the prompt, or nothing",
            AnswerCheck,
            lambda w: w.answer_check.value,
        ),
        word_field(
            "grpc_client",
            "grpc",
            "what sends gRPC requests: the kit's own client, or grpcio, the reference",
            Client,
            lambda w: w.grpc_client.value,
        ),
        word_field(
            "stream_errors",
            "err",
            "how gRPC streams tell of errors: in a message, or by their status, which ends them",
            StreamErrors,
            lambda w: w.stream_errors.value,
        ),
        number_field(
            "processes",
            "procs",
            "processes that send",
            lambda w: w.processes,
            unit="processes",
            low=1,
            whole=True,
        ),
        number_field(
            "load_hosts",
            "hosts",
            "hosts of a Dask cluster that send together, each with so many processes",
            lambda w: w.load_hosts,
            unit="hosts",
            low=1,
            whole=True,
        ),
    )
}


#: Fields that are columns of frames and tell cells apart. The others say when a trial ends: the
#: same traffic, watched for longer.
COLUMNS: Final = tuple(
    name
    for name in FIELDS
    if name not in ("requests", "duration_s", "max_errors", "max_error_fraction")
)


def as_grid(given: Mapping[str, object]) -> dict[str, tuple[GridValue, ...]]:
    """Words with one value or several each, checked, each value once, in the order of FIELDS.

    Raises:
        SpecError: no such word, a value out of its range, no value at all, or closed and open
            loop in one study.
    """
    check_names(given, FIELDS, "traffic field")
    grid = {}
    for name, row in FIELDS.items():
        if name in given:
            values = _distinct(map(row.as_value, several(given[name], row.is_text)))
            if not values:
                raise SpecError(f"{name} without a value", row.expected, f"give {name} a value")
            grid[name] = values
    kinds = grid.get("arrivals", ())
    if ArrivalKind.CLOSED.value in kinds and (len(kinds) > 1 or "rate" in grid):
        raise SpecError(
            "closed and open loop in one study",
            "either concurrency (closed loop) or rate (open loop): their latencies are no "
            "comparison",
            "leave out arrivals='closed' or rate, or make two studies",
        )
    return grid


def _distinct(values: Iterable[GridValue]) -> tuple[GridValue, ...]:
    return tuple(dict.fromkeys(values))


def several(value: object, is_text: bool = False) -> list[object]:
    """One value as a list of it; text such as "1,16" as its parts, unless it stands for itself."""
    if isinstance(value, str) and not is_text:
        return [part for part in re.split(r"[\s,;]+(?![^()]*\))", value) if part]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return list(value)
    return [value]


def points(grid: Mapping[str, tuple[GridValue, ...]]) -> Iterable[Point]:
    """Every combination of a grid's values, the first word varying slowest."""
    names = [name for name in FIELDS if name in grid]
    for values in product(*(grid[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def with_traffic(workload: Workload, point: Mapping[str, GridValue]) -> Workload:
    """The workload with the values of one point of a grid.

    Raises:
        SpecError: they do not go together.

    Example:
        >>> with_traffic(Workload(), {"rate": 5.0, "output_tokens": fixed(64)}).rate
        5.0
    """
    return workload.changed(**point)


def value_of(name: str, workload: Workload) -> int | float | str | None:
    """What a workload says for a word: a number, a text, or None if it has none.

    A distribution that always gives the same number is that number.
    """
    value = FIELDS[name].of(workload)
    return None if value is None else number_of(value)


def number_of(value: GridValue) -> int | float | str:
    """The value as a frame holds it: a distribution is its one number, or its text."""
    if isinstance(value, Distribution):
        return value.mean if value.kind is DistributionKind.FIXED else str(value)
    if is_pinned(value):
        return pinned_tokenizer(str(value)).label
    file = _file(value)
    return value if file is None else file.label


def _file(value: GridValue) -> TraceFile | None:
    """The traffic file that a value names; None: it names none."""
    return pinned(value) if isinstance(value, str) and "#format=" in value else None


def tag_of(name: str, value: GridValue) -> str:
    """A value as it stands in a trial's name, and so in a folder's: "rate5", "out16-64"."""
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    if is_pinned(value):
        return f"{FIELDS[name].short}{pinned_tokenizer(text).sha256[:8]}"
    if file := _file(value):
        return f"{FIELDS[name].short}-{file.format}-{file.sha256[:8]}"
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    if isinstance(value, str) and value not in FIELDS[name].choices and plain != text:
        plain = f"{plain[-24:].strip('-.')}-{crc32(text.encode()) & 0xFFFF:04x}"
    return FIELDS[name].short + plain
