"""Stores figures in `benchmarks/results.json`, and prints them as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.source import describe_machine

PATH = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure. A value of None was not measured; `note` says why."""

    name: str
    value: float | None
    unit: str
    low: float | None = None  # over the rounds
    high: float | None = None
    target: str | None = None  # e.g. ">= 0.6"
    peer: str | None = None
    peer_version: str | None = None
    command: str | None = None
    note: str | None = None
    rounds: int = 0

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None: it has none, or was not measured."""
        if self.target is None or self.value is None:
            return None
        sign, limit = self.target.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)


def over_rounds(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Median and range of the rounds that gave a value."""
    there = [value for value in values if value is not None]
    if not there:
        return {"value": None, "rounds": 0}
    return {
        "value": statistics.median(there),
        "low": min(there),
        "high": max(there),
        "rounds": len(there),
    }


@dataclass(slots=True)
class Results:
    """The figures of a run, merged into those of earlier runs by name."""

    figures: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.figures.append(result)
        print(line(result), flush=True)

    def write(self) -> None:
        known = json.loads(PATH.read_text()) if PATH.exists() else {}
        rows = known.get("results", {})
        taken = datetime.now(UTC).isoformat(timespec="seconds")
        for figure in self.figures:
            row = {key: value for key, value in asdict(figure).items() if value is not None}
            row.pop("name")
            row["value"] = figure.value
            rows[figure.name] = row | {"met": figure.met, "taken": taken}
        document = {
            "schema": 1,
            "machine": describe_machine(),
            "results": dict(sorted(rows.items())),
        }
        PATH.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def summary(figures: Sequence[Result]) -> str:
    """How many targets were met, and which were not or could not be told."""
    aimed = [figure for figure in figures if figure.target is not None]
    missed = [figure for figure in aimed if figure.met is False]
    unknown = [figure for figure in aimed if figure.met is None]
    met = len(aimed) - len(missed) - len(unknown)
    lines = [f"Targets: {met} met, {len(missed)} not met, {len(unknown)} not measured."]
    for title, some in (("Not met", missed), ("Not measured", unknown)):
        lines += [f"{title}:"] * bool(some) + [f"  {line(figure)}" for figure in some]
    return "\n".join(lines)


def line(result: Result) -> str:
    if result.value is None:
        return f"{result.name:48} not measured: {result.note}"
    spread = (
        f" [{result.low:.3g}-{result.high:.3g}]"
        if result.low is not None and result.high is not None
        else ""
    )
    met = {True: "  met", False: "  NOT MET", None: ""}[result.met]
    target = f"  target {result.target}" if result.target else ""
    return f"{result.name:48} {result.value:10.4g} {result.unit}{spread}{target}{met}"
