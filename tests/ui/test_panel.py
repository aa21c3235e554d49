"""The panel's logic: what it yields, what it refuses, what its buttons do. See also
test_panel_browser.py, where a person's clicks reach it through JupyterLab.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from synthetic_studies import finish_study, write_trial

from kit.errors import DownloadError, SpecError
from kit.runner.study import RunningTrial, StudyProgress
from kit.study.folder import StudyFolder
from kit.study.spec import Engine, StudySpec
from kit.ui.choices import choose
from kit.ui.panel import Panel


def panel(tmp_path: Path, run: Callable[..., StudyFolder] | None = None) -> Panel:
    chosen = {"releases": ["23.10", "24.05"], "scenarios": ["cancel-race"]}
    if run is None:
        return Panel(**chosen, studies=tmp_path)
    return Panel(**chosen, studies=tmp_path, run=run)


def run_at_once(
    spec: StudySpec,
    folder: Path,
    *,
    on_progress: Callable[[StudyProgress], None],
    stop: threading.Event,
) -> StudyFolder:
    """Stands for run_study: two trials of invented numbers, reported as they would be."""
    study = StudyFolder.create(folder, spec)
    done = []
    for release, crash_after in (("23.10", 7), ("24.05", None)):
        trial = write_trial(study, release, scenario="cancel-race", crash_after=crash_after)
        assert trial.result is not None
        on_progress(
            StudyProgress(
                total=2,
                done=tuple(done),
                running=(RunningTrial(spec=trial.spec, phase="loading", ended=1),),
                elapsed_s=1.0,
            )
        )
        done.append((trial.spec, trial.result))
    on_progress(StudyProgress(total=2, done=tuple(done), running=(), elapsed_s=2.0))
    return finish_study(study)


def press_run(shown: Panel) -> None:
    async def press_and_wait() -> None:
        shown.run_button.click()
        await shown.wait()

    asyncio.run(press_and_wait())


def test_what_is_chosen_is_the_spec(tmp_path: Path) -> None:
    shown = panel(tmp_path)
    shown.concurrency.value = "1, 16"
    shown.requests.value = "50"
    shown.repeats.value = 2
    spec = shown.spec
    assert spec.releases == ("23.10", "24.05")
    assert (spec.concurrencies, spec.requests, spec.repeats) == ((1, 16), 50, 2)


def test_empty_fields_leave_requests_and_concurrency_to_the_scenario(tmp_path: Path) -> None:
    spec = panel(tmp_path).spec
    assert spec.requests is None
    assert spec.concurrencies == ()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("concurrency", "1, many", "many"),
        ("concurrency", "0", "above 0"),
        ("concurrency", "1;;x", "whole numbers"),
        ("requests", "-3", "-3"),
        ("requests", "1.5", "1.5"),
        ("releases", (), "nothing chosen"),
        ("scenarios", (), "nothing chosen"),
    ],
)
def test_bad_input_is_said_beside_its_widget(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    shown = panel(tmp_path)
    good = getattr(shown, field).value
    getattr(shown, field).value = value
    row = next(row for row in shown.widget.children if getattr(shown, field) in row.children)
    assert said in row.children[-1].value
    assert shown.run_button.disabled
    with pytest.raises(SpecError):
        _ = shown.spec
    getattr(shown, field).value = good
    assert row.children[-1].value == ""
    assert not shown.run_button.disabled


def test_a_release_that_lacks_what_the_scenario_needs_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    shown = panel(tmp_path)
    shown.releases.value = ("23.07",)
    assert "23.07 has no HTTP generate endpoint" in shown.problem.value
    assert shown.run_button.disabled


def test_what_run_will_do_is_said_before_it_is_pressed(tmp_path: Path) -> None:
    shown = panel(tmp_path)
    assert shown.summary.value == "6 trials: 2 releases, 1 scenario, 3 repeats"
    shown.releases.value = ("23.10",)
    shown.repeats.value = 1
    assert shown.summary.value == "1 trial: 1 release, 1 scenario, 1 repeat"


def test_a_cache_that_will_fill_is_said_before_run_is_pressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Engine(blocks=32, block_size_tokens=32, max_model_tokens=512)
    with_small_cache = partial(choose, engine=small)
    monkeypatch.setattr("kit.ui.panel.choose", with_small_cache)
    shown = panel(tmp_path)
    shown.concurrency.value = "16"
    assert "At concurrency 16 this traffic needs" in shown.summary.value
    shown.concurrency.value = "1"
    assert "KV cache" not in shown.summary.value


def test_what_was_typed_just_before_the_click_counts_even_if_it_comes_after(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_at_once)

    async def click_before_the_value_comes() -> None:
        shown.run_button.click()
        shown.repeats.value = 1
        await shown.wait()

    asyncio.run(click_before_the_value_comes())
    assert shown.study is not None
    assert shown.study.spec.repeats == 1


def test_run_shows_the_result_table_and_keeps_the_study(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_at_once)
    press_run(shown)
    assert shown.study is not None
    assert shown.study.path.parent == tmp_path
    assert "2 of 2 trials" in shown.progress.value
    assert "<td>23.10</td>" in shown.results.value
    assert "<td>1 of 1</td>" in shown.results.value
    assert not shown.run_button.disabled
    assert shown.stop_button.disabled


def test_while_a_study_runs_nothing_can_be_changed_and_stop_ends_it(tmp_path: Path) -> None:
    started = threading.Event()

    def run_until_stopped(
        spec: StudySpec, folder: Path, *, stop: threading.Event, **_: object
    ) -> StudyFolder:
        started.set()
        assert stop.wait(30)
        return StudyFolder.create(folder, spec)

    shown = panel(tmp_path, run_until_stopped)

    async def run_and_stop() -> None:
        shown.run_button.click()
        assert shown.run_button.disabled
        await asyncio.to_thread(started.wait, 30)
        assert shown.run_button.disabled
        assert shown.releases.disabled
        shown.run()  # a second click that came through must not start a second study
        shown.stop_button.click()
        await shown.wait()

    asyncio.run(run_and_stop())
    assert "Stopped" in shown.results.value
    assert not shown.releases.disabled
    assert len(list(tmp_path.iterdir())) == 1


def test_run_after_a_stop_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    folders = []

    def stop_early(spec: StudySpec, folder: Path, **_: object) -> StudyFolder:
        folders.append(folder)
        return StudyFolder.create(folder, spec)

    shown = panel(tmp_path, stop_early)
    press_run(shown)
    press_run(shown)
    assert folders[0] == folders[1]


def test_the_kits_own_errors_are_shown_with_their_mend(tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> StudyFolder:
        raise DownloadError("no network", "a wheel", "connect <this machine>")

    shown = panel(tmp_path, fail)
    press_run(shown)
    assert "connect &lt;this machine&gt;" in shown.progress.value
    assert not shown.run_button.disabled


def test_an_error_nobody_foresaw_is_shown_whole(tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> StudyFolder:
        raise ZeroDivisionError("what was it")

    shown = panel(tmp_path, fail)
    press_run(shown)
    assert "ZeroDivisionError: what was it" in shown.progress.value


def test_a_study_folder_that_cannot_be_read_is_no_silent_end(tmp_path: Path) -> None:
    def write_rubbish(spec: StudySpec, folder: Path, **_: object) -> StudyFolder:
        study = StudyFolder.create(folder, spec)
        trial = study.trial("rubbish").path
        trial.mkdir()
        (trial / "spec.json").write_text("{")
        return study

    shown = panel(tmp_path, write_rubbish)
    with pytest.raises(SpecError):
        press_run(shown)
    assert "SpecError" in shown.progress.value
    assert not shown.run_button.disabled


def test_widgets_are_changed_by_the_main_thread_only(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_at_once)
    threads = set()
    for widget in (shown.progress, shown.results, shown.run_button):
        widget.observe(lambda _change: threads.add(threading.current_thread()))
    press_run(shown)
    assert threads == {threading.main_thread()}
