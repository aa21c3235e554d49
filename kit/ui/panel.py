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

from kit.errors import KitError, SpecError
from kit.kv.advice import foreseen
from kit.report.cells import result_cells
from kit.report.table import html_table
from kit.runner.study import StudyProgress, run_study
from kit.study.folder import StudyFolder
from kit.study.grid import GridValue, as_grid
from kit.study.plan import count, first_of_each_cell
from kit.study.releases import embedded_releases
from kit.study.scenarios import load_scenarios
from kit.study.spec import StudySpec
from kit.ui.choices import STUDIES, choose, study_folder
from kit.ui.progress import PREPARING, progress_html

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
    """An error of the kit's with its hint."""
    return (
        '<span class="kit-problem" style="color: var(--jp-error-color1, #c62828)">'
        f"{escape(error.given)}. Expected: {escape(error.expected)}; {escape(error.hint)}.</span>"
    )


def failure_html(error: BaseException) -> str:
    """An error nobody foresaw, whole."""
    return f"<pre>{escape(''.join(traceback.format_exception(error)))}</pre>"


LOOK_S = 0.2
#: A click overtakes what was typed just before it when the kernel is busy: the browser holds the
#: value back until the kernel has taken the one before. So a click is acted upon a moment later.
SETTLE_S = 0.5


class Panel:
    """The widgets of one study. `run` is what the Run button calls: run_study, or a fake."""

    def __init__(
        self,
        *,
        releases: Sequence[str] = (),
        scenarios: Sequence[str] = (),
        concurrency: Sequence[int] = (),
        requests: int | None = None,
        repeats: int = 3,
        studies: Path = STUDIES,
        run: RunStudy = run_study,
    ) -> None:
        self.study: StudyFolder | None = None
        self._studies = studies
        self._run_study = run
        self._job: StudyJob | None = None
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
            self.releases.value,
            self.scenarios.value,
            name="panel",
            concurrency=_concurrencies(self.concurrency.value) or None,
            requests=_requests(self.requests.value),
            repeats=self.repeats.value,
        )

    def run(self) -> None:
        """What the Run button does: start the study and return at once."""
        if self._watching is None or self._watching.done():
            self.run_button.disabled = True
            self._watching = asyncio.get_running_loop().create_task(self._run())
            self._watching.add_done_callback(self._ended)

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
        self.concurrency = widgets.Text(
            value=", ".join(map(str, concurrency)), placeholder="as each scenario says"
        )
        self.requests = widgets.Text(
            value="" if requests is None else str(requests), placeholder="as each scenario says"
        )
        self.repeats = widgets.BoundedIntText(
            value=repeats, min=1, max=1000, continuous_update=True
        )
        self.run_button = widgets.Button(
            description="Run", icon="play", button_style="primary", tooltip="Run this study"
        )
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.problem = widgets.HTML()
        self.summary = widgets.HTML()
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
        buttons = widgets.HBox([self.run_button, self.stop_button, self.summary, self.problem])
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
        self.summary.value = "" if whole or any(found.values()) else _summary(self.spec)
        self.run_button.disabled = self._job is not None or any([*found.values(), whole])

    def _field(self, name: str) -> None:
        value = getattr(self, name).value
        if name in ("releases", "scenarios") and not value:
            raise SpecError("nothing chosen", "at least one", "click one; Ctrl-click adds more")
        if name == "concurrency":
            _concurrencies(value)
        if name == "requests":
            _requests(value)

    def _busy(self, busy: bool) -> None:
        for name in _FIELDS:
            getattr(self, name).disabled = busy
        self.run_button.disabled = busy
        self.stop_button.disabled = not busy

    async def _run(self) -> None:
        """In the main thread: start what is chosen, and show it until it has ended."""
        await asyncio.sleep(SETTLE_S)
        self._check()
        if self.run_button.disabled:
            return
        spec = self.spec
        job = self._job = StudyJob(self._run_study, spec, study_folder(spec, self._studies))
        self.results.value = ""
        self.progress.value = PREPARING
        self._busy(True)
        job.start()
        shown: StudyProgress | None = None
        while job.is_alive():
            await asyncio.sleep(LOOK_S)
            if job.progress is not None and job.progress is not shown:
                shown = job.progress
                self.progress.value = progress_html(shown)
        if job.problem:
            self.progress.value = job.problem
        elif job.study is not None:
            self.study = job.study
            self._show_results(job)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody awaits what a click began, so an error in it is shown here."""
        self._job = None
        self._busy(False)
        self._check()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.progress.value = failure_html(error)

    def _show_results(self, job: StudyJob) -> None:
        if job.progress is not None:
            self.progress.value = progress_html(job.progress)
        stopped = "<p>Stopped; Run goes on with the same study.</p>" if job.stop.is_set() else ""
        where = f"<p>Study folder: <code>{escape(str(job.folder))}</code></p>"
        self.results.value = stopped + html_table(result_cells(StudyFolder(job.folder))) + where


_FIELDS = {
    "releases": "Releases",
    "scenarios": "Scenarios",
    "concurrency": "Concurrency",
    "requests": "Requests",
    "repeats": "Repeats",
}


def _concurrencies(text: str) -> tuple[GridValue, ...]:
    """Numbers of clients; none for an empty field, which leaves it to each scenario."""
    return as_grid({"concurrency": text})["concurrency"] if text.strip() else ()


def _requests(text: str) -> int | None:
    """How many; None for an empty field, which leaves it to each scenario."""
    text = text.strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(f"requests {text!r}", "a whole number above 0, or nothing", "correct it")
    return int(text)


def _summary(spec: StudySpec) -> str:
    """What Run will do: the trials, what they are the product of, and whose cache will fill."""
    trials = count(spec)
    parts = [
        f"{len(values)} {word if len(values) == 1 else word + 's'}"
        for word, values in (("release", spec.releases), ("scenario", spec.scenarios))
    ]
    parts.append(f"{spec.repeats} {'repeat' if spec.repeats == 1 else 'repeats'}")
    said = f"{trials} {'trial' if trials == 1 else 'trials'}: {', '.join(parts)}"
    return "<br>".join([said, *map(escape, foreseen(first_of_each_cell(spec)))])


def _trouble(attempt: Callable[..., object], *given: object) -> str:
    """What is wrong with what `attempt` reads, as HTML; "" if nothing is."""
    try:
        attempt(*given)
    except KitError as error:
        return error_html(error)
    return ""
