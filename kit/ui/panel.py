"""Panel of widgets: choose a study, see what it will cost, run it, watch it, stop it, resume it.

    panel = Panel()
    panel            # as the last line of a cell: shows it
    panel.spec       # what is chosen, ready for run_study
    panel.study      # the folder of the last run; None before the first

Run starts the choice that stands on the screen at the click, frozen. The study runs in a thread
that touches no widget; what is shown of it is read from its folder, so a panel made anew, in
this kernel or another, shows a study that runs already and can stop it.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from kit.cleaning import clean_text, safe_html
from kit.errors import KitError, SpecError
from kit.study.folder import StudyFolder
from kit.study.spec import StudySpec
from kit.ui.apart import run_apart
from kit.ui.choices import studies_here, study_folder
from kit.ui.consent import Cap, confirm
from kit.ui.live import (
    LiveReader,
    ask_to_stop,
    is_running,
    live_html,
    read_again,
    running_study,
)
from kit.ui.panel_choice import Checked, Choice, check, form_fields
from kit.ui.panel_saved import load, save, saved

RunStudy = Callable[..., StudyFolder]
HERE = Path(__file__).parent
PREPARING = "<p>Preparing the servers; a release that is not in the cache is fetched.</p>"
#: At most so many updates of what is shown.
LOOK_S = 0.25
CONFIGURATIONS = "configurations"
#: Studies that this process runs, by their folders.
JOBS: dict[Path, StudyJob] = {}


class StudyJob(threading.Thread):
    """One run of a study; it only sets its own attributes."""

    def __init__(self, run: RunStudy, spec: StudySpec, folder: Path, minutes: float | None) -> None:
        super().__init__(name=f"study {folder.name}", daemon=True)
        self.folder = folder
        self.stop = threading.Event()
        self.out_of_time = False
        self.problem = ""
        self._run_study = run
        self._spec = spec
        self._minutes = minutes

    def run(self) -> None:
        JOBS[self.folder.resolve()] = self
        timer = threading.Timer((self._minutes or 0) * 60, self._end)
        timer.daemon = True
        if self._minutes:
            timer.start()
        try:
            self._run_study(self._spec, self.folder, stop=self.stop)
        except KitError as error:
            self.problem = error_html(error)
        except Exception as error:  # noqa: BLE001 - shown in the panel; nobody else would see it
            self.problem = failure_html(error)
        finally:
            timer.cancel()
            JOBS.pop(self.folder.resolve(), None)

    def _end(self) -> None:
        self.out_of_time = True
        self.stop.set()


def error_html(error: KitError) -> str:
    """An error of the kit's with its hint."""
    return (
        f'<p class="kit-problem">{safe_html(error.given)}. Expected: {safe_html(error.expected)}; '
        f"{safe_html(error.hint)}.</p>"
    )


def failure_html(error: BaseException) -> str:
    """An error that the kit does not expect, whole."""
    return f"<pre>{safe_html(''.join(traceback.format_exception(error)))}</pre>"


class PanelForm(anywidget.AnyWidget):
    """The form in the browser (panel_form.js): native inputs, their labels and problems."""

    _esm = HERE / "panel_form.js"
    _css = HERE / "panel_form.css"
    fields = traitlets.Dict().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    live = traitlets.Unicode().tag(sync=True)
    results = traitlets.Unicode().tag(sync=True)


