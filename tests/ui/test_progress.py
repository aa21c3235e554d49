"""What a terminal and a notebook show while a study runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.runner.study import RunningTrial, StudyProgress
from kit.study.result import Signature, TrialResult, Verdict
from kit.study.spec import Arrivals, ServerSpec, TrialSpec, Workload
from kit.ui.cell_view import CellView
from kit.ui.progress import (
    TextProgress,
    bar,
    ending_of,
    expected_left_s,
    progress_html,
    share_done,
    summary_line,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines as a person sees them: what follows a carriage return overwrites."""
        return [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in self.lines()]

    def lines(self) -> list[str]:
        return self.getvalue().split("\n")


def spec(repeat: int = 0, release: str = "23.10", requests: int | None = 200) -> TrialSpec:
    return TrialSpec(
        trial_id=f"{release}_r{repeat}",
        server=ServerSpec(release=release),
        scenario="a-scenario",
        model="simulated",
        repeat=repeat,
        workload=Workload(arrivals=Arrivals(concurrency=16), requests=requests, duration_s=60),
    )


def crashed(repeat: int = 0) -> tuple[TrialSpec, TrialResult]:
    return spec(repeat), TrialResult(
        trial_id=spec(repeat).trial_id,
        verdict=Verdict.CRASHED,
        reason="signal 11",
        completed=37,
        signature=Signature(signal=11, text="SIGSEGV in somewhere"),
    )


def survived(repeat: int = 0) -> tuple[TrialSpec, TrialResult]:
    result = TrialResult(
        trial_id=spec(repeat, "24.05").trial_id, verdict=Verdict.SURVIVED, reason="", completed=200
    )
    return spec(repeat, "24.05"), result


def progress(
    done: tuple[tuple[TrialSpec, TrialResult], ...] = (),
    running: tuple[RunningTrial, ...] = (),
    elapsed_s: float = 0.0,
    total: int = 4,
) -> StudyProgress:
    return StudyProgress(total=total, done=done, running=running, elapsed_s=elapsed_s)


def test_requests_of_running_trials_count_as_parts_of_a_trial() -> None:
    half = RunningTrial(spec=spec(2), phase="loading", ended=100)
    assert share_done(progress((crashed(),), (half,))) == 1.5 / 4


def test_a_trial_without_a_request_limit_counts_when_it_ends() -> None:
    endless = RunningTrial(spec=spec(2, requests=None), phase="loading", ended=5000)
    assert share_done(progress((crashed(),), (endless,))) == 1 / 4
    assert "5,000 requests" in summary_line(progress(running=(endless,)))


def test_a_study_of_nothing_is_done() -> None:
    assert share_done(progress(total=0)) == 1.0
    assert bar(1.0, 4) == "████"


def test_a_crash_and_a_survival_read_differently_at_a_glance() -> None:
    assert ending_of(crashed()[1]) == "✗ crashed after 37 requests, SIGSEGV in somewhere"
    assert ending_of(survived()[1]) == "✓ survived 200 requests"


def test_a_failure_of_our_own_is_not_shown_as_the_servers() -> None:
    result = TrialResult(
        trial_id="t", verdict=Verdict.CLIENT_FAULT, reason="no such folder", completed=1
    )
    assert ending_of(result).startswith("· says nothing")
    assert "after 1 request: no such folder" in ending_of(result)


def test_a_terminal_keeps_one_bar_below_the_lines_of_ended_trials() -> None:
    terminal = Terminal()
    show = TextProgress(terminal, columns=80)
    running = RunningTrial(spec=spec(1), phase="loading", ended=50)
    show(progress(running=(running,)))
    show(progress((crashed(),), (running,), 3.0))
    show(progress((crashed(), survived()), (running,), 4.0))
    *above, below = terminal.screen()
    assert [line[:4] for line in above] == ["1/4 ", "2/4 "]
    assert "✗ crashed after 37 requests" in above[0]
    assert below.startswith("█")
    assert len(below) < 80
    show.close()
    assert terminal.screen()[-1] == ""


