"""The live view on a terminal, from a study folder that is being run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_studies import write_study, write_trial

from kit.errors import StoreError
from kit.runner.study import StudyProgress
from kit.study.folder import StudyFolder
from kit.study.grid import with_traffic
from kit.study.limit import Goals, LimitSearch, LoadKind
from kit.study.spec import Engine, EngineKind, StudySpec, Workload
from kit.ui import dashboard
from kit.ui.choices import choose
from kit.ui.dashboard import Dashboard, live_view, text_progress
from kit.ui.live import LiveReader, read_again
from kit.ui.progress import TextProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """Three cells, six ended trials; two servers of 24.10 died."""
    study = write_study(tmp_path / "s", ["24.05", "24.10"], ["control", "cancel-race"])
    for repeat in range(2):
        write_trial(study, "24.05", repeat=repeat)
        write_trial(study, "24.10", repeat=repeat, crash_after=7 - repeat)
        write_trial(study, "24.10", scenario="control", repeat=repeat)
    return study


def limit_spec_by_rate() -> StudySpec:
    return replace(
        choose("24.05", workload=Workload(), name="limit", repeats=1),
        limit=LimitSearch(by=LoadKind.RATE, goals=Goals(failed=0.01), low=1, high=100),
    )


def progress_of(study: StudyFolder) -> StudyProgress:
    done = tuple((trial.spec, trial.result) for trial in study.trials() if trial.result)
    return StudyProgress(total=8, done=done, running=(), elapsed_s=3.0)


def text_of(view: object, *, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=100, height=height)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_cells_with_deaths_stand_first_with_the_requests_they_died_after(
    study: StudyFolder,
) -> None:
    text = text_of(live_view(LiveReader(study.path).read(), elapsed_s=75.0))
    assert "6 of " in text
    assert "1:15 gone" in text
    assert "2 of 6 servers died. Last: 24.10 cancel-race" in text
    rows = [" ".join(line.split()) for line in text.splitlines() if " of 2 " in f"{line} "]
    assert rows[0] == "24.10 cancel-race x4 2 of 2 6, 7"
    assert [row.rsplit(" x4 ", 1)[1] for row in rows[1:]] == ["0 of 2", "0 of 2"]


def test_a_trial_that_is_run_anew_takes_its_folder_away_for_a_moment(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = LiveReader(study.path)
    spec = next((study.path / "trials").glob("24.05*")) / "spec.json"
    kept, looks = spec.read_bytes(), []
    really_glob = Path.glob

    def glob(self: Path, pattern: str) -> list[Path]:
        spec.write_bytes(kept)
        found = list(really_glob(self, pattern))
        looks.append(pattern)
        if len(looks) == 1:
            spec.unlink()
        return found

    monkeypatch.setattr(Path, "glob", glob)
    assert len(reader.read().done) == 6
    assert len(looks) == 2


def test_a_folder_that_stays_away_is_a_named_error() -> None:
    tries = []

    def read() -> None:
        tries.append(1)
        raise StoreError("no spec.json", "a folder that the kit wrote", "check the path")

    with pytest.raises(StoreError, match=r"no spec\.json"):
        read_again(read, times=3, wait_s=0.01)
    assert len(tries) == 3


def test_what_a_study_varies_and_its_engines_are_cells_of_their_own(study: StudyFolder) -> None:
    live = LiveReader(study.path).read()
    spec, result = live.done[0]
    vllm = Engine(kind=EngineKind.VLLM_CPU, version="0.32.0")
    others = [
        replace(spec, workload=with_traffic(spec.workload, {"rate": 5.0})),
        replace(spec, workload=with_traffic(spec.workload, {"rate": 20.0})),
        replace(spec, engine=vllm),
    ]
    swept = replace(live, done=tuple((one, result) for one in others), varied=("rate",))
    text = text_of(live_view(swept, elapsed_s=1.0))
    assert "rate 5.0" in text
    assert "rate 20.0" in text
    assert "vllm-cpu:0.32.0" in text


def test_a_search_for_the_highest_rate_tells_its_rates_apart(tmp_path: Path) -> None:
    spec = limit_spec_by_rate()
    StudyFolder.create(tmp_path / "limit", spec)
    live = LiveReader(tmp_path / "limit").read()
    assert (live.varied, live.total) == (("rate",), 12)


def test_a_view_that_is_too_high_says_how_many_cells_are_left_out(study: StudyFolder) -> None:
    live = LiveReader(study.path).read()
    assert "… and 2 more" in text_of(live_view(live, elapsed_s=1.0, most_cells=1))


@contextmanager
def shown(study: StudyFolder) -> Iterator[tuple[Dashboard, io.StringIO]]:
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=100, height=30, color_system=None)
    view = Dashboard(out, study.path, console=console)
    try:
        yield view, out
    finally:
        view.close()


@pytest.mark.slow
def test_ended_trials_stay_above_and_the_view_goes_at_the_end(study: StudyFolder) -> None:
    progress = progress_of(study)
    with shown(study) as (view, out):
        view(StudyProgress(total=8, done=progress.done[:2], running=(), elapsed_s=1.0))
        view(progress)
        assert "servers died" in out.getvalue()
        before = len(out.getvalue())
    lines = [line for line in out.getvalue().splitlines() if "/8  " in line]
    assert [line.strip("\r\x1b[2K1A").split()[0] for line in lines] == ["3/8", "4/8", "5/8", "6/8"]
    assert "\x1b[1A" in out.getvalue()[before:], "the view was taken away"


@pytest.mark.slow
def test_looks_are_rare_and_take_a_small_share_of_a_core(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [100.0], [0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now[0])
    with shown(study) as (view, _):
        read = view._reader.read

        def slow() -> object:
            looks[0] += 1
            now[0] += 0.1
            return read()

        monkeypatch.setattr(view._reader, "read", slow)
        for _tick in range(100):
            view(progress_of(study))
            now[0] += 0.05
    assert looks[0] == 3, "0.1 s at 4 %: at 0, 2.5 and 5 s"


@pytest.mark.slow
def test_a_study_folder_that_is_gone_leaves_one_line(tmp_path: Path) -> None:
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=100, height=30, color_system=None)
    view = Dashboard(out, tmp_path / "none", console=console)
    view(StudyProgress(total=8, done=(), running=(), elapsed_s=3.0))
    view.close()
    assert "0 of 8 trials  0:03" in out.getvalue()


@pytest.mark.parametrize(
    ("stream", "term", "columns", "kind"),
    [
        (Terminal(), "xterm", "100", Dashboard),
        (Terminal(), "dumb", "100", TextProgress),
        (Terminal(), "xterm", "50", TextProgress),
        (io.StringIO(), "xterm", "100", TextProgress),
    ],
    ids=["a terminal", "a dumb one", "a narrow one", "a pipe"],
)
def test_only_a_terminal_that_can_be_redrawn_gets_the_view(
    stream: io.StringIO,
    term: str,
    columns: str,
    kind: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("TERM", term), ("COLUMNS", columns), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    assert type(text_progress(stream, tmp_path)) is kind
