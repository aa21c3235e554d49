"""The panel's logic: what it yields, what it refuses, what its buttons do. See also
test_panel_browser.py, where a person's keys and clicks reach it through JupyterLab.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_studies import finish_study, write_trial

from kit.errors import DownloadError, SpecError
from kit.study.folder import StudyFolder
from kit.study.remarks import Remarks
from kit.study.result import Verdict
from kit.study.spec import StudySpec, Workload
from kit.ui.choices import choose
from kit.ui.cli import parser
from kit.ui.commands.study import spec_of
from kit.ui.live import LiveReader, is_running, live_html
from kit.ui.panel import Panel
from kit.ui.panel_choice import Choice, check
from kit.ui.panel_saved import load, save, saved

URL = {"url": "http://10.0.0.5:8000", "model": "m", "agreed": True}
TWO = Choice(releases=("23.10", "24.05"), scenarios=("cancel-race",))


def panel(tmp_path: Path, run: Callable[..., StudyFolder] | None = None) -> Panel:
    return Panel(releases=["23.10", "24.05"], scenarios=["cancel-race"], studies=tmp_path, run=run)


def changed(**fields: Any) -> Choice:
    return Choice.of({**TWO.as_data(), **fields})


def run_at_once(spec: StudySpec, folder: Path, *, stop: threading.Event) -> StudyFolder:
    """Stands for run_study: two trials of invented numbers."""
    study = StudyFolder.create(folder, spec)
    for release, crash_after in (("23.10", 7), ("24.05", None)):
        write_trial(study, release, scenario="cancel-race", crash_after=crash_after)
    return finish_study(study)


def click(shown: Panel, choice: Choice | None = None) -> None:
    """What the browser sends when Run is clicked, and the study's end."""

    async def click_and_wait() -> None:
        given = {**(choice or shown.choice).as_data(), "version": 1}
        shown.widget._handle_custom_msg({"kind": "run", "choice": given}, [])
        await shown.wait()

    asyncio.run(click_and_wait())


def test_what_is_chosen_is_the_spec(tmp_path: Path) -> None:
    shown = panel(tmp_path)
    shown.choice = changed(
        traffic={"concurrency": "1, 16", "requests": "50", "output_tokens": "8,32"}, repeats="2"
    )
    spec = shown.spec
    assert spec.releases == ("23.10", "24.05")
    assert spec.concurrencies == (1, 16)
    assert len(spec.grid["output_tokens"]) == 2
    assert spec.repeats == 2


def test_ones_own_traffic_takes_the_place_of_scenarios() -> None:
    checked = check(changed(own=True, traffic={"rate": "5, 20", "protocol": "grpc-stream"}))
    assert checked.spec is not None
    assert checked.spec.workload == Workload()
    assert checked.trials == 2 * 2 * 3


