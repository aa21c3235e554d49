"""Traffic for a server that is not on this machine: asked about once, and capped."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kit
from kit.errors import NotConfirmedError, SpecError
from kit.study.spec import StudySpec, Workload
from kit.ui import consent
from kit.ui.choices import choose
from kit.ui.cli import main, parser
from kit.ui.consent import Cap, confirm, stopped_after


@pytest.fixture(autouse=True)
def _nothing_agreed() -> Iterator[None]:
    consent._AGREED.clear()
    yield
    consent._AGREED.clear()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def away(workload: Workload | None = None, **words: Any) -> StudySpec:
    server = kit.attach("http://192.0.2.1:8000", model="m")
    return choose(server, workload=workload or Workload(), name="p", repeats=2, **words)


def test_a_server_of_this_machine_is_not_asked_about() -> None:
    here = choose(kit.attach("http://127.0.0.1:9", model="m"), workload=Workload(), name="p")
    assert confirm(here, Cap()) is None
    assert confirm(choose("24.05", "cancel-race", name="p"), Cap()) is None
    assert confirm(choose(kit.container("25.10"), "control", name="p"), Cap()) is None


def test_a_budget_that_is_given_holds_for_servers_of_the_kits_own_too() -> None:
    assert confirm(choose("24.05", "cancel-race", name="p"), Cap(minutes=5, requests=1)) == 5


def test_it_says_what_is_sent_how_much_how_long_and_that_it_may_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    load = Workload(protocol="http-generate-stream", disconnect=0.5, output_tokens="16:64")
    assert confirm(away(load, concurrency=[1, 64], requests=30), Cap(minutes=3)) == 3
    out, err = capsys.readouterr()
    assert out == "", "where JSON goes"
    for words in (
        "192.0.2.1:8000, which is not on this machine",
        "4 trials, 120 requests in all, by http-generate-stream",
        "up to 64 at a time",
        "answers of uniform(16,64)",
        "on purpose in 50 % of the requests: disconnect",
        "for 3 minutes at the most",
        "crash it, for everybody who uses it",
    ):
        assert words in err


def test_the_same_traffic_is_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\nno\n"))
    confirm(away(), Cap())
    confirm(away(), Cap())
    with pytest.raises(NotConfirmedError):
        confirm(away(requests=7), Cap())


@pytest.mark.parametrize("typed", ["", "\n", "no\n", "yess\n"])
def test_anything_but_yes_is_no(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with pytest.raises(NotConfirmedError, match="--yes"):
        confirm(away(), Cap())


def test_where_nobody_can_be_asked_nothing_is_sent_without_yes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # a script's, not a person's
    with pytest.raises(NotConfirmedError):
        confirm(away(), Cap())
    assert confirm(away(), Cap(yes=True)) == consent.MOST_MINUTES


def test_a_notebook_asks_in_its_cell_or_says_how_to_answer_beforehand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert confirm(away(), Cap(), in_notebook=True) is not None

    def no_front_end(_: str) -> str:
        raise RuntimeError("raw_input was called, but this frontend does not support it")

    monkeypatch.setattr("builtins.input", no_front_end)
    with pytest.raises(NotConfirmedError, match="yes=True"):
        confirm(away(requests=9), Cap(), in_notebook=True)


def test_more_than_the_cap_is_refused_even_with_yes() -> None:
    with pytest.raises(SpecError, match=r"12,000 requests.*at most 10,000"):
        confirm(away(requests=6000), Cap(yes=True))
    assert confirm(away(requests=6000), Cap(yes=True, requests=12_000)) is not None
    for wrong in ({"requests": 0}, {"minutes": 0.0}):
        with pytest.raises(SpecError, match=r"most_\w+ = 0"):
            Cap(**wrong)  # type: ignore[arg-type]


def test_a_load_without_a_number_of_requests_is_capped_by_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    confirm(away(Workload(duration_s=60)), Cap())
    assert "as many requests as it answers" in capsys.readouterr().err
    timed = away(Workload(duration_s=60, rate=5))
    assert consent.requests_of(timed, list(consent.first_of_each_cell(timed))) == 600


def test_a_study_is_stopped_after_its_minutes() -> None:
    with stopped_after(0.001) as over:
        assert over is not None
        assert over.wait(60)
    with stopped_after(None) as never:
        assert never is None
    before = threading.active_count()
    with stopped_after(60):
        pass
    assert threading.active_count() <= before + 1


def test_the_commands_and_kit_run_send_nothing_without_a_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kit.ui.cli.signal.signal", lambda *_: None)
    monkeypatch.setattr("kit.checks.probe.TIMEOUT_S", 0.01)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    url = "http://192.0.2.1:8000"
    assert main(["load", url, "--model", "m", "--out", str(tmp_path / "a")]) == 1
    assert "--yes" in capsys.readouterr().err
    with pytest.raises(NotConfirmedError):
        kit.run(kit.attach(url, model="m"), folder=tmp_path / "b", progress=False)
    assert list(tmp_path.iterdir()) == []
    for command in (["run", "--release", "24.05"], ["load", url, "--model", "m"]):
        args = parser().parse_args([*command, "--yes", "--most-requests", "5"])
        assert (args.yes, args.most_requests, args.most_minutes) == (True, 5, None)
