"""An index over all studies of a folder: which release was run when, and died how often of what.

Answers "does this release still crash as it did in spring?": cells of the same server, engine and
traffic are put side by side by the time of their trials.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from kit.errors import KitError, StoreError
from kit.stats.frames import trials_frame
from kit.stats.intervals import same_share_p_value, share
from kit.study.encoding import plain
from kit.study.grid import COLUMNS
from kit.study.recorded import open_study
from kit.study.spec import OWN_WORKLOAD

#: Folders below the one that was named are looked into so deep.
DEPTH = 3
#: More folders than these are not looked at: somebody named a disk, not a folder of studies.
MOST_FOLDERS = 20_000
#: Two shares that chance alone makes so different are called different.
SURE = 0.05
#: What makes two cells of different studies the same question.
CELL = ["release", "engine", "scenario", "concurrency", "protocol", "requests_asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellChange:
    """The earliest and the latest study of one cell.

    cell: CELL and what else varied, as in the table. Counts: trials that say something of the
    server, and those of them in which it died. p_value: Fisher's exact test, two-sided.
    """

    cell: dict[str, object]
    first: datetime
    last: datetime
    first_died: int
    first_trials: int
    last_died: int
    last_trials: int
    p_value: float

    @property
    def differs(self) -> bool:
        return self.p_value < SURE


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIndex:
    """All studies below a folder.

    table: one row a study and cell, oldest first: study (its path), when (UTC; NaT: not recorded),
        CELL, what else the studies varied, trials, died, low, high (95 % interval of the share),
        requests (completed in them). Trials that say nothing of a server are not counted; a cell
        of which none does has 0 trials and no interval.
    skipped: folders that look like a study and cannot be read, and why.
    """

    table: pd.DataFrame
    skipped: dict[Path, str] = field(default_factory=dict)

    def changes(self) -> list[CellChange]:
        """Earliest against latest study of each cell that two studies or more have.

        Traffic of no scenario is left out: studies that call it by the same name may have sent
        something else.
        """
        told = self.table[(self.table["trials"] > 0) & self.table["when"].notna()]
        told = told[told["scenario"] != OWN_WORKLOAD]
        found = []
        for _, rows in told.groupby(self.cell_columns, dropna=False, sort=False, observed=True):
            if len(rows) > 1:
                found.append(_change(rows.iloc[0], rows.iloc[-1], self.cell_columns))
        return sorted(found, key=lambda change: change.p_value)

    @property
    def cell_columns(self) -> list[str]:
        """CELL, and the other fields that studies varied."""
        return [name for name in self.table if name in CELL or name in COLUMNS]


def index_studies(
    folder: Path, *, releases: Collection[str] = (), scenarios: Collection[str] = ()
) -> StudyIndex:
    """Read every study in `folder` and below it; links are not followed.

    releases, scenarios: only these; empty: all.

    Raises:
        StoreError: there is no such folder, or it holds more folders than MOST_FOLDERS.
    """
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}", "a folder of studies", "check the path")
    frames: list[pd.DataFrame] = []
    skipped: dict[Path, str] = {}
    for path in _studies_below(folder):
        try:
            frames.append(_cells(path))
        except (KitError, OSError, ValueError) as error:
            skipped[path] = error.given if isinstance(error, KitError) else str(error)
    table = pd.concat(frames, ignore_index=True) if frames else _EMPTY
    if releases:
        table = table[table["release"].isin(list(releases))]
    if scenarios:
        table = table[table["scenario"].isin(list(scenarios))]
    return StudyIndex(table=table.sort_values("when", ignore_index=True), skipped=skipped)


def _studies_below(folder: Path) -> Iterator[Path]:
    for looked_at, (place, names, files) in enumerate(os.walk(folder)):
        path = Path(place)
        if looked_at >= MOST_FOLDERS:
            raise StoreError(
                f"{folder}, with more than {MOST_FOLDERS:,} folders below it",
                "a folder of studies",
                "name the folder that holds them",
            )
        if "study.json" in files:
            names.clear()  # a study's own folders hold no studies
            yield path
        elif len(path.relative_to(folder).parts) >= DEPTH:
            names.clear()
        names.sort()


def _cells(path: Path) -> pd.DataFrame:
    """The rows of one study."""
    study = open_study(path)
    trials = trials_frame(study)
    began = trials["load_started_ns"] + trials["wall_offset_ns"]
    trials["when"] = pd.to_datetime(began.where(trials["wall_offset_ns"] > 0), unit="ns", utc=True)
    varied = [name for name in trials if name in COLUMNS and name not in CELL]
    rows = []
    for _, cell in trials.groupby([*CELL, *varied], dropna=False, sort=False, observed=True):
        counted = cell[cell["counted"]]
        died, n = int(counted["crashed"].sum()), len(counted)
        edge = share(died, n) if n else None
        rows.append(
            {
                "study": str(path),
                "when": cell["when"].min(),
                **{name: cell[name].iloc[0] for name in [*CELL, *varied]},
                "trials": n,
                "died": died,
                "low": edge.low if edge else None,
                "high": edge.high if edge else None,
                "requests": int(counted["completed"].sum()),
            }
        )
    return pd.DataFrame(rows, columns=[*_HEAD, *varied, *_COUNTS]).astype(_COUNTS)


_HEAD = ["study", "when", *CELL]
_COUNTS = {"trials": "int64", "died": "int64", "low": "float64", "high": "float64"} | {
    "requests": "int64"
}
_EMPTY = pd.DataFrame(
    {name: pd.Series(dtype="object") for name in _HEAD}
    | {"when": pd.Series(dtype="datetime64[ns, UTC]")}
    | {name: pd.Series(dtype=kind) for name, kind in _COUNTS.items()}
)


def _change(first: pd.Series, last: pd.Series, columns: list[str]) -> CellChange:
    return CellChange(
        cell={name: plain(first[name]) for name in columns},
        first=first["when"].to_pydatetime(),
        last=last["when"].to_pydatetime(),
        first_died=int(first["died"]),
        first_trials=int(first["trials"]),
        last_died=int(last["died"]),
        last_trials=int(last["trials"]),
        p_value=same_share_p_value(
            int(first["died"]), int(first["trials"]), int(last["died"]), int(last["trials"])
        ),
    )
