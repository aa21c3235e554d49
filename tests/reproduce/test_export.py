"""Exported reproducers: their text, and what they do alone to real servers."""

from __future__ import annotations

import ast
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from chances import recorded_chance, until

from kit.crash.verdict import is_reported_crash
from kit.errors import ExportError
from kit.reproduce.bug_report import render_report
from kit.reproduce.check import ScriptRun, Tally, run_script, tally
from kit.reproduce.export import Exported, release_beside, write_reproducer
from kit.reproduce.finding import FoundCrash, title_of
from kit.reproduce.isolated import command, link_client
from kit.reproduce.script import (
    check_exportable,
    drawn_length,
    drawn_seconds,
    is_grpc,
    render_script,
    say_traffic,
)
from kit.stats.intervals import share
from kit.study.plan import plan
from kit.study.result import Frame, Signature, TrialResult, Verdict
from kit.study.scenarios import get_scenario, load_scenarios
from kit.study.spec import (
    ArrivalKind,
    Arrivals,
    Distribution,
    DistributionKind,
    Engine,
    Fault,
    FaultKind,
    Protocol,
    StudySpec,
    TrialSpec,
    embedded,
    fixed,
)

LENGTHS = Distribution(kind=DistributionKind.UNIFORM, low=2, high=6)
BUG = Signature(
    signal=11,
    frames=(
        Frame(index=2, module="libtritonserver-7e4e39b0.so", offset=None,
              symbol="TRITONBACKEND_ResponseFactoryIsCancelled"),
        Frame(index=3, module="libtriton_python.so", offset=0x34AF9, symbol=None),
    ),
    key="bug",
    text="SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled",
)  # fmt: skip


def trial(
    scenario: str = "cancel-race", release: str | None = None, **workload: object
) -> TrialSpec:
    """A trial of a scenario, with less traffic."""
    if release is None:
        release = "24.10" if "stream-status" in get_scenario(scenario).needs else "23.10"
    study = StudySpec(name="t", servers=embedded(release), scenarios=(scenario,), repeats=1)
    spec = plan(study)[0]
    given: dict[str, object] = {"requests": 30, "arrivals": Arrivals(concurrency=4)}
    return replace(spec, workload=replace(spec.workload, **(given | workload)))


def script(spec: TrialSpec, title: str = "A crash.") -> dict[str, object]:
    """The names that the script of a trial defines, without running its traffic."""
    scope: dict[str, object] = {"__name__": "script"}
    exec(compile(render_script(spec, title), "reproduce.py", "exec"), scope)
    return scope


def planned(spec: TrialSpec, count: int) -> list[tuple[object, ...]]:
    """What the first requests of its script are."""
    plan_of = script(spec)["plan"]
    assert callable(plan_of)
    return [plan_of(number) for number in range(count)]


def finding(spec: TrialSpec | None = None, **more: object) -> FoundCrash:
    given: dict[str, object] = {
        "trial": spec or trial(),
        "crash": TrialResult(
            trial_id="t",
            verdict=Verdict.CRASHED,
            reason="The server died of SIGSEGV after 5 requests.",
            completed=5,
            exit_code=-11,
            signature=BUG,
            versions={"nvidia-pytriton": "0.4.2", "server-python": "3.11"},
        ),
        "trials": 16,
        "deaths": 15,
        "share": share(15, 16),
        "iterations": (2, 5, 16),
        "diagnosis": None,
    }
    return FoundCrash(**(given | more))  # type: ignore[arg-type]


# The script's text

