"""A finished study in, a small immutable copy of it out; and any study folder, opened to be read.

A recorded study holds `study.json` (StudySpec), `trials.parquet` (a row a trial: spec and result
as JSON, the end of the log) and one Parquet file a table (`requests`, `client`, `samples`: the
columns of kit.study.folder, with `trial`, the row in trials.parquet, in front). It reads like the
folder it was made of. Its README.md is its codebook.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kit import __version__
from kit.errors import StoreError
from kit.study.encoding import from_json, to_json
from kit.study.files import with_added_columns, write_whole
from kit.study.folder import CLIENT, REQUESTS, SAMPLES, StudyFolder, TrialFolder
from kit.study.grid import number_of
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec

TABLES = {"requests": REQUESTS, "client": CLIENT, "samples": SAMPLES}
#: Of the log of a server that died, the end is kept: its stack.
LOG_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One trial of a recorded study."""

    spec: TrialSpec
    result: TrialResult
    log: str = ""


class RecordedTrial(TrialFolder):
    """A trial of a recorded study; reads like its folder did, and has no files of its own."""

    def __init__(self, study: RecordedStudy, place: int, row: _Row) -> None:
        super().__init__(study.path / "trials" / row.spec.trial_id)
        self._study, self._place, self._row = study, place, row

    @property
    def spec(self) -> TrialSpec:
        return self._row.spec

    @property
    def result(self) -> TrialResult | None:
        return self._row.result

    def log_text(self) -> str | None:
        return self._row.log or None  # of a server that died its end was kept

    def memory_map(self) -> str | None:
        return None

    def requests(self) -> pa.Table:
        return self._study.rows("requests", self._place)

    def client(self) -> pa.Table:
        return self._study.rows("client", self._place)

    def samples(self) -> pa.Table:
        return self._study.rows("samples", self._place)


class RecordedStudy(StudyFolder):
    """A recorded study. A table that was left out reads as empty."""

    @cached_property
    def _rows(self) -> list[_Row]:
        return [
            _Row(
                spec=from_json(row["spec"], TrialSpec),
                result=from_json(row["result"], TrialResult),
                log=row["log"],
            )
            for row in pq.read_table(self.path / "trials.parquet").to_pylist()
        ]

    @property
    def finished(self) -> bool:
        return True  # only finished studies are recorded

    def trials(self) -> list[TrialFolder]:
        return [
            RecordedTrial(self, place, row)
            for place, row in enumerate(self._rows)
            if self.holds(row.spec.trial_id)
        ]

    def trial(self, trial_id: str) -> TrialFolder:
        for trial in self.trials():
            if trial.spec.trial_id == trial_id:
                return trial
        raise StoreError(f"no trial {trial_id!r} in {self.path}", "one of its trials", "look it up")

    def rows(self, table: str, place: int) -> pa.Table:
        """The rows of one trial."""
        whole, starts = self._table(table)
        return whole.slice(starts[place], starts[place + 1] - starts[place])

    def _table(self, name: str) -> tuple[pa.Table, list[int]]:
        if name not in self._tables:
            path, count = self.path / f"{name}.parquet", len(self._rows)
            if path.exists():
                table = pq.read_table(path)
                places = table["trial"].to_numpy()
                starts = np.searchsorted(places, np.arange(count + 1)).tolist()
                rows = with_added_columns(table.drop_columns(["trial"]), TABLES[name])
                self._tables[name] = rows.cast(TABLES[name]), starts
            else:
                self._tables[name] = TABLES[name].empty_table(), [0] * (count + 1)
        return self._tables[name]

    @cached_property
    def _tables(self) -> dict[str, tuple[pa.Table, list[int]]]:
        return {}


def open_study(study: StudyFolder | Path) -> StudyFolder:
    """The study in a folder, recorded or as it was run; a StudyFolder is returned as it is.

    Raises:
        StoreError: there is no such folder.
    """
    if isinstance(study, StudyFolder):
        return study
    if (study / "trials.parquet").exists():
        return RecordedStudy(study)
    if not study.is_dir():
        raise StoreError(f"no folder {study}", "a study folder", "check the path")
    return StudyFolder(study)


def is_recorded(study: StudyFolder) -> bool:
    return isinstance(study, RecordedStudy)