class Panel:
    """The panel of one study. `run` is what the Run button calls: run_study, or a fake.

    apart: the study runs in a process of its own (kit.ui.apart), which this one's end does not end.
    """

    def __init__(
        self,
        *,
        releases: Sequence[str] = (),
        scenarios: Sequence[str] = (),
        concurrency: Sequence[int] = (),
        requests: int | None = None,
        repeats: int = 3,
        studies: Path | None = None,
        run: RunStudy | None = None,
        apart: bool = False,
    ) -> None:
        self.study: StudyFolder | None = None
        self._studies = studies_here() if studies is None else Path(studies)
        self._run_study, self._apart = run, apart
        self._job: StudyJob | None = None
        self._folder: Path | None = None
        self._state = "idle"  # idle, running, stopping
        self._version = 0
        self._checked = Checked(problems={})
        self._watching: asyncio.Task[None] | None = None
        traffic = {"concurrency": ", ".join(map(str, concurrency))}
        traffic["requests"] = "" if requests is None else str(requests)
        start = Choice(
            releases=tuple(releases),
            scenarios=tuple(scenarios),
            traffic=traffic,
            repeats=str(repeats),
        )
        self.widget = PanelForm(fields=form_fields(), choice=start.as_data(), view={})
        self._check(start)
        self.widget.observe(self._changed, names="choice")
        self.widget.on_msg(self._message)
        self._find_running()

    @property
    def choice(self) -> Choice:
        """The fields as they stand."""
        return _choice_of(self.widget.choice)

    @choice.setter
    def choice(self, given: Choice) -> None:
        self._version += 1
        self.widget.choice = {**given.as_data(), "version": self._version, "loaded": True}

    @property
    def spec(self) -> StudySpec:
        """What is chosen now.

        Raises:
            SpecError: it cannot be run; the panel says so beside the field as well.
        """
        checked = check(self.choice)
        if checked.spec is None:
            [(field, text), *_] = checked.problems.items()
            raise SpecError(f"the panel's {field or 'choice'}: {text}", "a study", "correct it")
        return checked.spec

    def run(self, choice: Choice | None = None) -> None:
        """What the Run button does: start the choice, frozen, and return at once.

        choice: None: the fields as they stand.
        """
        if self._state != "idle":
            return
        checked = check(choice or self.choice)
        self._checked = checked
        if checked.spec is None:
            self._show()
            return
        try:
            # The box is ticked; how much is capped all the same.
            confirm(checked.spec, Cap(yes=True))
        except KitError as error:
            self._show(**{"": f"{error.given}. Expected: {error.expected}; {error.hint}."})
            return
        folder = study_folder(checked.spec, self._studies)
        self._job = StudyJob(self._runs(checked), checked.spec, folder, checked.budget_min)
        self._folder = folder
        self.widget.results = ""
        self.widget.live = PREPARING
        self._job.start()
        self._watch()

    def _runs(self, checked: Checked) -> RunStudy:
        given: dict[str, Any] = {} if checked.on is None else {"on": checked.on}
        if self._run_study is not None:
            return partial(self._run_study, **given)
        if self._apart:
            return partial(run_apart, minutes=checked.budget_min, **given)
        from kit.runner.study import run_study

        return partial(run_study, **given)

    def stop(self) -> None:
        """What the Stop button does; the running trials end and clean up, the study can go on."""
        if self._state != "running" or self._folder is None:
            return
        self._state = "stopping"
        if self._job is not None:
            self._job.stop.set()
        else:
            ask_to_stop(self._folder)
        self._show()

    async def wait(self) -> StudyFolder | None:
        """Until the study that runs, if one does, has ended and is shown."""
        if self._watching is not None:
            await self._watching
        return self.study

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _find_running(self) -> None:
        """Show a study that this process or another one is running."""
        if (folder := running_study(self._studies)) is None:
            return
        self._folder = folder
        self._job = JOBS.get(folder.resolve())
        self._watch()

    def _watch(self) -> None:
        self._state = "running"
        self._show()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook: nothing would draw it
            return
        self._watching = loop.create_task(self._follow())

    async def _follow(self) -> None:
        """In the main thread: show the study until it has ended."""
        assert self._folder is not None
        folder, job, reader = self._folder, self._job, LiveReader(self._folder)
        decided = -1
        try:
            while True:
                going = job.is_alive() if job else is_running(folder)
                if (folder / "study.json").exists():
                    live = await asyncio.to_thread(reader.read)
                    if live.done or live.running or live.remarks:
                        self.widget.live = live_html(live)
                    if len(live.done) != decided:
                        decided = len(live.done)
                        self.widget.results = await asyncio.to_thread(
                            read_again, lambda: _table(folder)
                        )
                if not going:
                    break
                await asyncio.sleep(LOOK_S)
            if job and job.problem:
                self.widget.live = job.problem
            else:
                self.study = StudyFolder(folder)
                self.widget.results = _end_html(self.study, job, self._state == "stopping")
        except Exception as error:  # noqa: BLE001 - nobody awaits what a click began
            self.widget.live = failure_html(error)
        finally:
            self._job, self._state = None, "idle"
            self._show()

    def _changed(self, _change: object) -> None:
        given = self.widget.choice
        self._version = max(self._version, int(given.get("version", 0)))
        if self._state == "idle":
            self._check(_choice_of(given))

    def _check(self, choice: Choice) -> None:
        self._checked = check(choice)
        self._show()

    def _show(self, **problems: str) -> None:
        checked = self._checked
        self.widget.view = {
            "version": self._version,
            "state": self._state,
            "problems": checked.problems | problems,
            "plan": list(checked.plan),
            "known": checked.known,
            "known_more": list(checked.known_more),
            "python": checked.python,
            "command": checked.command,
            "report": self.study is not None and self._state == "idle",
            "saved": saved(self._studies / CONFIGURATIONS),
        }

    def _report(self, study: StudyFolder) -> None:
        """Write the report beside the studies, and hand it to the browser."""
        from kit.report.page import write_report

        path = write_report(study, self._studies / "reports" / study.path.name)
        html = path.read_text(encoding="utf-8")
        self.widget.send({"kind": "report", "html": html, "path": str(path)})

    def _message(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        """What the browser sends with a click: the choice that is on its screen goes with it."""
        kind = content.get("kind")
        try:
            if kind == "stop":
                self.stop()
            elif kind == "run":
                given = content["choice"]
                self._version = max(self._version, int(given.get("version", 0)))
                self.run(_choice_of(given))
            elif kind == "report" and self.study is not None:
                self._report(self.study)
            elif kind == "save":
                save(_choice_of(content["choice"]), content["name"], self._studies / CONFIGURATIONS)
                self._show()
            elif kind == "load":
                self.choice = load(
                    self._studies / CONFIGURATIONS / f"{Path(content['name']).name}.yaml"
                )
        except KitError as error:
            self._show(
                saved=clean_text(f"{error.given}. Expected: {error.expected}; {error.hint}.")
            )


def _choice_of(given: Mapping[str, Any]) -> Choice:
    return Choice.of({k: v for k, v in given.items() if k not in ("version", "loaded")})


def _table(folder: Path) -> str:
    """The cells of the study so far; those of which nothing is known yet are left out."""
    from kit.report.cells import result_cells
    from kit.report.table import html_table

    cells = [cell for cell in result_cells(StudyFolder(folder)) if cell.get("trials")]
    return html_table(cells) if cells else ""


def _answer(study: StudyFolder) -> str:
    """The limit that was found, or whether the soak passed; a table says it all for others."""
    from kit.ui.study_view import Study

    view = Study(study)
    try:
        found = view.limit if study.spec.limit else view.soak if study.spec.soak else None
    except KitError as error:
        return error_html(error)
    if found is None:
        return ""
    advice = "".join(f"<li>{safe_html(text)}</li>" for text in getattr(found, "advice", ()))
    return f"<p><strong>{safe_html(found.answer)}</strong></p><ul>{advice}</ul>"


def _end_html(study: StudyFolder, job: StudyJob | None, stopped: bool) -> str:
    """The table, whether it can go on, and what to do next."""
    said = ""
    if job is not None and job.out_of_time:
        said = "<p>The budget is used up; Run goes on with the same study.</p>"
    elif stopped or not study.finished:
        said = "<p>Stopped; Run goes on with the same study.</p>"
    path = str(study.path)
    return (
        f"{said}{_answer(study)}{_table(study.path)}<p>Study folder: "
        f"<code>{safe_html(path)}</code>. What to do, and the report: "
        f"<code>kit.open({safe_html(repr(path))}).report()</code></p>"
    )
