"""`kit.history`: all studies of a folder in one table, and what has changed between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from kit.cleaning import clean_text, safe_html
from kit.study.words import aligned, in_lines, listing, percent
from kit.ui.arguments import folder as as_folder

if TYPE_CHECKING:
    import pandas as pd

    from kit.stats.history import CellChange, StudyIndex

#: Of a long history, so many rows are shown; `table` has all.
MOST_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class History:
    """Every study below a folder, oldest first.

    table: one row a study and cell (release, engine, scenario, clients, protocol): when, trials,
    died, low and high (95 % interval of the share that dies), requests. changes: earliest against
    latest study of each cell that was run twice. skipped: folders that could not be read, and why.
    """

    index: StudyIndex

    @property
    def table(self) -> pd.DataFrame:
        return self.index.table

    @property
    def changes(self) -> list[CellChange]:
        return self.index.changes()

    @property
    def skipped(self) -> dict[Path, str]:
        return self.index.skipped

    @property
    def answer(self) -> list[str]:
        """What a reader should know first, a sentence each."""
        studies = self.table["study"].nunique()
        trials = int(self.table["trials"].sum())
        told = [f"{_many(studies, 'study', 'studies')}, {_many(trials, 'trial')}."]
        changes = self.changes
        told += [change_sentence(change) for change in changes if change.differs]
        if changes:
            differ = sum(change.differs for change in changes)
            told.append(
                f"Of {_many(len(changes), 'cell')} run in more than one study, {differ} "
                f"{'differs' if differ == 1 else 'differ'} "
                "(p < 0.05 for each alone: of 20 that did not change, one is expected to)."
            )
        else:
            told.append("No cell was run in more than one study, so nothing can be compared.")
        if self.skipped:
            names = listing([path.name for path in list(self.skipped)[:5]])
            told.append(f"{_many(len(self.skipped), 'folder')} could not be read: {names}.")
        return told

    def __repr__(self) -> str:
        lines = [line for text in self.answer for line in in_lines(text)]
        header, *rows = _rows(self.table)
        return clean_text("\n".join([*lines, "", aligned(header, rows)] if rows else lines))

    def _repr_html_(self) -> str:
        told = "".join(f"<p>{safe_html(text)}</p>" for text in self.answer)
        header, *rows = _rows(self.table)
        head = "".join(f"<th>{safe_html(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{safe_html(value)}</td>" for value in row) + "</tr>"
            for row in rows
        )
        return f"<div>{told}<table><tr>{head}</tr>{body}</table></div>"


def history(
    folder: str | Path = "studies",
    *,
    release: str | Iterable[str] = (),
    scenario: str | Iterable[str] = (),
) -> History:
    """All studies below a folder: does this release still crash as it did in spring?

    folder: it, and folders up to three levels below; links are not followed. release, scenario:
    only these. A folder that cannot be read is named in `skipped`, and loses no other.

    Raises:
        SpecError: folder is no path. StoreError: there is no such folder.

    >>> import kit
    >>> found = kit.history("data/recorded", release="24.10", scenario="cancel-race")
    >>> int(found.table["died"].sum()) > 5
    True
    """
    from kit.stats.history import index_studies

    return History(
        index=index_studies(
            as_folder("folder", folder),
            releases=[release] if isinstance(release, str) else list(release),
            scenarios=[scenario] if isinstance(scenario, str) else list(scenario),
        )
    )


def change_sentence(change: CellChange) -> str:
    """24.10 under cancel-race: 5 of 5 died on 2026-03-01, 0 of 5 on 2026-11-28 (p = 0.008)."""
    cell = change.cell
    clients = f", {cell['concurrency']:g} clients" if _is_number(cell["concurrency"]) else ""
    return (
        f"{cell['release']} under {cell['scenario']} ({cell['engine']}{clients}): "
        f"{change.first_died} of {change.first_trials} died on {change.first:%Y-%m-%d}, "
        f"{change.last_died} of {change.last_trials} on {change.last:%Y-%m-%d} "
        f"(p = {change.p_value:.2g})."
    )


def _rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """A header and the newest rows, as text; what all rows have alike is left out."""
    rows = [
        {
            "when": f"{row['when']:%Y-%m-%d}" if _is_known(row["when"]) else "not recorded",
            "study": Path(row["study"]).name,
            "release": str(row["release"]),
            "engine": str(row["engine"]),
            "scenario": str(row["scenario"]),
            "clients": f"{row['concurrency']:g}" if _is_number(row["concurrency"]) else "-",
            "died": f"{row['died']} of {row['trials']}" if row["trials"] else "no verdict",
            "95 %": f"{percent(row['low'])} to {percent(row['high'])}" if row["trials"] else "-",
        }
        for row in table.tail(MOST_ROWS).to_dict("records")
    ]
    optional = {"engine", "clients"}
    names = [
        name
        for name in (rows[0] if rows else ())
        if name not in optional or len({row[name] for row in rows}) > 1
    ]
    lines = [tuple(row[name] for name in names) for row in rows]
    if len(table) > MOST_ROWS:
        lines.insert(0, (f"{len(table) - MOST_ROWS} more", *[""] * (len(names) - 1)))
    return [tuple(names), *lines]


def _many(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _is_known(value: object) -> bool:
    return value == value and value is not None  # NaT is unlike itself


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and _is_known(value)
