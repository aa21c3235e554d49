"""The live view of a study on a terminal, below a line for every trial that has ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kit.cleaning import clean_text
from kit.errors import KitError
from kit.study.grid import value_of
from kit.study.result import TrialResult
from kit.study.spec import EngineKind, TrialSpec
from kit.ui.live import (
    LiveReader,
    LiveStudy,
    LiveTrial,
    facts_of,
    last_death,
    next_look_s,
)
from kit.ui.progress import HEARTBEAT_S, TextProgress, bar, clock, name_of, summary_line

if TYPE_CHECKING:
    from kit.runner.study import StudyProgress

#: A smaller terminal gets one line that is redrawn, not a view.
LEAST_COLUMNS, LEAST_LINES = 60, 16
#: Lines that are no row of the table of cells, with one trial under way.
OTHER_LINES = 12
#: Requests after which servers of a cell died, so many are shown.
MOST_ITERATIONS = 8


def text_progress(stream: TextIO, folder: Path, *, every_s: float = HEARTBEAT_S) -> TextProgress:
    """What shows the progress of the study in `folder` on `stream`: the live view where it can be
    redrawn and is large enough, else a line that is redrawn, or a line each `every_s` in a pipe."""
    size = shutil.get_terminal_size()
    can_redraw = stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    if can_redraw and size.columns >= LEAST_COLUMNS and size.lines >= LEAST_LINES:
        return Dashboard(stream, folder)
    return TextProgress(stream, every_s=every_s)


class Dashboard(TextProgress):
    """Lines of ended trials that stay, and below them a view that is redrawn.

    folder: of the study, which is read again at each look.
    """

    def __init__(self, stream: TextIO, folder: Path, *, console: Console | None = None) -> None:
        super().__init__(stream)
        self._console = console or Console(file=stream, highlight=False, soft_wrap=True)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            vertical_overflow="crop",
        )
        self._reader = LiveReader(folder)
        self._next_look_s = 0.0

    def _write(self, line: str) -> None:
        self._console.print(Text(clean_text(line, lines=False)))

    def _keep_below(self, progress: StudyProgress) -> None:
        began = time.monotonic()
        if began < self._next_look_s:
            return
        if not self._live.is_started:
            self._live.start()
        self._live.update(self._view(progress), refresh=True)
        self._next_look_s = next_look_s(began)

    def _view(self, progress: StudyProgress) -> RenderableType:
        try:
            live = self._reader.read()
        except KitError:  # the folder is not there yet, or no more
            return Text(summary_line(progress))
        rows = max(3, self._console.size.height - OTHER_LINES)
        return live_view(live, elapsed_s=progress.elapsed_s, most_cells=rows)

    def _clear(self) -> None:
        """Rich writes above the view by itself."""

    def close(self) -> None:
        self._live.stop()
        self._stream.flush()


def live_view(live: LiveStudy, *, elapsed_s: float, most_cells: int = 12) -> RenderableType:
    """The study now: how far it is, the newest death, the cells, and what each trial is at."""
    share = len(live.done) / live.total if live.total else 1.0
    left = f", about {clock(live.left_s)} left" if live.left_s is not None else ""
    head = Text.assemble(
        (bar(share), "cyan"),
        f" {len(live.done)} of {live.total} trials  {clock(elapsed_s)} gone{left}",
    )
    parts: list[RenderableType] = [Text(), head]
    if died := last_death(live):
        parts.append(Text(" ".join(died), style="bold red"))
    if live.done:
        parts.append(_cells(live, most_cells))
    for trial in live.running:
        parts += _trial(trial)
    return Group(*parts)


def _cells(live: LiveStudy, most: int) -> Table:
    """One row a cell: how many of its servers died, and after how many requests."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for header in ("cell", "died", "after requests"):
        table.add_column(header, overflow="ellipsis", no_wrap=True)
    by_cell: dict[str, list[tuple[TrialSpec, TrialResult]]] = {}
    for spec, result in live.done:
        by_cell.setdefault(_cell_of(spec, live.varied), []).append((spec, result))
    cells = sorted(by_cell.items(), key=lambda cell: (-_deaths(cell[1]), cell[0]))
    for name, rows in cells[:most]:
        deaths = _deaths(rows)
        after = sorted(result.completed for _, result in rows if result.verdict.is_death)
        said = ", ".join(map(str, after[:MOST_ITERATIONS]))
        table.add_row(
            Text(name),
            Text(f"{deaths} of {len(rows)}", style="red" if deaths else ""),
            Text(said + (", …" if len(after) > MOST_ITERATIONS else "")),
        )
    if len(cells) > most:
        table.add_row(Text(f"… and {len(cells) - most} more", style="dim"), "", "")
    return table


def _cell_of(spec: TrialSpec, varied: Iterable[str]) -> str:
    """Release, scenario, clients, and what else the study varies: "24.05 control rate 5"."""
    name = " ".join(name_of(spec).rsplit("#", 1)[0].split())
    is_real = spec.engine.kind is not EngineKind.SIMULATED
    engine = ":".join(filter(None, (spec.engine.kind, spec.engine.version))) if is_real else ""
    words = [f"{word} {value_of(word, spec.workload)}" for word in varied]
    return clean_text(" ".join(filter(None, (name, engine, *words))), lines=False)


def _deaths(rows: list[tuple[TrialSpec, TrialResult]]) -> int:
    return sum(result.verdict.is_death for _, result in rows)


def _trial(trial: LiveTrial) -> list[Text]:
    name = " ".join(name_of(trial.spec).split())
    known = facts_of(trial) if trial.sent else []  # nothing is to be seen before
    facts = "   ".join(f"{fact} {value}" for fact, value in known)
    return [
        Text(),
        Text.assemble((name, "bold"), f"  {clean_text(trial.phase, lines=False)}"),
        *([Text(f"  {clean_text(facts, lines=False)}")] if facts else []),
        *(Text(f"  {clean_text(line, lines=False)}", "dim", no_wrap=True) for line in trial.log),
    ]