def record_study(
    study: StudyFolder, into: Path, *, about: str, tables: Iterable[str] = tuple(TABLES)
) -> RecordedStudy:
    """Write the small copy of `study` with the named tables into the new folder `into`.

    about: what the study shows and how it was run, for the codebook.

    Raises:
        StoreError: `into` exists, or a trial has no result yet.
    """
    trials = study.trials()
    results = {trial.path.name: trial.result for trial in trials}
    unfinished = [name for name, result in results.items() if result is None]
    if into.exists() or unfinished:
        raise StoreError(
            f"{into} exists already" if into.exists() else f"unfinished: {', '.join(unfinished)}",
            "a new folder, and a study that is done",
            "name another folder, or run the study to its end",
        )
    into.mkdir(parents=True)
    write_whole(into / "study.json", (study.path / "study.json").read_bytes())
    columns = {
        "spec": [to_json(trial.spec) for trial in trials],
        "result": [to_json(result) for result in results.values()],
        "log": [_log_end(trial) for trial in trials],
    }
    _write(pa.table(columns), into / "trials.parquet")
    sizes = {"trials": len(trials)} | {n: _write_table(n, trials, into) for n in tables}
    write_whole(into / "README.md", _codebook(study.spec, sizes, about).encode())
    return RecordedStudy(into)


def _write_table(name: str, trials: list[TrialFolder], into: Path) -> int:
    parts = [getattr(trial, name)() for trial in trials]
    places = np.repeat(np.arange(len(parts), dtype=np.int32), [p.num_rows for p in parts])
    whole = pa.concat_tables(parts).add_column(0, "trial", pa.array(places))
    _write(whole, into / f"{name}.parquet")
    return int(whole.num_rows)


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=19)


def _log_end(trial: TrialFolder) -> str:
    """The end of the log of a server that died, without the folders of the machine."""
    result = trial.result
    if result is None or not result.verdict.is_death or not trial.log.exists():
        return ""
    lines = trial.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    text = "\n".join(lines)
    for folder, name in ((str(trial.path), "<trial>"), (str(Path.home()), "~")):
        text = text.replace(folder, name)
    return text


def _codebook(spec: StudySpec, sizes: dict[str, int], about: str) -> str:
    left_out = ", ".join(f"`{name}`" for name in TABLES if name not in sizes)
    return CODEBOOK.format(
        name=spec.name,
        about=about,
        version=__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(platform.libc_ver())}",
        releases=", ".join(spec.releases),
        scenarios=", ".join(spec.scenarios) or "traffic of its own",
        traffic="; ".join(
            f"{name} {', '.join(str(number_of(value)) for value in values)}"
            for name, values in spec.grid.items()
        )
        or "as each scenario says",
        engines=", ".join(dict.fromkeys(engine.kind.value for engine in spec.engines)),
        tables="\n".join(
            f"| `{name}.parquet` | {rows:,} | {CONTENTS[name]} |" for name, rows in sizes.items()
        ),
        left_out=f"Left out to keep it small: {left_out}.\n" if left_out else "",
    )


CONTENTS = {
    "trials": "a trial a row: `spec` (TrialSpec, JSON), `result` (TrialResult, JSON), "
    "`log` (the end of the log of a server that died)",
    "requests": "`trial`, then the columns of `kit.study.folder.REQUESTS`",
    "client": "`trial`, then the columns of `kit.study.folder.CLIENT`",
    "samples": "`trial`, then the columns of `kit.study.folder.SAMPLES`",
}

CODEBOOK = """# {name}

{about}

Recorded with version {version} of the kit on {machine}.

- Releases: {releases}
- Scenarios: {scenarios}
- Traffic: {traffic}
- Engines: {engines}

| file | rows | what a row is |
|---|---|---|
| `study.json` | 1 | the StudySpec (`kit.study.spec`) |
{tables}

`trial` is the trial's row in `trials.parquet`, from 0.
Columns that end in `_ns` are CLOCK_MONOTONIC nanoseconds of that machine.
With `wall_offset_ns` of the trial's result added they are nanoseconds since the epoch.
Null means that it did not happen or was not exported, never 0.
{left_out}
Open it with `kit.study.recorded.open_study(path)`, or give its path to the functions of
`kit.stats.frames`.
"""