@pytest.mark.parametrize(
    ("fields", "beside", "said"),
    [
        ({"traffic": {"concurrency": "1, many"}}, "traffic.concurrency", "many"),
        ({"traffic": {"concurrency": "0"}}, "traffic.concurrency", "1 or more"),
        ({"traffic": {"concurrency": "999,999999"}}, "traffic.concurrency", "4,096 at most"),
        ({"traffic": {"requests": "10000000"}}, "traffic.requests", "1,000,000 at most"),
        ({"traffic": {"rate": "-1"}}, "traffic.rate", "-1"),
        ({"repeats": "5000"}, "repeats", "1 to 1,000"),
        ({"repeats": "2.5"}, "repeats", "whole"),
        ({"minutes": "soon"}, "minutes", "soon"),
        ({"releases": []}, "releases", "at least one"),
        ({"scenarios": []}, "scenarios", "at least one"),
        ({"releases": ["23.07"]}, "", "23.07 has no HTTP generate endpoint"),
        ({"repeats": "1000", "traffic": {"requests": "1,2,3,4,5,6,7,8,9,10,11"}}, "", "22,000"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field_and_nothing_runs(
    tmp_path: Path, fields: dict[str, Any], beside: str, said: str
) -> None:
    shown = panel(tmp_path, run_at_once)
    shown.choice = changed(**fields)
    assert said in shown.widget.view["problems"][beside]
    with pytest.raises(SpecError):
        _ = shown.spec
    click(shown)
    assert shown.study is None
    assert not list(tmp_path.glob("panel-*"))
    shown.choice = TWO
    assert shown.widget.view["problems"] == {}


def test_the_plan_is_the_product_with_time_servers_and_memory() -> None:
    checked = check(changed(traffic={"concurrency": "1,4,16"}, repeats="2"))
    assert checked.trials == 2 * 1 * 3 * 2
    product, minutes, started, memory = checked.plan
    assert product == "12 trials: 2 releases × 1 scenario × 3 values of concurrency × 2 repeats"
    assert checked.minutes is not None
    assert 0.05 < checked.minutes < 10
    assert "minute" in minutes
    assert started.startswith("starts 12 servers on 127.0.0.1")
    assert started.endswith("23.10, 24.05")
    assert "GiB" in memory


def test_trials_on_a_cluster_are_run_there_and_its_remarks_shown(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(spec: StudySpec, folder: Path, *, stop: threading.Event, on: str) -> StudyFolder:
        study = run_at_once(spec, folder, stop=stop)
        Remarks(folder).keep(("the hosts differ in \x1b[2J<b>cores",))
        asked.append(on)
        return study

    shown = panel(tmp_path, run)
    shown.choice = changed(on=" tcp://scheduler:8786 ")
    plan = shown.widget.view["plan"]
    assert "runs on the hosts of tcp://scheduler:8786" in plan[1]
    assert "on='tcp://scheduler:8786'" in shown.widget.view["python"]
    assert "--on tcp://scheduler:8786" in shown.widget.view["command"]
    click(shown)
    assert asked == ["tcp://scheduler:8786"]
    assert "while it ran: the hosts differ in" in shown.widget.live
    assert "<b>" not in shown.widget.live
    assert "\x1b" not in shown.widget.live


@pytest.mark.parametrize(
    ("fields", "beside", "said"),
    [
        ({"on": "scheduler"}, "on", "tcp://HOST:PORT"),
        ({"on": "http://scheduler:8786"}, "on", "tcp://HOST:PORT"),
        ({"traffic": {"load_hosts": "2"}}, "", "without the hosts"),
        ({"on": "tcp://s:1", "traffic": {"load_hosts": "2"}}, "", "23.10"),
        ({"on": "tcp://s:1", "traffic": {"load_hosts": "999"}}, "traffic.load_hosts", "64 at most"),
        ({"on": "tcp://s:1", "releases": [], **URL}, "", "give load_hosts="),
        (
            {"on": "tcp://s:1", "releases": ["24.05"], "question": "limit", "goals": {"kv": "0.5"}},
            "",
            "one host",
        ),
    ],
)
def test_what_cannot_be_run_on_a_cluster_is_said_before(
    fields: dict[str, Any], beside: str, said: str
) -> None:
    assert said in check(changed(**fields)).problems[beside]


def test_load_from_hosts_of_a_cluster_goes_to_the_url() -> None:
    fields = {"on": "tcp://s:1", "releases": [], "traffic": {"load_hosts": "2, 4"}, **URL}
    checked = check(changed(**fields))
    assert checked.problems == {}
    assert "from hosts of tcp://s:1" in checked.plan[1]
    assert checked.budget_min is not None
    assert "load_hosts=[2, 4], " in checked.python


def test_a_budget_that_is_too_small_says_how_far_it_goes() -> None:
    checked = check(changed(repeats="500", minutes="2"))
    assert checked.budget_min == 2
    assert "the budget of 2 minutes ends it at about" in checked.plan[1]


def test_what_is_known_of_the_choice_is_said_before_it_runs(tmp_path: Path) -> None:
    view = panel(tmp_path).widget.view
    assert view["known"] == (
        "known to be hit under cancel-race: 23.10 (measured here); "
        "measured here without a death: 24.05"
    )
    assert view["known_more"][0].startswith("is-cancelled-after-final: ")
    assert not [line for line in view["plan"] if "known" in line]
    own = check(changed(scenarios=(), own=True, traffic={"disconnect": "0.5"}))
    assert not own.problems, own.problems
    assert "23.10" in own.known
    assert not check(changed(releases=())).known


def test_the_plan_of_many_trials_costs_no_more_than_of_few() -> None:
    """By work, not by the clock: no trial is planned, whatever their number."""
    check(TWO)
    calls = []

    def count_calls(frame: Any, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else "")

    used = {}
    for repeats in ("1", "1000"):
        calls.clear()
        sys.setprofile(count_calls)
        try:
            check(changed(repeats=repeats))
        finally:
            sys.setprofile(None)
        used[repeats] = len(calls)
    assert used["1000"] < 1.1 * used["1"] + 50


def test_the_same_choice_is_shown_as_a_call_and_as_a_command() -> None:
    choice = changed(traffic={"concurrency": "1, 16"}, sequential=True)
    checked = check(choice)
    assert checked.python == (
        "kit.run(['23.10', '24.05'], scenario='cancel-race', concurrency=[1, 16], repeats=3, "
        "sequential=True)"
    )
    same = choose(
        ["23.10", "24.05"],
        "cancel-race",
        name="panel",
        concurrency=[1, 16],
        repeats=3,
        sequential=True,
    )
    assert checked.spec == same
    assert checked.command == (
        "python -m kit run --release 23.10,24.05 --scenario cancel-race --concurrency 1,16 "
        "--repeats 3 --sequential"
    )


@pytest.mark.slow
def test_what_stands_on_the_screen_at_the_click_is_what_runs(tmp_path: Path) -> None:
    """The kernel is busy: it has not taken the last fields yet when the click arrives."""
    shown = panel(tmp_path, run_at_once)
    shown.choice = changed(repeats="1000")
    click(shown, changed(repeats="1", traffic={"concurrency": "4"}))
    assert shown.study is not None
    assert (shown.study.spec.repeats, shown.study.spec.concurrencies) == (1, (4,))


def test_a_change_after_the_click_changes_neither_what_runs_nor_what_is_shown(
    tmp_path: Path,
) -> None:
    shown = panel(tmp_path, run_at_once)
    plans = []

    async def click_then_type() -> None:
        shown.widget._handle_custom_msg({"kind": "run", "choice": TWO.as_data()}, [])
        shown.widget.choice = {**changed(repeats="9").as_data(), "version": 9}
        plans.append(shown.widget.view["plan"])
        await shown.wait()

    asyncio.run(click_then_type())
    assert shown.study is not None
    assert shown.study.spec.repeats == 3
    assert plans == [list(check(TWO).plan)]


@pytest.mark.slow
def test_run_shows_the_result_table_and_keeps_the_study(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_at_once)
    click(shown)
    assert shown.study is not None
    assert shown.study.path.parent == tmp_path
    assert "2 of 6 trials" in shown.widget.live
    assert "1 of 2 servers died" in shown.widget.live
    assert "<td>1 of 1</td>" in shown.widget.results
    assert ".report()" in shown.widget.results
    assert shown.widget.view["state"] == "idle"


def run_until_stopped(spec: StudySpec, folder: Path, *, stop: threading.Event) -> StudyFolder:
    study = StudyFolder.create(folder, spec)
    with study.locked():
        assert stop.wait(30)
    return study


@pytest.mark.slow
def test_stop_ends_what_runs_and_a_second_run_does_not_start(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_until_stopped)

    async def run_and_stop() -> None:
        shown.run()
        assert shown.widget.view["state"] == "running"
        shown.run()
        shown.stop()
        assert shown.widget.view["state"] == "stopping"
        await shown.wait()

    asyncio.run(run_and_stop())
    assert "Stopped" in shown.widget.results
    assert len(list(tmp_path.glob("panel-*"))) == 1
    click(panel(tmp_path, lambda spec, folder, stop: StudyFolder.create(folder, spec)))
    assert len(list(tmp_path.glob("panel-*"))) == 1  # it went on in the same folder


@pytest.mark.slow
def test_a_budget_ends_the_study_and_says_so(tmp_path: Path) -> None:
    shown = panel(tmp_path, run_until_stopped)
    click(shown, changed(minutes="0.005"))
    assert "The budget is used up" in shown.widget.results


def test_a_panel_made_anew_finds_what_this_kernel_runs_and_can_stop_it(tmp_path: Path) -> None:
    first = panel(tmp_path, run_until_stopped)

    async def reload_and_stop() -> Panel:
        first.run()
        while not any(is_running(lock.parent) for lock in tmp_path.glob("*/lock")):
            await asyncio.sleep(0.02)
        second = panel(tmp_path)
        assert second.widget.view["state"] == "running"
        second.stop()
        await second.wait()
        await first.wait()
        return second

    second = asyncio.run(reload_and_stop())
    assert second.study is not None
    assert second.widget.view["state"] == "idle"


OTHER_PROCESS = """
import sys, time
from pathlib import Path
from kit.study.folder import StudyFolder
study = StudyFolder(Path(sys.argv[1]))
with study.locked():
    print("locked", flush=True)
    while not (study.path / "stop").exists():
        time.sleep(0.02)
"""


@pytest.mark.slow
def test_a_study_of_another_process_is_shown_and_can_be_stopped(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "panel-1", panel(tmp_path).spec)
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(study.path)], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"

    async def stop_it() -> None:
        shown = panel(tmp_path)
        assert shown.widget.view["state"] == "running"
        shown.stop()
        await shown.wait()
        assert shown.widget.view["state"] == "idle"

    try:
        asyncio.run(stop_it())
        assert other.wait(30) == 0
    finally:
        other.kill()


def test_a_configuration_is_a_readable_file_and_comes_back_as_it_was(tmp_path: Path) -> None:
    shown = panel(tmp_path)
    given = changed(traffic={"rate": "5"}, own=True)
    message = {"kind": "save", "name": "my rate", "choice": given.as_data()}
    shown.widget._handle_custom_msg(message, [])
    path = tmp_path / "configurations" / "my rate.yaml"
    assert yaml.safe_load(path.read_text())["traffic"] == {"rate": "5"}
    assert shown.widget.view["saved"] == ["my rate"]
    shown.widget._handle_custom_msg({"kind": "load", "name": "my rate"}, [])
    assert shown.choice == given
    assert load(path) == given


@pytest.mark.parametrize("text", ["[1, 2]", "colour: red", "releases: 5", "a: [", "repeats: {}"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SpecError):
        load(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_configuration_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="name"):
        save(TWO, name, tmp_path)


@pytest.mark.parametrize("name", ["\u202eevil", "a\x1b[31m", "-x", "two\nlines"])
def test_a_file_that_the_panel_did_not_name_is_not_offered(tmp_path: Path, name: str) -> None:
    save(TWO, "mine", tmp_path)
    (tmp_path / f"{name}.yaml").write_text((tmp_path / "mine.yaml").read_text())
    assert saved(tmp_path) == ["mine"]


def test_the_kits_own_errors_are_shown_with_their_hint(tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> StudyFolder:
        raise DownloadError("no network", "a wheel", "connect <this machine>")

    shown = panel(tmp_path, fail)
    click(shown)
    assert "connect &lt;this machine&gt;" in shown.widget.live


def test_an_error_that_the_kit_does_not_expect_is_shown_whole(tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> StudyFolder:
        raise ZeroDivisionError("what was it")

    shown = panel(tmp_path, fail)
    click(shown)
    assert "ZeroDivisionError: what was it" in shown.widget.live


@pytest.mark.slow
def test_a_study_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    def write_rubbish(spec: StudySpec, folder: Path, **_: object) -> StudyFolder:
        study = StudyFolder.create(folder, spec)
        trial = study.trial("rubbish").path
        trial.mkdir()
        (trial / "spec.json").write_text("{")
        return study

    shown = panel(tmp_path, write_rubbish)
    click(shown)
    assert "SpecError" in shown.widget.live
    assert shown.widget.view["state"] == "idle"


def test_the_live_view_says_the_pace_of_what_runs_and_escapes_its_log(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "s", panel(tmp_path).spec)
    trial = write_trial(study, "24.05", finished=False, requests=40)
    trial.progress.write_text(
        '{"phase": "loading", "sent": 41, "ended": 40, "in_flight": 1}', encoding="utf-8"
    )
    trial.log.write_text("first\n<script>alert(1)</script>\n")
    with study.locked():
        live = LiveReader(study.path).read()
    [running] = live.running
    assert (live.total, live.is_running, running.ended, running.in_flight) == (6, True, 40, 1)
    # Usage rises from sample to sample, so the newest is the highest.
    assert running.kv_usage == max(trial.samples()["value"].to_pylist())
    assert running.waiting is None
    shown = live_html(live)
    assert "<script>" not in shown
    assert "not exported" in shown
    assert "40 of 60" in shown or "40 of 40" in shown
    assert LiveReader(study.path).read().running == ()  # nobody runs it any more


def test_a_trial_that_was_stopped_and_run_again_counts_as_it_ended_then(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "s", panel(tmp_path).spec)
    stopped = write_trial(study, "23.10", verdict=Verdict.INTERRUPTED)
    reader = LiveReader(study.path)
    assert len(reader.read().done) == 1  # nobody runs it: shown as it is
    with study.locked():
        assert reader.read().done == ()  # it waits to be run again
        shutil.rmtree(stopped.path)
        write_trial(study, "23.10", crash_after=7)
        [(_, result)] = reader.read().done
    assert result.verdict is Verdict.CRASHED


@pytest.mark.slow
def test_a_widget_is_on_the_screen_without_scipy_matplotlib_or_pandas() -> None:
    code = (
        "import sys\nfrom kit.ui.panel import Panel\nPanel()\n"
        "print(sorted({'scipy', 'matplotlib', 'pandas', 'lifelines'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_change_of_a_field_is_answered_soon(tmp_path: Path) -> None:
    shown = panel(tmp_path)
    shown.choice = changed(repeats="999")
    begin = time.process_time()  # of this process alone: others may be busy
    shown.choice = changed(repeats="1000", traffic={"concurrency": "1,2,3,4,5"})
    assert time.process_time() - begin < 0.1


def test_a_limit_and_a_soak_are_chosen_like_a_study() -> None:
    one = changed(releases=["24.05"], scenarios=[], own=True)
    limit = check(Choice.of({**one.as_data(), "question": "limit", "goals": {"p95_e2e_ms": "200"}}))
    assert limit.spec is not None
    assert limit.spec.limit is not None
    assert limit.spec.limit.goals.p95_e2e_ms == 200
    assert limit.plan[0].startswith("up to 12 trials of 400 requests")
    assert "how much it can take with p95 latency ≤ 200 ms" in limit.plan[0]
    assert limit.python.startswith("kit.find_limit('24.05', workload=kit.Workload()")
    assert "kit limit 24.05" in limit.command
    assert "--p95-e2e-ms 200" in limit.command
    soak = check(Choice.of({**one.as_data(), "question": "soak", "one_in": "100"}))
    assert soak.spec is not None
    assert soak.spec.soak is not None
    assert soak.plan[0].startswith("1 server, 299 requests: ")
    assert "kit soak 24.05 --one-in 100" in soak.command


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"question": "limit"}, ""),  # two releases
        ({"question": "limit", "goals": {"kv": "much"}}, "goals.kv"),
        ({"question": "soak", "one_in": "2.5"}, "one_in"),
        ({"question": "why"}, "question"),
        ({"url": "llm.example:8000", "agreed": True}, "url"),
        ({"url": "http://llm.example:8000", "agreed": True}, "model"),
        ({"url": "http://llm.example:8000", "model": "m"}, "agreed"),
        ({"images": "24.99"}, "images"),
    ],
)
def test_what_does_not_go_with_a_question_or_a_server_is_said_beside_its_field(
    fields: dict[str, Any], problem: str
) -> None:
    assert list(check(changed(**fields)).problems) == [problem]


def test_containers_and_a_server_that_runs_already_are_chosen_like_releases() -> None:
    mixed = check(changed(releases=["24.05"], images="25.10, triton:mine"))
    assert mixed.spec is not None
    assert [server.kind.value for server in mixed.spec.servers] == [
        *("embedded", "container", "container")
    ]
    assert "kit.container('25.10'), kit.container(image='triton:mine')" in mixed.python
    assert "--release 24.05 --server 25.10,triton:mine --scenario" in mixed.command
    away = check(
        changed(
            releases=[],
            scenarios=[],
            url="grpc://llm.example:8001",
            model="llama",
            agreed=True,
            traffic={"rate": "5", "duration_s": "60", "protocol": "grpc-stream"},
        )
    )
    assert away.problems == {}
    assert away.budget_min == 10, "nobody raises the cap by leaving it empty"
    assert "which is neither started nor stopped" in away.plan[1]
    assert "kit.attach('grpc://llm.example:8001', model='llama')" in away.python
    assert away.command.endswith("--yes")


def test_the_command_of_a_choice_is_read_as_the_same_study() -> None:
    for choice in (
        TWO,
        changed(releases=["24.05"], images="25.10"),
        changed(releases=["24.05"], question="limit", scenarios=[], own=True),
    ):
        checked = check(choice)
        assert checked.spec is not None, checked.problems
        args = parser().parse_args(shlex.split(checked.command)[3:])
        assert args.function
        if choice.question == "crash":
            assert spec_of(args).servers == checked.spec.servers