FAULTS = [s.name for s in load_scenarios().values() if s.kind == "fault"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_scenario_can_be_exported(name: str, tmp_path: Path) -> None:
    path = tmp_path / "reproduce.py"
    path.write_text(render_script(trial(name), "A crash."))
    checks = [
        ["ruff", "check", "--isolated", "--line-length=100", "--select=E,F,W,I,B,UP"],
        ["ruff", "format", "--isolated", "--line-length=100", "--check"],
    ]
    for check in checks:
        done = subprocess.run(
            [sys.executable, "-m", *check, path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_script_imports_the_standard_library_and_for_grpc_its_client(name: str) -> None:
    spec = trial(name)
    tree = ast.parse(render_script(spec, "A crash."))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    foreign = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == ({"grpc", "tritonclient"} if is_grpc(spec) else set())


@pytest.mark.parametrize("name", FAULTS)
def test_the_models_of_a_script_are_short_and_whole(name: str) -> None:
    files = script(trial(name))["MODEL_REPOSITORY"]
    assert isinstance(files, dict)
    models = {path: text for path, text in files.items() if path.endswith("model.py")}
    assert len(files) == 2 * len(models)
    for path, text in models.items():
        classes = [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]
        assert classes == ["TritonPythonModel"]
        assert len(text.splitlines()) <= 55
        config = files[path.replace("1/model.py", "config.pbtxt")]
        assert ("decoupled: true" in config) == (get_scenario(name).model != "unary")


def test_the_requests_of_a_script_are_the_same_in_every_run_and_as_the_workload_says() -> None:
    spec = trial(prompt_tokens=LENGTHS, output_tokens=LENGTHS)
    requests = planned(spec, 200)
    assert planned(spec, 200) == requests
    prompts, tokens = zip(*requests, strict=True)
    assert {len(prompt.split()) for prompt in prompts} == {2, 3, 4, 5, 6}
    assert set(tokens) == {2, 3, 4, 5, 6}
    assert len(set(prompts)) == 200
    other = replace(spec, workload=replace(spec.workload, seed=spec.workload.seed + 1))
    assert planned(other, 200) != requests


def test_a_share_of_the_clients_leaves_as_the_fault_says() -> None:
    fault = Fault(kind=FaultKind.DISCONNECT, fraction=0.25, after=LENGTHS)
    spec = trial("http-disconnect", faults=(fault,))
    left = [after for _, _, after in planned(spec, 400)]
    assert set(left) == {None, 2, 3, 4, 5, 6}
    assert 60 <= sum(after is not None for after in left) <= 140


def test_prompts_have_their_shared_prefix_and_lengths() -> None:
    spec = trial(prompt_tokens=fixed(3), shared_prefix_tokens=4, output_tokens=fixed(1))
    assert planned(spec, 8)[7] == ("[7]" + 6 * " word", 1)
    text = render_script(spec, "A crash.")
    assert "random" not in text
    assert "SEED" not in text


@pytest.mark.parametrize(
    "kind",
    [DistributionKind.NORMAL, DistributionKind.LOGNORMAL, DistributionKind.GEOMETRIC],
)
def test_lengths_are_drawn_from_their_distribution(kind: DistributionKind) -> None:
    given = Distribution(kind=kind, mean=20, stdev=5, low=3, high=60)
    expression = compile(drawn_length(given, 1), "expression", "eval")
    draw = random.Random(0)
    drawn = [eval(expression, {"draw": draw}) for _ in range(4000)]
    assert min(drawn) >= 3
    assert max(drawn) <= 60
    assert sum(drawn) / len(drawn) == pytest.approx(20, abs=1.0)


def test_deadlines_are_above_zero() -> None:
    given = Distribution(kind=DistributionKind.NORMAL, mean=0.001, stdev=0.01)
    expression = compile(drawn_seconds(given), "expression", "eval")
    draw = random.Random(0)
    assert min(eval(expression, {"draw": draw}) for _ in range(100)) > 0
    assert drawn_seconds(fixed(0.002)) == "0.002"


def test_a_title_cannot_break_out_of_its_docstring() -> None:
    assert script(trial(), 'A """crash\\""" of C:\\new')["REQUESTS"] == 30


NOT_EXPORTED: list[dict[str, object]] = [
    {"protocol": Protocol.OPENAI_CHAT},
    {"requests": None, "duration_s": 5.0},
    {"arrivals": Arrivals(kind=ArrivalKind.POISSON, rate_per_s=5.0)},
    {"turns": 3},
    {"faults": (Fault(kind=FaultKind.SLOW_READER),)},
    {"faults": (Fault(kind=FaultKind.DISCONNECT, after=fixed(9), unit="bytes"),)},
    {"faults": tuple(Fault(kind=k, fraction=0.5) for k in (FaultKind.CANCEL, FaultKind.DEADLINE))},
]


@pytest.mark.parametrize("workload", NOT_EXPORTED, ids=lambda w: "-".join(w))
def test_what_no_script_can_be_written_for_is_refused_by_name(
    workload: dict[str, object], tmp_path: Path
) -> None:
    spec = trial(**workload)
    with pytest.raises(ExportError, match="cancel-race with "):
        check_exportable(spec)
    with pytest.raises(ExportError):
        write_reproducer(finding(spec), tmp_path / "out", times=0)
    assert not (tmp_path / "out").exists()


def test_a_model_of_the_users_own_is_refused() -> None:
    with pytest.raises(ExportError, match="the model mine"):
        check_exportable(replace(trial(), model="mine"))


def test_the_traffic_of_real_vllm_is_exported_with_the_small_model() -> None:
    spec = replace(trial(), model="vllm", engine=Engine())
    assert "is_cancelled" in render_script(spec, "A crash.")


# What a script says, without a Triton


class FakeTriton(ThreadingHTTPServer):
    """Answers like Triton's HTTP frontend until request number `fatal`."""

    daemon_threads = True

    def __init__(self, *, fatal: int | None = None, refuses: bool = False) -> None:
        self.asked, self.fatal, self.refuses = 0, fatal, refuses
        super().__init__(("127.0.0.1", 0), Answers)
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeTriton

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer(200, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        if self.server.asked == self.server.fatal:
            self.close_connection = True
            Thread(target=self.server.shutdown).start()
            self.server.socket.close()
        elif self.server.refuses:
            self._answer(400, json.dumps({"error": "Stub process is not healthy."}).encode())
        else:
            self._answer(200, b'{"text_output":"word"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def run_alone(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As its reader runs it: no site packages, nothing of the kit on its path."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(path), *words],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def one_by_one(tmp_path: Path) -> Path:
    """The script of one client that sends twelve requests."""
    path = tmp_path / "reproduce.py"
    spec = trial(requests=12, arrivals=Arrivals(concurrency=1))
    path.write_text(render_script(spec, "A crash."))
    return path


@pytest.fixture
def servers() -> Iterator[list[FakeTriton]]:
    made: list[FakeTriton] = []
    yield made
    for server in made:
        server.server_close()


@pytest.mark.slow
def test_a_script_says_after_which_request_the_server_died(
    one_by_one: Path, servers: list[FakeTriton]
) -> None:
    servers.append(FakeTriton(fatal=6))
    done = run_alone(one_by_one, servers[0].url)
    assert done.returncode == 0, done.stderr
    said = "CRASHED: the server died after 5 of 12 requests had ended, with 1 open; request 5 got "
    assert done.stdout.startswith(said)


@pytest.mark.slow
def test_a_server_that_answers_everything_survived(
    one_by_one: Path, servers: list[FakeTriton]
) -> None:
    servers.append(FakeTriton())
    done = run_alone(one_by_one, servers[0].url)
    assert (done.returncode, done.stdout) == (1, "SURVIVED: all 12 requests ended\n")
    assert servers[0].asked == 12


@pytest.mark.slow
def test_a_server_that_only_refuses_requests_is_told_from_one_that_died_or_hangs(
    one_by_one: Path, servers: list[FakeTriton]
) -> None:
    servers.append(FakeTriton(refuses=True))
    done = run_alone(one_by_one, servers[0].url)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("REFUSES: of 3 requests 3 were refused (")
    assert "Stub process is not healthy" in done.stdout


def alone(path: Path, text: str, packages: Path | None) -> subprocess.CompletedProcess[str]:
    """Run a script as the check of exported ones runs them."""
    path.write_text(text)
    return subprocess.run(
        command(path, "word", packages=packages), capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_checked_script_has_nothing_of_the_kit_nor_its_libraries(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    client = link_client(tmp_path / "packages")
    for packages in (None, client):
        for name in ("kit", "pandas", "httptools"):
            done = alone(path, f"import {name}", packages)
            assert f"No module named '{name}'" in done.stderr
    assert "No module named 'tritonclient'" in alone(path, "import tritonclient", None).stderr
    text = "import sys, tritonclient.grpc\nprint(__name__, sys.argv)\n"
    done = alone(path, text, client)
    assert done.stdout == f"__main__ {[str(path), 'word']}\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["http://127.0.0.1:9"], ["127.0.0.1"], ["--what"]])
def test_traffic_that_cannot_be_sent_is_wrong_usage(one_by_one: Path, words: list[str]) -> None:
    done = run_alone(one_by_one, *words)
    assert done.returncode == 2
    assert "reproduce.py: error: " in done.stderr


# The report


def runs(release: str, code: int, count: int) -> list[ScriptRun]:
    said = "CRASHED: the server died." if code == 0 else "SURVIVED: all 30 requests ended"
    run = ScriptRun(
        release=release,
        code=code,
        said=said,
        exit_code=-11 if code == 0 else None,
        signature=BUG if code == 0 else None,
        verdict=Verdict.CRASHED if code == 0 else Verdict.SURVIVED,
    )
    return [run] * count


def test_another_crash_and_mere_refusals_are_not_counted_as_the_crash() -> None:
    other = replace(runs("23.10", 0, 1)[0], signature=Signature(signal=6, key="o", text="SIGABRT"))
    hang = replace(other, exit_code=None, signature=None, verdict=Verdict.HUNG)
    refused = replace(runs("23.10", 1, 1)[0], code=3)
    tried = [*runs("23.10", 0, 2), other, hang, refused, *runs("23.10", 1, 1)]
    assert tally(tried, finding().crash) == Tally(runs=6, same=2, other=2, refused=1)
    text = render_report(finding(), trial(), tried, [])
    row = "| reproduce.py, as it is | 23.10 | 6 | 2 | 33 % (4 % to 78 %) | "
    assert row + "2 of another crash, 1 only refused requests |" in text
    assert f'Of the 2 deaths by reproduce.py, 2 were "{BUG.text}".' in text


def test_a_dead_model_behind_a_live_server_is_the_crash_that_was_looked_for() -> None:
    lost = replace(finding().crash, verdict=Verdict.ENGINE_DIED, signature=None, exit_code=None)
    run = replace(runs("24.10", 1, 1)[0], code=3, verdict=Verdict.ENGINE_DIED)
    assert run.is_crash(lost)
    assert not run.refused
    assert not run.is_crash(finding().crash)


def test_a_report_states_what_was_measured() -> None:
    spec = trial()
    text = render_report(finding(), spec, runs("23.10", 0, 5), runs("23.12", 1, 2))
    assert text.startswith(f"# Triton 23.10 (2.39.0): {BUG.text}\n")
    assert "| reproduce.py, as it is | 23.10 | 5 | 5 | 100 % (48 % to 100 %) | – |" in text
    assert "| reproduce.py, as it is | 23.12 | 2 | 0 | 0 % (0 % to 84 %) | – |" in text
    assert "| 23.10 | 16 | 15 | 94 % (70 % to over 99 %) |" in text
    assert "had completed 2 to 16 (median 5) requests" in text
    assert " 3# libtriton_python.so+0x34af9\n" in text
    assert "nvidia-pytriton 0.4.2" in text
    assert "nvcr.io/nvidia/tritonserver:23.10-vllm-python-py3" in text
    assert not re.search(r"None|nan|\{\{|\n\n\n\n", text)


def test_a_report_says_what_was_not_tried() -> None:
    text = render_report(finding(), trial(), [], [])
    assert "reproduce.py itself has not been run against a server." in text
    assert "| reproduce.py, as it is |" not in text


def test_a_death_without_a_stack_is_named_by_how_it_ended() -> None:
    crash = replace(finding().crash, verdict=Verdict.HUNG, signature=None)
    found = finding(crash=crash)
    assert title_of(found) == "Triton 23.10 (2.39.0): requests that are never answered"
    text = render_report(found, trial(), [], [])
    assert "Stack, as the server printed it" not in text


def test_traffic_is_said_in_a_sentence() -> None:
    assert say_traffic(trial()) == "4 clients send 30 requests over HTTP generate."
    alone = trial(arrivals=Arrivals(concurrency=1), requests=1)
    assert say_traffic(alone) == "1 client sends 1 request over HTTP generate."
    leaving = trial("http-disconnect")
    assert say_traffic(leaving).endswith("; each is left by its client before the end.")


def test_the_release_beside_is_one_that_is_not_known_to_have_the_crash() -> None:
    assert release_beside(finding()) == "23.12"
    late = finding(trial(release="24.10"))
    assert release_beside(late) == "24.07"  # of those before it, the last without the fault


def test_no_release_is_set_beside_a_crash_that_its_traffic_trades_for_another() -> None:
    # from 23.12 on this traffic does not crash the server: it locks the model's process up
    assert release_beside(finding(trial("bls-concurrency"))) is None


# Alone against real servers


def smallest(scenario: str, requests: int, *, clients: int = 1) -> FoundCrash:
    """What a shrinking of this scenario ends at."""
    spec = trial(
        scenario,
        prompt_tokens=fixed(1),
        output_tokens=fixed(4),
        arrivals=Arrivals(concurrency=clients),
        requests=requests,
    )
    return finding(spec)


@dataclass
class Lives:
    """What exported scripts did to real servers, all at the same time."""

    race: Exported  # that crashed a fresh 23.10; and beside it, a release without the fault
    later: ScriptRun  # the same traffic on 24.05
    grpc: ScriptRun  # cancelled gRPC streams, which crashed a 23.10
    gone: ScriptRun  # a model whose process ends, on 24.10


#: That 30 requests of one client crash 23.10. Recorded are 10 of 10 trials of 200 requests and 16
#: clients, most of them dead before the 30th; with one client half of that is taken: 10 lives all
#: miss it in 1 of 1,024 runs.
RACE_CHANCE = 0.5
#: That cancelled gRPC streams crash a 23.10, not only hang it: 5 of 5 recorded trials did, so 0.55
#: at the least: 9 lives all miss it in 1 of 1,300 runs.
GRPC_CHANCE = recorded_chance("23.10", "grpc-stream-cancel")
#: How 23.10 dies of them.
SIGNALS = (-11, -6)


def crash_by_grpc(run: Callable[[int], ScriptRun]) -> ScriptRun:
    """The first life that crashed; one may hang, or outlive the script, in its stead."""
    return until(
        run,
        lambda life: life.exit_code in SIGNALS,
        chance=GRPC_CHANCE,
        known=lambda life: life.code in (0, 1) and life.exit_code in (None, *SIGNALS),
        say=lambda life: life.said,
    )


#: That 24.10 outlives the end of its model's process: 5 of 5 recorded trials did, so 0.55 at the
#: least. Once it was seen to die of it: the Python backend threw boost's lock_exception.
GONE_CHANCE = recorded_chance("24.10", "stub-dies")


def lose_the_model(run: Callable[[int], ScriptRun]) -> ScriptRun:
    """The first life that went on without its model."""
    return until(
        run,
        lambda life: life.exit_code is None,
        chance=GONE_CHANCE,
        known=lambda life: life.exit_code is None or "lock_exception" in str(life.signature),
        say=lambda life: life.said,
    )


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    folder = tmp_path_factory.mktemp("lives")
    race, cancel = smallest("cancel-race", 30), smallest("grpc-stream-cancel", 3000, clients=8)

    def run(name: str, found: FoundCrash, release: str) -> ScriptRun:
        path = folder / f"{name}.py"
        path.write_text(render_script(found.trial, "A crash."))
        return run_script(path, release, folder / name, grpc=is_grpc(found.trial))

    with ThreadPoolExecutor() as pool:
        exported = pool.submit(
            until,
            lambda life: write_reproducer(race, folder / f"race{life}", times=1),
            lambda exported: exported.crashed == 1,
            chance=RACE_CHANCE,
            known=lambda exported: exported.runs[0].exit_code in (None, -11),
            say=lambda exported: exported.runs[0].said,
        )
        later = pool.submit(run, "later", race, "24.05")
        grpc = pool.submit(crash_by_grpc, lambda life: run(f"grpc{life}", cancel, "23.10"))
        dies = smallest("stub-dies", 120, clients=4)
        gone = pool.submit(lose_the_model, lambda life: run(f"gone{life}", dies, "24.10"))
        return Lives(
            race=exported.result(), later=later.result(), grpc=grpc.result(), gone=gone.result()
        )


@pytest.mark.server
def test_the_exported_script_alone_crashes_a_fresh_23_10_with_the_reported_stack(
    lives: Lives,
) -> None:
    (run,) = lives.race.runs
    assert run.died, run.said
    assert run.exit_code == -11
    assert lives.race.crashed == 1
    assert is_reported_crash(run.signature), run.signature
    assert re.search(r"died after \d+ of 30 requests had ended", run.said)


@pytest.mark.server
def test_the_same_script_leaves_releases_without_the_fault_alive(lives: Lives) -> None:
    for run in (*lives.race.beside, lives.later):
        assert (run.code, run.exit_code) == (1, None), run.said
        assert run.said == "SURVIVED: all 30 requests ended"
    assert {run.release for run in lives.race.beside} == {"23.12"}


@pytest.mark.server
def test_the_report_beside_the_script_tells_of_its_runs(lives: Lives) -> None:
    text = (lives.race.folder / "REPORT.md").read_text()
    assert "| reproduce.py, as it is | 23.10 | 1 | 1 |" in text
    assert "| reproduce.py, as it is | 23.12 | 1 | 0 |" in text
    assert lives.race.runs[0].said in text


@pytest.mark.server
def test_a_grpc_script_crashes_a_fresh_23_10_too(lives: Lives) -> None:
    assert lives.grpc.code == 0, lives.grpc.said
    assert lives.grpc.exit_code in SIGNALS
    assert lives.grpc.signature is not None


@pytest.mark.server
def test_a_model_that_dies_behind_a_live_server_is_more_than_refused_requests(
    lives: Lives,
) -> None:
    # what the model had in hand when it ended may be refused, or never answered
    assert lives.gone.code in (0, 3), lives.gone.said
    assert "is not healthy" in lives.gone.said
    assert lives.gone.verdict is Verdict.ENGINE_DIED
    assert not lives.gone.refused
