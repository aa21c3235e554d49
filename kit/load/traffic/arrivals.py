"""Computes when each conversation of an open loop is due.

Moments are seconds since the common start, for conversation 0, 1, 2, ...; they are as pure a
function of the workload as the requests themselves, so each worker computes all of them and takes
its own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path

from kit.errors import SpecError
from kit.load.traffic.draws import Purpose, uniforms
from kit.load.traffic.schedule import rate_profile
from kit.study.arrow_file import read_rows
from kit.study.folder import REQUESTS
from kit.study.spec import ArrivalKind, Arrivals, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One request of a trace; lengths that it does not give are the workload's."""

    due_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def due_times(workload: Workload) -> Iterator[float]:
    """When each conversation of an open loop is due; a trace ends, the others go on."""
    arrivals = workload.arrivals
    if arrivals.kind is ArrivalKind.TRACE:
        return iter([row.due_s for row in read_trace(arrivals)])
    if arrivals.kind is ArrivalKind.CONSTANT:
        areas: Iterator[float] = map(float, count())
    else:
        areas = accumulate(_gaps(arrivals, workload.seed))
    return rate_profile(arrivals).filled(areas)


def _gaps(arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Gaps of mean 1: exponential, or gamma with the coefficient of variation asked for."""
    for block in count():
        draws = uniforms(seed, Purpose.GAP, block)
        if arrivals.kind is ArrivalKind.POISSON or arrivals.burstiness_cv == 1.0:
            yield from (-math.log1p(-u) for u in draws)
        elif arrivals.burstiness_cv <= 0.0:
            yield from (1.0 for _ in draws)
        else:
            from scipy.special import gammaincinv

            shape = arrivals.burstiness_cv**-2
            yield from (float(gap) / shape for gap in gammaincinv(shape, draws))


def read_trace(arrivals: Arrivals) -> list[TraceRow]:
    """The requests of a trace in the order of time, the first at 0 s.

    A trace is a CSV file with the columns t_s and, where known, prompt_tokens and output_tokens
    (a header names them; without one the columns come in this order), or requests-*.arrows of a
    recorded trial, or the trial's folder.

    Raises:
        SpecError: it cannot be read, or has no rows.
    """
    path = Path(arrivals.trace_file or "")
    try:
        recorded = path.is_dir() or path.suffix == ".arrows"
        rows = _recorded(path) if recorded else _written(path)
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(
            f"the trace {path}, which cannot be read ({error})",
            "a CSV file with t_s[,prompt_tokens[,output_tokens]], or a recorded trial",
            "correct the path or the file",
        ) from error
    if not rows:
        raise SpecError(f"the trace {path} without a row", "one row a request", "fill it")
    rows.sort(key=lambda row: row.due_s)
    first = rows[0].due_s
    return [
        TraceRow(
            due_s=row.due_s - first,
            prompt_tokens=row.prompt_tokens,
            output_tokens=row.output_tokens,
        )
        for row in rows
    ]


def _written(path: Path) -> list[TraceRow]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line and not line[0].startswith("#")]
    names = ["t_s", "prompt_tokens", "output_tokens"]
    if lines and not _is_number(lines[0][0]):
        names = [name.strip() for name in lines.pop(0)]
    rows = [dict(zip(names, line, strict=False)) for line in lines]
    return [
        TraceRow(
            due_s=_finite(row["t_s"]),
            prompt_tokens=_whole(row.get("prompt_tokens")),
            output_tokens=_whole(row.get("output_tokens")),
        )
        for row in rows
    ]


def _recorded(path: Path) -> list[TraceRow]:
    files = sorted(path.glob("requests-*.arrows")) if path.is_dir() else [path]
    return [
        TraceRow(
            due_s=row["scheduled_ns"] / 1e9,
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens_asked"],
        )
        for file in files
        for row in read_rows(file, REQUESTS).table.to_pylist()
        if row["scheduled_ns"] is not None
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the time {text}")
    return value


def _whole(text: str | None) -> int | None:
    return round(float(text)) if text and text.strip() else None
