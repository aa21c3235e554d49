"""The live view in the notebook cell that runs a study; its last state stays in the notebook."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import KitError
from kit.ui.live import LiveReader, live_html, next_look_s
from kit.ui.progress import PREPARING, progress_html, remarks_html, summary_line

if TYPE_CHECKING:
    from kit.runner.study import StudyProgress

#: In the colours of the page, light or dark.
STYLE = (
    "<style>"
    ".kit-progress section {border: 1px solid color-mix(in srgb, currentColor 30%, transparent);"
    " border-radius: 4px; padding: 4px 8px; margin: 4px 0}"
    " .kit-progress h4 {margin: 0} .kit-progress pre {margin: 4px 0; white-space: pre-wrap}"
    " .kit-progress dl {display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0}"
    " .kit-progress dl div {display: flex; gap: 6px} .kit-progress dd {margin: 0}"
    " .kit-crash {border-left: 3px solid #c0392b; padding-left: 8px}"
    "</style>"
)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A state that a notebook shows as HTML, and whatever cannot, as a line of text."""

    progress: StudyProgress
    live: str | None = None

    def _repr_html_(self) -> str:
        return self.live or progress_html(self.progress)

    def __repr__(self) -> str:
        return summary_line(self.progress)


class CellView:
    """Shows a study's progress in the cell that runs it: `run_study(..., on_progress=this)`.

    Plain HTML, there from the moment this is made and then replaced in place: it needs no
    widget. `close` leaves how each trial ended, which the saved notebook keeps.

    folder: of the study, which is read again at each look.
    """

    def __init__(self, folder: Path) -> None:
        from IPython.display import HTML, DisplayHandle  # a terminal does without IPython

        self._reader = LiveReader(folder)
        self._next_look_s = 0.0
        self._last: StudyProgress | None = None
        self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
        self._handle.display(HTML(PREPARING))  # type: ignore[no-untyped-call]

    def __call__(self, progress: StudyProgress) -> None:
        self._last, began = progress, time.monotonic()
        if began < self._next_look_s:
            return
        self._handle.update(_Shown(progress, self._view(progress)))  # type: ignore[no-untyped-call]
        self._next_look_s = next_look_s(began)

    def close(self) -> None:
        """Show the last state: how far it came, and how each trial ended."""
        if self._last is not None:
            self._handle.update(_Shown(self._last))  # type: ignore[no-untyped-call]

    def _view(self, progress: StudyProgress) -> str | None:
        try:
            return STYLE + remarks_html(progress) + live_html(self._reader.read())
        except KitError:  # the folder is not there yet, or no more
            return None
