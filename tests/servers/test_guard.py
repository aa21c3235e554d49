"""Whatever ends, and however, nothing of a run remains. Real processes, no server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from server_helpers import traces_of, wait_until_gone

from kit.errors import ServerStartError
from kit.servers.guarded import GuardedProcess
from kit.servers.processes import MARKER, SHM, marked, semaphores_of, start_ticks
from kit.servers.runs import Run, is_over, register, registered, this_process
from kit.servers.traces import remove, sweep


@pytest.fixture(autouse=True)
def own_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    yield
    for run in registered():
        run.forget()


#: A server in small: a region of shared memory, a child, and a grandchild that hides.
SERVER = """
import os, signal, subprocess, sys, time
open("/dev/shm/{prefix}region", "w").close()
child = "import subprocess, sys, time;" \\
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']," \\
    " start_new_session=True); print('up', flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
{before}
print("up", flush=True)
{then}
"""


def guarded(
    run: Run, tmp_path: Path, *, before: str = "", then: str = "time.sleep(600)"
) -> GuardedProcess:
    code = SERVER.format(prefix=run.shm_prefix, before=before, then=then)
    log = tmp_path / "server.log"
    process = GuardedProcess(run, [sys.executable, "-c", code], os.environ, log)
    deadline = time.monotonic() + 30
    while "up" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def guard_of(process: GuardedProcess) -> psutil.Process:
    parent = psutil.Process(process.pid).parent()
    assert parent is not None
    return parent


def test_a_run_is_on_disk_before_anything_is_started() -> None:
    run = register()
    assert [entry.name for entry in registered()] == [run.name]
    assert run.folder.is_dir()
    run.forget()
    assert registered() == []
    assert traces_of(run.name) == []


def test_stop_ends_child_grandchild_and_shared_memory(tmp_path: Path) -> None:
    run = register()
    process = guarded(run, tmp_path)
    assert (SHM / f"{run.shm_prefix}region").exists()
    assert len(marked(run.name)) == 4  # the guard, the server, its child, the hidden one
    assert process.poll() is None
    assert process.stop() == 0
    assert traces_of(run.name) == []
    assert registered() == []


#: As vLLM has them: named, and to be removed by a process that is killed as well.
SEMAPHORE = "import multiprocessing as m; lock = m.get_context('spawn').Lock()"


def test_semaphores_of_killed_processes_are_removed(tmp_path: Path) -> None:
    process = guarded(register(), tmp_path, before=SEMAPHORE)
    assert process.pid is not None
    [name] = semaphores_of([process.pid])
    assert (SHM / name).exists()
    process.stop()
    assert not (SHM / name).exists()


def test_semaphores_go_with_what_owner_and_guard_leave(tmp_path: Path) -> None:
    run = register()
    process = guarded(run, tmp_path, before=SEMAPHORE)
    assert process.pid is not None
    [name] = semaphores_of([process.pid])
    guard_of(process).suspend()  # or it may be the first to remove what the server leaves
    assert name in remove(run).shared_memory
    assert not (SHM / name).exists()
    process.stop()


def test_stop_twice_and_poll_after_it_are_harmless(tmp_path: Path) -> None:
    process = guarded(register(), tmp_path)
    process.stop()
    assert process.stop() == 0
    assert process.poll() == 0
    assert process.wait(1.0) == 0


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("os.kill(os.getpid(), 11)", -11),
        ("os.abort()", -6),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), 9)", -9),
    ],
)
def test_the_exit_is_told_as_it_was_and_what_was_left_is_gone(
    tmp_path: Path, then: str, code: int
) -> None:
    run = register()
    before = time.monotonic_ns()
    process = guarded(run, tmp_path, then=then)
    assert process.wait(30) == code
    assert process.exited_ns is not None
    assert before < process.exited_ns <= time.monotonic_ns()
    assert wait_until_gone(run.name) == []  # before anybody called stop
    assert process.stop() == code
    assert list(tmp_path.glob("core*")) == []


def test_a_program_that_cannot_run_is_a_start_error(tmp_path: Path) -> None:
    run = register()
    with pytest.raises(ServerStartError, match="No such file"):
        GuardedProcess(run, ["/nowhere/tritonserver"], {}, tmp_path / "log")
    assert traces_of(run.name) == []
    assert registered() == []


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    run = register()
    process = guarded(run, tmp_path, before="signal.signal(15, signal.SIG_IGN)")
    assert process.stop(patience_s=0.3) == 0
    assert traces_of(run.name) == []


OWNER = """
import sys, os, json, time
sys.path[:0] = {path!r}
from pathlib import Path
from test_guard import guarded, guard_of, register
run = register()
process = guarded(run, Path({folder!r}))
print(json.dumps([run.name, process.pid, guard_of(process).pid]), flush=True)
time.sleep(600)
"""


def owner(tmp_path: Path) -> tuple[subprocess.Popen[bytes], str, int, int]:
    path = [str(Path(__file__).parent), *sys.path]
    code = OWNER.format(path=path, folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    run, server, guard = json.loads(process.stdout.readline())
    return process, run, server, guard


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_owner_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process, run, _, _ = owner(tmp_path)
    process.send_signal(number)
    process.wait(30)
    assert wait_until_gone(run) == []
    assert registered() == []


def test_a_killed_guard_takes_the_server_with_it_and_the_owner_cleans_up(tmp_path: Path) -> None:
    run = register()
    process = guarded(run, tmp_path)
    guard_of(process).kill()
    assert process.wait(30) == -9
    assert process.stopped_by == "SIGKILL to the server's guard"
    assert traces_of(run.name) == []
    assert process.stop() == -9
    assert registered() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_guard_that_is_told_to_end_says_who_ended_the_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = guarded(register(), tmp_path)
    guard_of(process).send_signal(number)
    assert process.wait(30) == 0
    assert process.stopped_by == f"{number.name} to the server's guard"
    process.stop()


def test_nobody_else_stopped_a_process_that_died_or_that_its_owner_stopped(tmp_path: Path) -> None:
    process = guarded(register(), tmp_path, then="os.kill(os.getpid(), 11)")
    assert process.wait(30) == -11
    assert process.stopped_by is None
    process.stop()
    (tmp_path / "2").mkdir()
    process = guarded(register(), tmp_path / "2")
    process.stop()
    assert process.stopped_by is None


def test_a_process_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    show = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    process = guarded(register(), tmp_path, before=show)
    first = (tmp_path / "server.log").read_text().splitlines()[0]
    soft, hard = first.strip("()").split(", ")
    assert soft == hard
    process.stop()


def test_what_owner_and_guard_leave_when_both_are_killed_is_swept(tmp_path: Path) -> None:
    process, run, server, guard = owner(tmp_path)
    for pid in (guard, process.pid):  # the guard is stopped first, lest it is faster
        os.kill(pid, signal.SIGSTOP)
    for pid in (guard, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(30)
    psutil.wait_procs([psutil.Process(server)] if psutil.pid_exists(server) else [], timeout=30)
    left = traces_of(run)
    assert any("region" in trace for trace in left)
    [trace] = sweep()
    assert trace.run == run
    assert len(trace.processes) == 2  # the child and the one that hides; the server died with it
    assert len(trace.shared_memory) == 1
    assert traces_of(run) == []
    assert registered() == []
    assert sweep() == []


def test_a_living_owners_run_is_not_swept(tmp_path: Path) -> None:
    run = register()
    process = guarded(run, tmp_path)
    assert sweep() == []
    assert process.poll() is None
    process.stop()


def rewrite(run: Run, **changes: object) -> Run:
    content = json.loads(run.record.read_text())
    content["owner"].update(changes)
    run.record.write_text(json.dumps(content))
    [again] = registered()
    return again


def test_a_pid_that_another_process_has_now_is_a_dead_owner() -> None:
    assert is_over(rewrite(register(), start_ticks=1))


def test_a_record_from_before_the_last_boot_is_over() -> None:
    run = rewrite(register(), boot="an earlier one")
    (SHM / f"{run.shm_prefix}x").touch()
    [trace] = sweep()
    assert trace.shared_memory == (f"{run.shm_prefix}x",)
    assert traces_of(run.name) == []


def test_runs_of_other_machines_and_containers_are_left_alone() -> None:
    elsewhere = rewrite(register(), boot="another", host="elsewhere")
    assert not is_over(elsewhere)
    assert sweep() == []
    contained = rewrite(elsewhere, **{**this_process_fields(), "pid_namespace": "pid:[1]"})
    assert not is_over(contained)
    contained.forget()


def this_process_fields() -> dict[str, object]:
    here = this_process()
    return {"boot": here.boot, "host": here.host, "pid": 2**22 + 1}


def test_a_record_that_a_power_cut_emptied_still_names_its_run() -> None:
    run = register()
    (SHM / f"{run.shm_prefix}x").touch()
    run.record.write_text("")
    assert sweep() == []  # younger than the last boot: it may be about to be written
    os.utime(run.record, (1, 1))
    assert [trace.run for trace in sweep()] == [run.name]
    assert traces_of(run.name) == []


def test_a_record_cannot_make_a_sweep_remove_another_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    run = rewrite(register(), start_ticks=1)
    content = json.loads(run.record.read_text())
    content["folder"] = str(precious)
    run.record.write_text(json.dumps(content))
    assert sweep() == []
    assert precious.exists()
    run.forget()


def test_start_ticks_are_none_for_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert start_ticks(process.pid) is None
    assert start_ticks(os.getpid()) is not None


def test_the_marker_reaches_what_a_marked_process_starts() -> None:
    run = os.urandom(6).hex()
    environment = {**os.environ, MARKER: run}
    with subprocess.Popen(["sh", "-c", "sleep 300 & wait"], env=environment):
        deadline = time.monotonic() + 60
        while len(pids := marked(run)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert len(pids) == 2