def test_a_pipe_gets_a_line_for_each_trial_and_a_sign_of_life() -> None:
    pipe = io.StringIO()
    show = TextProgress(pipe, columns=200)
    running = RunningTrial(spec=spec(1), phase="starting")
    for second in range(40):
        show(progress((crashed(),) if second > 20 else (), (running,), float(second)))
    lines = pipe.getvalue().splitlines()
    assert "\r" not in pipe.getvalue()
    assert [line.strip()[:3] for line in lines] == ["░░░", "1/4", "███"]
    assert "23.10 a-scenario x16 #2: starting" in lines[0]


def test_trials_of_an_earlier_run_are_counted_and_not_listed_again() -> None:
    pipe = io.StringIO()
    show = TextProgress(pipe)
    show(progress((crashed(),)))
    show(progress((crashed(), survived())))
    assert pipe.getvalue().splitlines()[0] == "resumed: 1 of 4 trials were there already"
    assert pipe.getvalue().count("✗") == 0
    assert pipe.getvalue().splitlines()[1].startswith("2/4")


def test_html_escapes_what_came_from_outside() -> None:
    running = RunningTrial(spec=spec(), phase="<script>")
    assert "<script>" not in progress_html(progress(running=(running,)))
    assert "&lt;script&gt;" in progress_html(progress(running=(running,)))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a cell shows, in turn: new or update, and its HTML."""
    kept: list[tuple[str, str]] = []

    def keep(*objs: object, display_id: str, update: bool = False, **_: object) -> None:
        kept.append(("update" if update else "new", objs[0]._repr_html_()))  # type: ignore[attr-defined]

    monkeypatch.setattr("IPython.core.display_functions.display", keep)
    return kept


@pytest.mark.slow
def test_a_notebook_cell_shows_at_once_that_something_happens_and_then_one_changing_state(
    shown: list[tuple[str, str]], tmp_path: Path
) -> None:
    view = CellView(tmp_path / "not-yet")
    view(progress((crashed(),)))
    assert [kind for kind, _ in shown] == ["new", "update"]
    assert "preparing the servers" in shown[0][1]
    assert "crashed after 37 requests" in shown[1][1]


def test_a_notebook_cell_shows_the_live_view_and_keeps_how_each_trial_ended(
    shown: list[tuple[str, str]], tmp_path: Path
) -> None:
    study = write_study(tmp_path / "study", ["23.10", "24.05"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=37)
    view = CellView(study.path)
    view(progress((crashed(),)))
    view(progress((crashed(), survived())))  # too soon for another look
    view.close()
    live, kept = (html for _, html in shown[1:])
    assert "1 of 1 servers died." in live
    assert "<style>" in live
    assert "crashed after 37 requests" in kept
    assert "survived 200 requests" in kept
    assert "<style>" not in kept


def test_the_time_left_is_told_by_what_was_done_since_the_start() -> None:
    half = RunningTrial(spec=spec(2), phase="loading", ended=100)
    resumed = progress((crashed(), survived()), (half,), elapsed_s=30.0)
    # Half was there already; an eighth came in 30 s, and three eighths are to come.
    assert expected_left_s(resumed, share_before=2 / 4) == pytest.approx(90.0)
    assert expected_left_s(progress(elapsed_s=30.0), share_before=0.0) is None
    assert "0:30, about 1:30 left" in summary_line(resumed, 90.0)


def test_a_pipe_gets_a_line_as_often_as_it_asks_for() -> None:
    stream = io.StringIO()
    show = TextProgress(stream, every_s=1.0)
    for elapsed_s in (0.4, 1.2, 1.8, 2.4):
        running = RunningTrial(spec=spec(2), phase="loading", ended=100)
        show(progress(running=(running,), elapsed_s=elapsed_s))
    assert len(stream.getvalue().splitlines()) == 2


def test_what_there_is_to_know_of_the_hosts_is_said_once_and_escaped() -> None:
    pipe, remarks = io.StringIO(), ("host 1 is left out: <b>",)
    show = TextProgress(pipe)
    for elapsed_s in (1.0, 2.0):
        now = StudyProgress(total=1, done=(), running=(), elapsed_s=elapsed_s, remarks=remarks)
        show(now)
    assert pipe.getvalue().count("host 1 is left out") == 1
    assert "<p>host 1 is left out: &lt;b&gt;</p>" in progress_html(now)
