"""What somebody else does to a trial is no verdict about the server. Real servers, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from server_helpers import endless

from kit.runner.outside import Outside, shortage
from kit.servers.processes import killed_below, stopped_below
from kit.study.folder import TrialFolder
from kit.study.result import TrialResult, Verdict

#: Who is killed leaves its last file cut short, and reading it says so.
pytestmark = pytest.mark.filterwarnings("ignore::kit.errors.DamagedStudyWarning")
PATIENCE_S = 200.0


def wait_for(found: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def conduct(folder: TrialFolder, strike: Callable[[psutil.Process], None]) -> TrialResult:
    """Run the trial of `folder`, and strike once its server has answered 20 requests."""
    with (folder.path / "trial.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "kit.runner.trial", str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: folder.requests().num_rows >= 20 or child.poll() is not None, "no requests"
        )
        strike(psutil.Process(child.pid))
        wait_for(lambda: child.poll() is not None, "no end")
    finally:
        child.kill()
        child.wait()
    result = folder.result
    assert result is not None, (folder.path / "trial.log").read_text()
    server = msgspec.json.decode(folder.server.read_bytes())
    wait_for(lambda: not psutil.pid_exists(server["pid"]), "the server lives")
    assert [p.name for p in Path("/dev/shm").iterdir() if server["shm_prefix"] in p.name] == []
    return result


def trial(path: Path, release: str = "24.05") -> TrialFolder:
    return TrialFolder.create(path / "trial", endless(release))


def named(trial: psutil.Process, words: str) -> psutil.Process:
    """The process below the trial with these words in its command line."""
    found = [p for p in trial.children(recursive=True) if words in " ".join(p.cmdline())]
    assert found, words
    return found[0]


def of_server(trial: psutil.Process) -> psutil.Process:
    return named(trial, "--model-repository")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_guard_is_no_crash_of_the_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    result = conduct(trial(tmp_path), lambda t: of_server(t).parent().send_signal(number))
    assert result.verdict is Verdict.INTERRUPTED, result.reason
    # A guard that is killed cannot say so: the end of the server that follows is then seen first.
    seen = [f"{number.name} to the server's guard"]
    if number is signal.SIGKILL:
        seen.append("killed the server with SIGKILL")
    assert any(words in result.reason for words in seen), result.reason


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_load_worker_that_is_ended_crashes_no_control_cell(
    tmp_path: Path, number: signal.Signals
) -> None:
    """23.10 dies of connections that are closed while it answers."""
    folder = trial(tmp_path, "23.10")
    ended: list[int] = []

    def strike(process: psutil.Process) -> None:
        worker = named(process, "kit.load.worker.worker")
        ended.append(msgspec.json.decode(folder.progress.read_bytes())["ended"])
        worker.send_signal(number)

    result = conduct(folder, strike)
    assert result.verdict is Verdict.CLIENT_FAULT, result.reason
    assert f"somebody ended it with {number.name}" in result.reason
    if number is signal.SIGTERM:
        assert folder.requests().num_rows >= ended[0], "what it held is written"


@pytest.mark.slow
def test_a_server_that_somebody_stopped_is_not_hung(tmp_path: Path) -> None:
    result = conduct(trial(tmp_path), lambda t: of_server(t).suspend())
    assert result.verdict is Verdict.INTERRUPTED, result.reason
    assert "SIGSTOP" in result.reason


@pytest.mark.slow
def test_a_load_worker_that_somebody_stopped_says_nothing_of_the_server(tmp_path: Path) -> None:
    result = conduct(trial(tmp_path), lambda t: named(t, "kit.load.worker.worker").suspend())
    assert result.verdict is Verdict.CLIENT_FAULT, result.reason
    assert "SIGSTOP to a load worker" in result.reason


@pytest.mark.slow
def test_a_stub_that_somebody_killed_is_no_dead_engine(tmp_path: Path) -> None:
    result = conduct(trial(tmp_path), lambda t: of_server(t).children()[0].kill())
    assert result.verdict is Verdict.INTERRUPTED, result.reason


@pytest.mark.slow
def test_a_server_that_is_told_to_end_is_not_one_whose_engine_died(tmp_path: Path) -> None:
    result = conduct(trial(tmp_path), lambda t: of_server(t).terminate())
    assert result.verdict is Verdict.INTERRUPTED, result.reason
    said = ("SIGTERM", "Signal (15)", "Somebody stopped the server with a signal")
    assert any(words in result.reason for words in said), result.reason


@pytest.mark.slow
def test_a_server_that_crashes_before_it_is_ready_has_crashed_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trial(tmp_path)
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, signal\n"
        "import kit.servers.embedded as embedded\n"
        "def dead(pid, endpoint):\n"
        "    try:\n"
        "        os.kill(pid, signal.SIGSEGV)\n"
        "    except ProcessLookupError:\n"
        "        pass\n"
        "    return False\n"
        "embedded.serves = dead\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run(
        [sys.executable, "-m", "kit.runner.trial", str(folder.path)],
        stdin=subprocess.PIPE,
        env=environment,
        timeout=PATIENCE_S,
        check=True,
    )
    result = folder.result
    assert result is not None
    assert (result.verdict, result.exit_code) == (Verdict.CRASHED, -11), result.reason
    assert result.reason == "The server died of SIGSEGV before it was ready."
    assert (result.completed, result.crash_iteration) == (0, 0)


def test_processes_that_were_stopped_or_killed_are_told_from_others() -> None:
    code = (
        "import subprocess, sys, time\n"
        "c = [subprocess.Popen(['sleep', '600']) for _ in range(3)]\n"
        "print(*[p.pid for p in c], flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        stopped, killed, ended = map(int, parent.stdout.readline().split())
        assert (stopped_below(parent.pid), killed_below(parent.pid)) == ([], [])
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        os.kill(ended, signal.SIGTERM)
        wait_for(lambda: killed_below(parent.pid), "no zombie")
        wait_for(lambda: stopped_below(parent.pid), "none stopped")
        assert stopped_below(parent.pid) == [stopped]
        assert killed_below(parent.pid) == [killed]
        os.kill(stopped, signal.SIGKILL)
        parent.kill()


@pytest.mark.parametrize(
    ("said", "by"),
    [
        ("I1128 grpc_server.cc:2463] Started\n", "SIGKILL to a process behind the server"),
        ("I1128 22:58:13 9443 pb_stub.cc:2121]  Non-graceful termination detected. \n", None),
        (
            'prompt: "Non-graceful termination detected."\n',
            "SIGKILL to a process behind the server",
        ),
    ],
)
def test_a_stub_that_ends_itself_beside_a_dying_server_was_not_killed_by_anybody(
    tmp_path: Path, said: str, by: str | None
) -> None:
    """It sends itself SIGKILL, so only the log tells it from one that somebody killed."""
    log = tmp_path / "server.log"
    log.write_text(said)
    code = (
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        os.kill(int(server.stdout.readline()), signal.SIGKILL)
        wait_for(lambda: killed_below(server.pid), "no zombie")
        looking = Outside(server.pid, [tmp_path], log)
        looking.look()
        assert looking.stopped_by == by
        server.kill()


def test_a_folder_without_space_is_named_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shortage([tmp_path, tmp_path / "gone"]) is None
    full = os.statvfs(tmp_path)
    values = list(full)
    values[4] = 1  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    assert shortage([tmp_path]) == f"no space left in {tmp_path}"
    looking = Outside(None, [tmp_path])
    looking.look()
    assert looking.shortage is not None
