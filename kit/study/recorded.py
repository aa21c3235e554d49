"""Records a finished study as a small immutable copy, and opens any study folder.

A recorded study holds `study.json` (StudySpec), `trials.parquet` (a row a trial: spec and result
as JSON, the end of the log) and one Parquet file a table (`requests`, `client`, `samples`: the
columns of kit.study.folder, with `trial`, the row in trials.parquet, in front), and SHA256SUMS. It
reads like the folder it was made of. Its README.md is its codebook.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kit import __version__
from kit.errors import DamagedStudyWarning, SpecError, StoreError
from kit.study.arrow_file import MOST_BYTES, with_added_columns
from kit.study.encoding import from_json, to_json
from kit.study.files import MOST_JSON_BYTES, read_file, read_text, write_whole
from kit.study.folder import SCHEMAS, StudyFolder, TrialFolder
from kit.study.grid import number_of
from kit.study.hybrids import beside_the_line, on_the_line
from kit.study.records import complete_rows
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec
from kit.study.words import numbers_in_order

TABLES = SCHEMAS
#: Columns of trials.parquet.
TRIALS = pa.schema([("spec", pa.binary()), ("result", pa.binary()), ("log", pa.string())])
#: Checksums of the files, so that a damaged one is never read as data: `sha256sum -c SHA256SUMS`.
SUMS = "SHA256SUMS"
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

    def rows(self, table: str) -> int:
        return int(self._study.rows(table, self._place).num_rows)

    def parts(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        found = self._study.rows(table, self._place)
        yield found if columns is None else found.select(list(columns))


class RecordedStudy(StudyFolder):
    """A recorded study. A table that was left out reads as empty."""

    @cached_property
    def _rows(self) -> list[_Row]:
        return list(filter(None, self._all_rows))

    @cached_property
    def _all_rows(self) -> list[_Row | None]:
        """A row a trial; None: it is damaged."""
        found = [self._row(row) for row in self._parquet("trials", TRIALS).to_pylist()]
        if broken := found.count(None):
            self._lose(f"{self.path / 'trials.parquet'}: {broken} of {len(found)} trials damaged")
        return found

    def _row(self, row: dict[str, Any]) -> _Row | None:
        try:
            spec = from_json(row["spec"], TrialSpec)
            result = from_json(row["result"], TrialResult)
        except (SpecError, TypeError):
            return None
        return _Row(spec=spec, result=result, log=row["log"] or "")

    @cached_property
    def _lost(self) -> list[str]:
        return []

    def _lose(self, text: str) -> None:
        self._lost.append(text)
        warnings.warn(text, DamagedStudyWarning, stacklevel=3)

    @property
    def damage(self) -> list[str]:
        return list(self._lost)

    @cached_property
    def _sums(self) -> dict[str, str]:
        """SHA-256 of the files that SUMS lists, by name."""
        path = self.path / SUMS
        if not path.exists():
            return {}
        lines = read_text(path, within=self.path, limit=MOST_JSON_BYTES).splitlines()
        pairs = [line.split(maxsplit=1) for line in lines]
        return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}

    def _parquet(self, name: str, schema: pa.Schema) -> pa.Table:
        """A Parquet file with these columns.

        Raises:
            StoreError: it is damaged, or has other columns.
        """
        path = self.path / f"{name}.parquet"
        data = read_file(path, within=self.path, limit=MOST_BYTES)
        listed = self._sums.get(path.name)
        try:
            if listed is not None and hashlib.sha256(data).hexdigest() != listed:
                raise ValueError(f"its checksum is not that of {SUMS}")
            read = with_added_columns(pq.read_table(pa.BufferReader(data)), schema)
            table = read.select(schema.names).cast(schema)
            table.validate(full=True)
        except (pa.ArrowException, ValueError, KeyError, OSError, MemoryError) as error:
            raise StoreError(
                f"{path} is damaged: {error}",
                f"columns {', '.join(schema.names)}",
                "get the recorded study once more",
            ) from error
        return table

    @property
    def finished(self) -> bool:
        return True  # only finished studies are recorded

    @cached_property
    def _by_name(self) -> dict[str, RecordedTrial]:
        """The trials by name: concurrency 4 before 16."""
        rows = [(place, row) for place, row in enumerate(self._all_rows) if row]
        rows.sort(key=lambda row: numbers_in_order(row[1].spec.trial_id))
        return {row.spec.trial_id: RecordedTrial(self, place, row) for place, row in rows}

    def state(self) -> Hashable:
        return ()  # a recorded study does not change

    def trials(self) -> list[TrialFolder]:
        return [trial for name, trial in self._by_name.items() if self.holds(name)]

    def trial(self, trial_id: str) -> TrialFolder:
        if trial_id not in self._by_name:
            raise StoreError(
                f"no trial {trial_id!r} in {self.path}", "one of its trials", "look it up"
            )
        return self._by_name[trial_id]

    def rows(self, table: str, place: int) -> pa.Table:
        """The rows of one trial."""
        whole, starts = self._table(table)
        return whole.slice(starts[place], starts[place + 1] - starts[place])

    def _table(self, name: str) -> tuple[pa.Table, list[int]]:
        if name not in self._tables:
            count = len(self._all_rows)
            self._tables[name] = TABLES[name].empty_table(), [0] * (count + 1)
            if (self.path / f"{name}.parquet").exists():
                try:
                    self._tables[name] = self._placed(name, count)
                except StoreError as error:
                    self._lose(f"{error.given}; all of its rows are lost")
        return self._tables[name]

    def _placed(self, name: str, count: int) -> tuple[pa.Table, list[int]]:
        """A table, and where the rows of each trial begin."""
        damage: list[str] = []
        found = self._parquet(name, pa.schema([("trial", pa.int32()), *TABLES[name]]))
        table = complete_rows(found, self.path / f"{name}.parquet", damage)
        for text in damage:
            self._lose(text)
        column = table["trial"]
        places = column.to_numpy() if not column.null_count else np.array([-1])
        if places.size and (places[0] < 0 or places[-1] >= count or (np.diff(places) < 0).any()):
            raise StoreError(
                f"{self.path / f'{name}.parquet'} is damaged: rows of no trial, or out of order",
                f"numbers of {count} trials",
                "get the recorded study once more",
            )
        starts = np.searchsorted(places, np.arange(count + 1)).tolist()
        return table.drop_columns(["trial"]), starts

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
    write_sums(into)
    return RecordedStudy(into)


def write_sums(folder: Path) -> None:
    """Write SUMS, the checksums of a recorded study's data, as `sha256sum` reads them."""
    files = sorted([folder / "study.json", *folder.glob("*.parquet")])
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    write_whole(folder / SUMS, "".join(lines).encode())


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
        releases="\n- Hybrids, no releases: ".join(
            ", ".join(names)
            for names in (on_the_line(spec.releases), beside_the_line(spec.releases))
            if names
        ),
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
