"""The command line as a shell sees it: real processes, their output and their exit codes."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chances import recorded_chance, until
from synthetic_studies import first_light

from kit.study.encoding import to_json
from kit.study.grid import FIELDS
from kit.study.hybrids import load_hybrids
from kit.study.spec import Engine, StudySpec, Workload, embedded
from kit.ui.cli import FAMILIES, main, parser
from kit.ui.commands.study import spec_of
from kit.ui.options import option_of

ROOT = Path(__file__).resolve().parents[2]
RACE = ["--scenario", "cancel-race", "--concurrency", "16"]


def kit(*words: object, cwd: Path = ROOT, text: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kit", *map(str, words)],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def own_signals() -> Iterator[None]:
    """`main` in this process sets signal handlers; they go when the test ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def documents(*words: object, **how: object) -> object:
    done = kit(*words, "--json", **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def processes_about(path: Path) -> list[psutil.Process]:
    everyone = psutil.process_iter(["cmdline"])
    return [p for p in everyone if any(str(path) in word for word in p.info["cmdline"] or ())]


@pytest.mark.slow
def test_help_names_every_command_and_the_exit_codes() -> None:
    text = kit("--help").stdout
    for word in (
        "run",
        "investigate",
        "map",
        "report",
        "compare",
        "releases",
        "scenarios",
        "diagnose",
        "clean",
    ):
        assert f"\n    {word}" in text
    assert "exit codes:\n  0    done\n  1 " in text


@pytest.mark.slow
def test_a_wrong_command_is_wrong_usage() -> None:
    assert kit("explode").returncode == 2


def commands_of(
    parser: argparse.ArgumentParser, name: str = ""
) -> dict[str, argparse.ArgumentParser]:
    """Every command by its words, the parser itself too."""
    found = {name: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, own in action.choices.items():
                found |= commands_of(own, f"{name} {word}".strip())
    return found


COMMANDS = commands_of(parser())


def test_every_command_says_what_it_does_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in COMMANDS.items():
        text = command.format_help()
        assert command.description, name
        assert [line for line in text.splitlines() if len(line) > 80] == [], name


@pytest.mark.slow
def test_every_example_of_the_help_is_read_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    read = 0
    for command in COMMANDS.values():
        _, _, examples = command.format_help().partition("\nexamples:\n")
        for line in examples.replace(" \\\n", " ").splitlines():
            words = shlex.split(line.partition(" < ")[0].removeprefix(f"  {COMMANDS[''].prog} "))
            assert parser().parse_args(words).function is command.get_default("function"), line
            read += 1
    assert read >= len(FAMILIES)


@pytest.mark.parametrize(
    "words",
    [
        ["--release", "24.05,24.10", "--concurrency", "1,16"],
        ["--release", "24.05", "--release", "24.10", "--concurrency", "1", "--concurrency", "16"],
    ],
    ids=["with commas", "repeated"],
)
def test_a_list_is_given_with_commas_or_by_repeating_the_option(words: list[str]) -> None:
    args = parser().parse_args(["run", "--scenario", "control", *words])
    spec = spec_of(args)
    assert (spec.releases, spec.concurrencies) == (("24.05", "24.10"), (1, 16))


def test_each_field_of_the_traffic_is_an_option_with_its_help_and_range() -> None:
    for command in ("run", "map", "bisect", "load", "limit", "soak"):
        text = " ".join(COMMANDS[command].format_help().split()).replace("- ", "-")
        for field in FIELDS.values():
            assert option_of(field.name) in text
            assert field.expected.replace("- ", "-") in text, field.name


def test_traffic_without_a_scenario_is_a_sweep_of_ones_own_workload() -> None:
    words = ["--release", "24.05", "--protocol", "grpc-stream", "--rate", "5,20"]
    spec = spec_of(parser().parse_args(["run", *words, "--output-tokens", "16:48,uniform(2,4)"]))
    assert spec.workload == Workload()
    assert [len(values) for values in spec.grid.values()] == [2, 1, 2]


@pytest.mark.slow
def test_a_help_is_there_before_any_heavy_library_is_loaded() -> None:
    script = (
        "import sys, kit.ui.cli; kit.ui.cli.parser().format_help(); "
        "print({'pandas', 'matplotlib', 'scipy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_console_script_is_the_same_command_line() -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["kit"]
    assert script == "kit.__main__:main"


@pytest.mark.parametrize("words", [["bisect", "no-such"], ["map", "--scenario", "no-such"]])
def test_a_mistake_is_named_before_any_server_is_fetched(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(*_: object) -> list[str]:
        raise AssertionError("it looked for what runs here")

    monkeypatch.setattr("kit.servers.prepare.releases_here", fetched)
    assert main(words) == 1
    assert "no-such" in capsys.readouterr().err


@pytest.mark.slow
def test_releases_tells_which_run_here_and_which_need_a_container() -> None:
    rows = documents("releases")
    beside = {r["hybrid"]: r for r in rows if r["release"] is None}
    assert list(beside) == list(load_hybrids())
    assert {r["core"] for r in beside.values()} == {"24.10"}
    listed = {r["release"]: r for r in rows if "hybrid" not in r}
    assert listed["23.10"]["embedded"]
    assert listed["23.10"]["triton"] == "2.39.0"
    assert not listed["23.11"]["embedded"]
    assert "container" in listed["23.11"]["lacks_here"]
    lines = kit("releases").stdout.splitlines()
    assert next(line for line in lines if line.startswith("23.11")).count("needs a container") == 1


@pytest.mark.slow
def test_scenarios_lists_faults_and_controls() -> None:
    kinds = {s["name"]: s["kind"] for s in documents("scenarios")}
    assert kinds["cancel-race"] == "fault"
    assert "control" in kinds.values()
    assert "cancel-race" in kit("scenarios").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--release", "23.1", *RACE], "23.10"),
        (["run", "--release", "23.11", *RACE], "container"),
        (["run", "--release", "23.10", "--scenario", "cancel-rase"], "cancel-race"),
        (["run", "--release", "23.10"], "--scenario"),
        (["run", *RACE], "--release"),
        (["run", "--release", "23.10", "--scenario", "control", "--concurrency", "x"], "'x'"),
        (["run", "--release", "23.10", *RACE, "--requests", "0"], "requests"),
        (["run", "--release", "23.10", *RACE, "--repeats", "0"], "repeats"),
        (["run", "--release", "23.10", *RACE, "--engine", "gpt"], "simulated"),
        (["run", "--release", "23.10", *RACE, "--alpha", "0.1"], "--sequential"),
        (["run", "--release", "23.10", *RACE, "--sequential", "--beta", "0.7"], "0.7"),
        (["run", "--spec", "no-such-file.json"], "no-such-file.json"),
        (["report", "no-such-study"], "no-such-study"),
        (["diagnose", "no-such-log"], "no-such-log"),
        (["diagnose", "-", "--release", "23.1O"], "23.10"),
    ],
)
def test_a_mistake_is_one_clean_message_with_a_hint(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_signals: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "\nerror: " in f"\n{err}"  # below a line that it is busy, where the machine is slow
    assert "\n  hint: " in err
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.server
def test_the_whole_experiment_is_one_line_and_the_same_line_again_only_reads(
    tmp_path: Path,
) -> None:
    def run(number: int) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        line = ["run", "--release", "23.10,24.05", *RACE, "--out", str(tmp_path / f"study{number}")]
        line += ["--requests", "200", "--repeats", "1", "--seed", str(number)]
        line += ["--reports", str(tmp_path / "reports")]
        return line, kit(*line)

    # 10 of 10 recorded trials died, so 0.74 at the least: 6 all miss it in 1 of 3,300 runs.
    line, done = until(
        run,
        lambda ran: "1 of 1" in ran[1].stdout,
        chance=recorded_chance("23.10", "cancel-race"),
        known=lambda ran: ran[1].returncode == 0,
        say=lambda ran: ran[1].stdout + ran[1].stderr,
    )
    out = Path(line[line.index("--out") + 1])
    lines = done.stdout.splitlines()
    old, new = (line for line in lines if re.match(r"2\d\.\d\d  ", line))
    assert old.startswith("23.10")
    assert "1 of 1" in old
    assert new.startswith("24.05")
    assert "0 of 1" in new
    report = f"report: {tmp_path / 'reports' / out.name}.html"  # a path is not wrapped
    assert [n for n in lines if len(n) > 80 and " " in n.strip() and n != report] == []
    assert "- SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled: Never ask" in done.stdout
    assert lines[-1] == report
    # Lines that only say how far it is come as often as the machine is slow.
    assert len(re.findall(r"^ *\d/2 .* cancel-race ", done.stderr, re.MULTILINE)) == 2
    assert processes_about(out) == []

    again = kit(*line, "--json", "--fail-on-crash")
    assert again.returncode == 3
    assert "resumed: 2 of 2" in again.stderr
    crashed = {cell["release"]: cell["crashed"] for cell in json.loads(again.stdout)["cells"]}
    assert crashed == {"23.10": 1, "24.05": 0}

    (log,) = out.glob("trials/23.10*/server.log")
    found = documents("diagnose", log)
    assert found["died"]
    assert found["signal"] == 11
    assert "IsCancelled" in json.dumps(found)


@pytest.mark.server
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_stopping_a_run_leaves_no_process_and_says_how_to_go_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    line = ["run", "--release", "24.05", "--scenario", "control", "--requests", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kit", *line],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: any(sends(path) for path in tmp_path.glob("studies/*/trials/*")))
    os.kill(process.pid, number)
    os.kill(process.pid, number)  # the second must not interrupt the cleaning up
    _, said = process.communicate(timeout=180)
    assert process.returncode == code
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert processes_about(tmp_path) == []
    (study,) = tmp_path.glob("studies/*")
    assert not (study / "done.json").exists()


def sends(trial: Path) -> bool:
    progress = trial / "progress.json"
    return progress.exists() and json.loads(progress.read_bytes()).get("sent", 0) > 0


def wait_until(true: object, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_report_is_written_for_any_study_folder(tmp_path: Path) -> None:
    study = first_light(tmp_path / "study", repeats=2)
    done = kit("report", study.path, "--out", tmp_path / "reports")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text("utf-8").lstrip().lower().startswith("<!doctype")
    latest = json.loads((tmp_path / "reports" / "latest.json").read_text("utf-8"))
    assert documents("report", study.path, "--out", tmp_path / "again")["cells"] == latest["cells"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["utf-8", "utf-16", "gzip", "gzip of utf-16", "gzip, cut short"])
def test_a_log_is_read_in_every_form_that_it_comes_in(form: str, tmp_path: Path) -> None:
    text = (ROOT / "tests" / "crash" / "stacks" / "server-7332.log").read_text()
    data = text.encode("utf-16" if "utf-16" in form else "utf-8-sig")
    if "gzip" in form:
        data = gzip.compress(data)
    if "cut" in form:
        data = gzip.compress(text.encode() + os.urandom(1 << 16))[: -(1 << 14)]
    path = tmp_path / "server.log"
    path.write_bytes(data)
    words = [sys.executable, "-m", "kit", "diagnose", "--json"]
    piped = subprocess.run([*words, "-"], cwd=ROOT, input=data, capture_output=True, check=True)
    read = subprocess.run([*words, path], cwd=ROOT, capture_output=True, check=True)
    assert piped.stdout == read.stdout
    found = json.loads(read.stdout)
    assert (found["died"], found["release_guess"]) == (True, "23.11")
    keys = {"died", "signal", "component", "top_frame", "release_guess", "matches", "advice"}
    assert keys <= set(found)
    assert {"from": "24.08", "to": None, "by": "git"} in found["matches"][1]["affected"]


@pytest.mark.slow
def test_a_broken_gzip_file_is_a_named_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"Signal (11) received.\n" * 10_000))
    data[12:40] = bytes(28)
    path = tmp_path / "server.log.gz"
    path.write_bytes(data)
    done = kit("diagnose", path)
    assert done.returncode == 1
    assert "broken packed data" in done.stderr


@pytest.mark.slow
def test_a_diagnosis_for_people_tells_a_candidate_from_a_match() -> None:
    stacks = ROOT / "tests" / "crash" / "stacks"
    unknown = kit("diagnose", stacks / "server-7795.log").stdout
    assert "unknown, in the gRPC frontend" in unknown
    assert "Known crashes in that component, of which none is recognised:" in unknown
    assert "never cancel gRPC streams" not in unknown
    known = kit("diagnose", stacks / "server-7332.log").stdout
    assert "Known crashes that fit, best first:" in known
    assert "23.11 has it: 23.10 to 23.11 (git), 24.08 to today (git)" in known


@pytest.mark.slow
def test_a_log_without_a_crash_has_no_diagnosis(tmp_path: Path) -> None:
    found = documents("diagnose", "-", text="I1122 10:00:00.0 1 server.cc:1] all is well\n")
    assert not found["died"]
    assert found["matches"] == []


@pytest.mark.slow
def test_clean_says_when_there_is_nothing_to_remove() -> None:
    kit("clean")
    assert documents("clean") == []


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m kit releases | head -n 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("release")
    assert done.stderr == ""


@pytest.mark.server
def test_a_cache_that_the_traffic_will_fill_is_said_before_the_run(tmp_path: Path) -> None:
    spec = StudySpec(
        name="small-cache",
        servers=embedded("24.05"),
        scenarios=("control",),
        engines=(Engine(blocks=32, block_size_tokens=32, max_model_tokens=512),),
        requests=16,
        repeats=1,
    )
    path = tmp_path / "spec.json"
    path.write_bytes(to_json(spec))
    done = kit("run", "--spec", path, "--out", tmp_path / "study")

    assert done.returncode == 0, done.stderr
    assert "control: At concurrency 16 this traffic needs" in done.stderr
    assert done.stderr.index("this traffic needs") < done.stderr.index("1/1  24.05")


@pytest.mark.slow
def test_the_kit_runs_in_any_folder_and_with_a_safe_path(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kit", "releases"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0


LOAD = ["load", "http://127.0.0.1:9", "--model", "m", "--requests", "4", "--concurrency", "2"]


@pytest.mark.parametrize(
    ("environ", "words", "said"),
    [
        ({"KIT_HEADERS": "["}, [], "KIT_HEADERS"),
        ({"KIT_HEADERS": '{"X-Key": "a\\r\\nHost: b"}'}, [], "X-Key"),
        ({"KIT_BEARER_TOKEN": "a\nb"}, [], "Authorization"),
        ({}, ["--prompt-set", os.devnull], "without a prompt"),
        ({}, ["--concurrency", "1,2"], "--concurrency with"),
        ({}, ["--protocol", "grpc-stream"], "grpc://HOST:PORT"),
    ],
    ids=[
        "no JSON",
        "line break in a header",
        "line break in a token",
        "no prompt",
        "a sweep",
        "url",
    ],
)
def test_a_load_that_cannot_be_sent_is_a_named_error_and_writes_nothing(
    environ: dict[str, str],
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_signals: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main([*LOAD, *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "\n  hint: " in err
    assert list(tmp_path.iterdir()) == []
