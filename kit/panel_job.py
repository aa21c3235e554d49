"""A study run in a thread; what it reports, and what went wrong as HTML, out.

The thread sets its own attributes, touches no widget and prints nothing.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path

from kit.errors import KitError
from kit.records import StudySpec
from kit.store import StudyFolder
from kit.study import StudyProgress

RunStudy = Callable[..., StudyFolder]


class StudyJob(threading.Thread):
    """One run of a study; it only sets its own attributes."""

    def __init__(self, run: RunStudy, spec: StudySpec, folder: Path) -> None:
        super().__init__(name=f"study {folder.name}", daemon=True)
        self.folder = folder
        self.stop = threading.Event()
        self.progress: StudyProgress | None = None
        self.study: StudyFolder | None = None
        self.problem = ""
        self._run_study = run
        self._spec = spec

    def run(self) -> None:
        try:
            self.study = self._run_study(
                self._spec, self.folder, on_progress=self._see, stop=self.stop
            )
        except KitError as error:
            self.problem = error_html(error)
        except Exception as error:  # noqa: BLE001 - shown in the panel; nobody else would see it
            self.problem = failure_html(error)

    def _see(self, progress: StudyProgress) -> None:
        self.progress = progress


def error_html(error: KitError) -> str:
    """An error of the kit's with its mend."""
    return (
        '<span class="kit-problem" style="color: var(--jp-error-color1, #c62828)">'
        f"{escape(error.given)}. Expected: {escape(error.expected)}; {escape(error.mend)}.</span>"
    )


def failure_html(error: BaseException) -> str:
    """An error nobody foresaw, whole."""
    return f"<pre>{escape(''.join(traceback.format_exception(error)))}</pre>"
