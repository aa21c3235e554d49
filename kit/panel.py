"""Widgets in, a StudySpec out: choose releases, traffic and repeats; one button runs the study.

    panel = Panel()
    panel            # as the last line of a cell: shows it
    panel.spec       # what is chosen, ready for run_study
    panel.study      # the folder of the last run; None before the first

The study runs in a thread that touches no widget and prints nothing. The kernel's main thread
looks at what the thread reports and changes the widgets.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from kit.choices import STUDIES, choose, parse_counts, study_folder
from kit.errors import KitError, SpecError
from kit.live import PREPARING, progress_html
from kit.records import StudySpec
from kit.releases import embedded_releases
from kit.report_cells import result_cells
from kit.results import html_table
from kit.scenarios import load_scenarios
from kit.store import StudyFolder
from kit.study import StudyProgress, run_study

LOOK_S = 0.2

RunStudy = Callable[..., StudyFolder]


class Panel:
    """The widgets of one study. `run` is what the Run button calls: run_study, or a fake."""

    def __init__(
        self,
        *,
        releases: Sequence[str] = (),
        scenarios: Sequence[str] = (),
        concurrency: Sequence[int] = (16,),
        requests: int | None = None,
        repeats: int = 3,
        studies: Path = STUDIES,
        run: RunStudy = run_study,
    ) -> None:
        self.study: StudyFolder | None = None
        self._studies = studies
        self._run_study = run
        self._job: _Job | None = None
        self._watching: asyncio.Task[None] | None = None
        self._build(releases, scenarios, concurrency, requests, repeats)
        self._check()

    @property
    def spec(self) -> StudySpec:
        """What is chosen now.

        Raises:
            SpecError: it cannot be run; the panel says so beside the widget as well.
        """
        return choose(
            "panel",
            releases=self.releases.value,
            scenarios=self.scenarios.value,
            concurrencies=parse_counts(self.concurrency.value),
            requests=_requests(self.requests.value),
            repeats=self.repeats.value,
        )

    def run(self) -> None:
        """What the Run button does: start the study and return at once."""
        if self._job is not None:
            return
        spec = self.spec
        folder = study_folder(spec, self._studies)
        self._job = _Job(self._run_study, spec, folder)
        self.results.value = ""
        self.progress.value = PREPARING
        self._busy(True)
        self._job.start()
        self._watching = asyncio.get_running_loop().create_task(self._watch(self._job))

    def stop(self) -> None:
        """What the Stop button does; the running trials end and clean up, the study can go on."""
        if self._job is not None:
            self.stop_button.disabled = True
            self._job.stop.set()

    async def wait(self) -> StudyFolder | None:
        """Until the study that runs, if one does, has ended and is shown."""
        if self._watching is not None:
            await self._watching
        return self.study

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _build(
        self,
        releases: Sequence[str],
        scenarios: Sequence[str],
        concurrency: Sequence[int],
        requests: int | None,
        repeats: int,
    ) -> None:
        self.releases = widgets.SelectMultiple(
            options=[(f"{r.release}  (Triton {r.triton})", r.release) for r in embedded_releases()],
            value=tuple(releases),
            rows=8,
        )
        self.scenarios = widgets.SelectMultiple(
            options=[(f"{name}: {s.title}", name) for name, s in load_scenarios().items()],
            value=tuple(scenarios),
            rows=min(8, max(2, len(load_scenarios()))),
            layout=widgets.Layout(width="48em"),
        )
        self.concurrency = widgets.Text(value=", ".join(map(str, concurrency)))
        self.requests = widgets.Text(
            value="" if requests is None else str(requests), placeholder="as the scenario says"
        )
        self.repeats = widgets.BoundedIntText(value=repeats, min=1, max=1000)
        self.run_button = widgets.Button(
            description="Run", icon="play", button_style="primary", tooltip="Run this study"
        )
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.problem = widgets.HTML()
        self.progress = widgets.HTML()
        self.results = widgets.HTML()
        self._problems = {name: widgets.HTML() for name in _FIELDS}
        rows = [
            widgets.HBox(
                [
                    widgets.Label(label, layout=widgets.Layout(width="7em", flex="0 0 auto")),
                    getattr(self, name),
                    self._problems[name],
                ]
            )
            for name, label in _FIELDS.items()
        ]
        buttons = widgets.HBox([self.run_button, self.stop_button, self.problem])
        self.widget = widgets.VBox([*rows, buttons, self.progress, self.results])
        self.widget.add_class("kit-panel")
        for name in _FIELDS:
            getattr(self, name).layout.flex = "0 0 auto"  # a long message must not squeeze it
            getattr(self, name).observe(lambda _change: self._check(), names="value")
        self.run_button.on_click(lambda _button: self.run())
        self.stop_button.on_click(lambda _button: self.stop())

    def _check(self) -> None:
        """Say beside each widget what is wrong with it; Run works only when nothing is."""
        found = {name: _trouble(self._field, name) for name in _FIELDS}
        whole = "" if any(found.values()) else _trouble(getattr, self, "spec")
        for name, text in found.items():
            self._problems[name].value = text
        self.problem.value = whole
        self.run_button.disabled = self._job is not None or any([*found.values(), whole])

    def _field(self, name: str) -> None:
        value = getattr(self, name).value
        if name in ("releases", "scenarios") and not value:
            raise SpecError("nothing chosen", "at least one", "click one; Ctrl-click adds more")
        if name == "concurrency":
            parse_counts(value)
        if name == "requests":
            _requests(value)

    def _busy(self, busy: bool) -> None:
        for name in _FIELDS:
            getattr(self, name).disabled = busy
        self.run_button.disabled = busy
        self.stop_button.disabled = not busy

    async def _watch(self, job: _Job) -> None:
        """In the main thread: show what the job reports until it has ended."""
        shown: StudyProgress | None = None
        while job.is_alive():
            await asyncio.sleep(LOOK_S)
            if job.progress is not None and job.progress is not shown:
                shown = job.progress
                self.progress.value = progress_html(shown)
        self._job = None
        self._busy(False)
        self._check()
        if job.problem:
            self.progress.value = job.problem
        elif job.study is not None:
            self.study = job.study
            self._show_results(job)

    def _show_results(self, job: _Job) -> None:
        if job.progress is not None:
            self.progress.value = progress_html(job.progress)
        stopped = "<p>Stopped; Run goes on with the same study.</p>" if job.stop.is_set() else ""
        where = f"<p>Study folder: <code>{escape(str(job.folder))}</code></p>"
        self.results.value = stopped + html_table(result_cells(StudyFolder(job.folder))) + where


class _Job(threading.Thread):
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
            self.problem = _html(error)
        except Exception:  # noqa: BLE001 - shown in the panel whole; nobody else would see it
            self.problem = f"<pre>{escape(traceback.format_exc())}</pre>"

    def _see(self, progress: StudyProgress) -> None:
        self.progress = progress


_FIELDS = {
    "releases": "Releases",
    "scenarios": "Scenarios",
    "concurrency": "Concurrency",
    "requests": "Requests",
    "repeats": "Repeats",
}


def _requests(text: str) -> int | None:
    """How many; None for an empty field, which leaves it to the scenario."""
    text = text.strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(f"requests {text!r}", "a whole number above 0, or nothing", "correct it")
    return int(text)


def _trouble(attempt: Callable[..., object], *given: object) -> str:
    """What is wrong with what `attempt` reads, as HTML; "" if nothing is."""
    try:
        attempt(*given)
    except KitError as error:
        return _html(error)
    return ""


def _html(error: KitError) -> str:
    return (
        '<span class="kit-problem" style="color: var(--jp-error-color1, #c62828)">'
        f"{escape(error.given)}. Expected: {escape(error.expected)}; {escape(error.mend)}.</span>"
    )
