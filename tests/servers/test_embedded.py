"""Real Triton servers: they start, serve, die and stop, and nothing of them remains.

Three releases by default; TRITON_CRASH_KIT_ALL_RELEASES=1 runs the tests of one life on all.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from effort import many
from lacks import lacks
from server_helpers import MODEL, get, infer, traces_of, wait_until_gone, write_model

from kit.errors import LibpythonMissingError, ServerStartError, SpecError, UnknownReleaseError
from kit.servers import embedded, private_tmp
from kit.servers.cache import cache_root
from kit.servers.embedded import EmbeddedServer
from kit.servers.guarded import PRIVATE_TMP
from kit.servers.ports import PortClaim
from kit.servers.processes import marked
from kit.servers.python_env import note, python_env_folders, remove_noted
from kit.servers.ready import serves
from kit.servers.runs import registered
from kit.servers.traces import sweep
from kit.study.folder import TrialFolder
from kit.study.releases import embedded_releases, get_release
from kit.study.spec import Endpoint

ALL = [release.release for release in embedded_releases()]
SOME = ["23.10", "24.05", "24.10"]
RELEASES = ALL if os.environ.get("TRITON_CRASH_KIT_ALL_RELEASES") == "1" else SOME


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    path = tmp_path / "trial"
    path.mkdir()
    return TrialFolder(path)


def server_of(
    release: str, repository: Path, folder: TrialFolder, *extra_args: str, **options: float
) -> EmbeddedServer:
    try:
        return EmbeddedServer(
            get_release(release), repository, folder, extra_args=extra_args, **options
        )
    except LibpythonMissingError as error:
        if release == "23.04" and "uv python install 3.8" in error.hint:
            lacks("23.04 alone needs a Python 3.8, and this machine has none")
        raise


def quick_server(repository: Path, folder: TrialFolder, release: str = "24.10") -> EmbeddedServer:
    """As `server_of`, up a second sooner: Triton does not ask the model for its configuration."""
    return server_of(release, repository, folder, "--disable-auto-complete-config")


def run_of(folder: TrialFolder) -> str:
    return str(json.loads(folder.server.read_text())["run"])


@pytest.mark.parametrize("release", RELEASES)
def test_one_life(release: str, repository: Path, folder: TrialFolder) -> None:
    """Start, serve, bind to loopback only, stop: one server for all of it, since starts cost."""
    before = time.monotonic_ns()
    server = server_of(release, repository, folder)
    with server:
        endpoint = server.endpoint
        run = run_of(folder)
        assert server.poll() is None
        assert server.started_ns is not None
        assert server.ready_ns is not None
        assert before < server.started_ns < server.ready_ns < time.monotonic_ns()

        # It is the release that was asked for, and it answers.
        version = json.loads(get(endpoint, endpoint.http_port, "/v2"))["version"]
        assert version == get_release(release).triton == server.versions["triton"]
        assert infer(endpoint, "grüße") == "grüße"
        assert "nv_inference_request_success" in get(endpoint, endpoint.metrics_port, "/metrics")

        # Its models see numpy 1.x, and nothing of this interpreter's packages.
        numpy, executable, path = json.loads(infer(endpoint, "python"))
        assert numpy.startswith("1.")
        assert run in executable
        assert not [entry for entry in path if entry.startswith(sys.prefix + "/")]

        # All that it and its stubs listen on is this machine only, and the three ports are there.
        addresses = {
            (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
            for pid in marked(run)
            for connection in psutil.Process(pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        ports = (endpoint.http_port, endpoint.grpc_port, endpoint.metrics_port)
        assert addresses == {("127.0.0.1", port) for port in ports}

        # What a reader of the folder needs is there, and tells nothing of whose machine it was.
        modules = str(server.modules)
        assert f"{modules}/pytriton/tritonserver/bin/tritonserver" in folder.maps.read_text()
        assert "libtriton_python.so" in folder.maps.read_text()
        assert str(Path.home()) not in folder.server.read_text()
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
    assert server.poll() == 0
    assert server.stop() == 0
    assert "model finalized" in folder.log.read_text()
    assert traces_of(run) == []


@pytest.fixture(scope="module")
def crashed(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EmbeddedServer, TrialFolder]]:
    folder = TrialFolder(tmp_path_factory.mktemp("crashed"))
    server = quick_server(repository, folder, "23.10")
    server.start()
    os.kill(server.pid, signal.SIGSEGV)
    server.wait(30)
    yield server, folder
    server.stop()


def test_a_crash_is_seen_with_its_signal_and_its_time(
    crashed: tuple[EmbeddedServer, TrialFolder],
) -> None:
    server, folder = crashed
    assert server.poll() == -11
    assert server.ready_ns is not None
    assert server.died_ns is not None
    assert server.ready_ns < server.died_ns < time.monotonic_ns()
    assert "Signal (11) received." in folder.log.read_text()


def test_a_crash_leaves_no_stub_and_no_shared_memory_even_before_stop(
    crashed: tuple[EmbeddedServer, TrialFolder],
) -> None:
    server, folder = crashed
    assert wait_until_gone(run_of(folder)) == []
    assert server.stop() == -11
    assert list(folder.path.glob("core*")) == []


@pytest.fixture
def shared_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that lets nobody have a /tmp of his own."""
    monkeypatch.setenv(PRIVATE_TMP, "0")


def made_in_tmp() -> set[str]:
    return {path.name for path in Path("/tmp").glob("python_env_*")}


def test_what_a_server_makes_in_tmp_lies_in_its_run_and_it_sees_what_others_have_there(
    tmp_path: Path, folder: TrialFolder
) -> None:
    (tmp_path / "probe").mkdir()
    if not private_tmp.possible(tmp_path / "probe"):
        lacks("this system allows no mount namespaces")
    before = made_in_tmp()
    look = MODEL.replace("numpy.__version__, sys.executable", "os.listdir('/tmp'), os.getuid()")
    with quick_server(write_model(tmp_path / "models", code=look), folder) as server:
        seen, user, _ = json.loads(infer(server.endpoint, "python"))
        assert [name for name in seen if name.startswith("python_env_")]
        assert tmp_path.relative_to("/tmp").parts[0] in seen
        assert user == os.getuid()
        assert list((server._run.folder / "tmp").glob("python_env_*"))
        assert made_in_tmp() <= before
    assert traces_of(server._run.name) == []
    assert folder.log.exists(), "what lies in /tmp outlives the removal of the run's own"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("ending", [signal.SIGSEGV, None], ids=["crash", "stop"])
def test_the_folder_that_triton_makes_in_tmp_goes_with_its_server(
    release: str,
    ending: signal.Signals | None,
    repository: Path,
    folder: TrialFolder,
    shared_tmp: None,
) -> None:
    with quick_server(repository, folder, release) as server:
        [made_by_triton] = python_env_folders(server.pid)
        assert made_by_triton.is_dir()
        if ending:
            os.kill(server.pid, ending)
            assert server.wait(20.0) == -ending
    assert not made_by_triton.exists()


def test_a_run_that_is_over_needs_no_note(tmp_path: Path) -> None:
    note(tmp_path / "gone.json", [Path("/tmp/python_env_aaaaaa")])
    assert list(tmp_path.iterdir()) == []


def test_a_record_can_name_nothing_else_to_be_removed(tmp_path: Path) -> None:
    record, kept = tmp_path / "r.json", tmp_path / "kept"
    kept.mkdir()
    other = Path("/tmp", f"python_env_{secrets.token_hex(3)}")
    other.symlink_to(kept)
    try:
        record.write_text("{}")
        note(record, [kept, other, Path("/tmp/python_env_aaaaaa/../kept"), Path("/")])
        assert remove_noted(record) == []
        assert kept.is_dir()
    finally:
        other.unlink()


def test_frame_0_of_a_crash_names_the_release(
    crashed: tuple[EmbeddedServer, TrialFolder],
) -> None:
    _, folder = crashed
    frame = next(line for line in folder.log.read_text().splitlines() if line[:3] == " 0#")
    assert frame.lower().split()[1].endswith(str(get_release("23.10").frame0))


def test_a_dead_stub_does_not_make_stopping_slow(repository: Path, folder: TrialFolder) -> None:
    with quick_server(repository, folder) as server:
        stubs = psutil.Process(server.pid).children()
        assert [stub.name()[:13] for stub in stubs] == ["triton_python"]
        for stub in stubs:
            stub.kill()
        while any(stub.status() != psutil.STATUS_ZOMBIE for stub in stubs):
            time.sleep(0.01)
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 5  # Triton by itself waits 30 s
    assert traces_of(run_of(folder)) == []


def test_an_exception_in_the_block_leaves_nothing(repository: Path, folder: TrialFolder) -> None:
    with pytest.raises(KeyboardInterrupt), quick_server(repository, folder):
        raise KeyboardInterrupt
    assert traces_of(run_of(folder)) == []


def test_an_interrupt_while_it_starts_leaves_nothing(
    repository: Path, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(pid: int, _: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "serves", interrupt)
    server = quick_server(repository, folder)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert server.poll() == 0
    assert traces_of(server._run.name) == []


OWNER = """
import json, sys, time
from pathlib import Path
from kit.study.releases import get_release
from kit.servers.embedded import EmbeddedServer
from kit.study.folder import TrialFolder
folder = TrialFolder(Path({folder!r}))
server = EmbeddedServer(get_release("23.10"), Path({repository!r}), folder)
server.start()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_kill_9_of_the_owner_takes_the_server_and_its_stubs_along(
    repository: Path, folder: TrialFolder, shared_tmp: None
) -> None:
    code = OWNER.format(folder=str(folder.path), repository=str(repository))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        run = run_of(folder)
        assert len(marked(run)) >= 4  # guard, server, stub, the stub's hidden helper
        [made_by_triton] = python_env_folders(json.loads(folder.server.read_text())["pid"])
        owner.kill()
    assert wait_until_gone(run) == []
    assert not made_by_triton.exists()
    assert run not in [entry.name for entry in registered()]


def test_what_a_power_cut_leaves_is_gone_at_the_next_start(
    repository: Path,
    folder: TrialFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_tmp: None,
) -> None:
    """All at once: owner and guard killed, so that nobody is left to clean up."""
    (cache_root() / "wheels").mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "wheels").symlink_to(cache_root() / "wheels")
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    code = OWNER.format(folder=str(folder.path), repository=str(repository))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        run = run_of(folder)
        pid = json.loads(folder.server.read_text())["pid"]
        [made_by_triton] = python_env_folders(pid)
        guard = psutil.Process(pid).parent()
        assert guard is not None
        for process in (guard, psutil.Process(owner.pid)):
            process.suspend()
        for process in (guard, psutil.Process(owner.pid)):
            process.kill()
    assert any("/dev/shm" in trace for trace in traces_of(run))
    [trace] = sweep()
    assert trace.run == run
    assert trace.shared_memory
    assert str(made_by_triton) in trace.folders
    assert not made_by_triton.exists()
    assert traces_of(run) == []


@pytest.mark.parametrize("which", many([0], [0, 1, 2]))  # HTTP; gRPC and metrics
def test_a_port_that_was_taken_meanwhile_is_replaced(
    which: int, repository: Path, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[PortClaim] = []

    class Raced(PortClaim):
        """Its first ports include one that another program has just taken."""

        def __init__(self, count: int) -> None:
            super().__init__(count)
            if not claims:
                ports = list(self.ports)
                ports[which] = other.getsockname()[1]
                self.ports = tuple(ports)
            claims.append(self)

    monkeypatch.setattr(embedded, "PortClaim", Raced)
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        quick_server(repository, folder) as server,
    ):
        assert len(claims) == 2
        assert infer(server.endpoint, "x") == "x"
        assert other.getsockname()[1] not in claims[1].ports
    assert traces_of(run_of(folder)) == []


def test_a_start_that_was_too_slow_for_the_python_backend_is_tried_again(
    repository: Path, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: list[int] = []

    def as_if_slow(pid: int, endpoint: Endpoint) -> bool:
        if not slow:
            with folder.log.open("a") as log:
                log.write("terminate called after throwing 'boost::interprocess::lock_exception'\n")
            os.kill(pid, signal.SIGABRT)
            slow.append(pid)
            return False
        return serves(pid, endpoint)

    monkeypatch.setattr(embedded, "serves", as_if_slow)
    with quick_server(repository, folder) as server:
        assert server.pid not in slow
        assert infer(server.endpoint, "x") == "x"
    assert traces_of(run_of(folder)) == []


def test_two_servers_at_once_do_not_meet(
    repository: Path, folder: TrialFolder, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    second_folder = TrialFolder(tmp_path / "second")
    with (
        quick_server(repository, folder, "23.10") as first,
        quick_server(repository, second_folder) as second,
    ):
        os.kill(first.pid, signal.SIGSEGV)
        assert first.wait(30) == -11
        assert wait_until_gone(run_of(folder)) == []
        assert second.poll() is None
        assert infer(second.endpoint, "still here") == "still here"


def test_death_wakes_a_waiting_thread(repository: Path, folder: TrialFolder) -> None:
    with quick_server(repository, folder) as server:
        seen: list[int | None] = []
        waiting = threading.Thread(target=lambda: seen.append(server.wait(60)))
        waiting.start()
        os.kill(server.pid, signal.SIGKILL)
        waiting.join(30)
        assert seen == [-9]
        assert server.poll() == -9


@pytest.mark.parametrize("release", ["23.10", "24.10"])
def test_a_model_that_cannot_load_is_quoted_from_the_log(
    release: str, tmp_path: Path, folder: TrialFolder
) -> None:
    repository = write_model(tmp_path / "r", code="import a_module_that_is_not_there\n" + MODEL)
    server = server_of(release, repository, folder)
    with pytest.raises(ServerStartError, match="No module named 'a_module_that_is_not_there'"):
        server.start()
    assert traces_of(server._run.name) == []


def test_a_server_that_is_not_ready_in_time_is_stopped_and_said_so(
    tmp_path: Path, folder: TrialFolder
) -> None:
    repository = write_model(tmp_path / "r", code="import time\ntime.sleep(600)\n" + MODEL)
    server = server_of("24.10", repository, folder, ready_timeout_s=2.0)
    before = time.monotonic()
    with pytest.raises(ServerStartError, match="was not ready within 2 s"):
        server.start()
    assert time.monotonic() - before < 20
    assert traces_of(server._run.name) == []


def test_services_that_are_switched_off_have_no_port(repository: Path, folder: TrialFolder) -> None:
    options = ("--allow-metrics=false", "--allow-grpc=false", "--log-verbose=1")
    with server_of("24.10", repository, folder, *options) as server:
        assert server.endpoint.metrics_port is None
        assert server.endpoint.grpc_port is None
        assert infer(server.endpoint, "x") == "x"


def test_a_server_that_ends_once_it_is_ready_is_a_start_error(
    repository: Path, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready_and_dead(pid: int, _: object) -> bool:
        os.kill(pid, signal.SIGKILL)
        return server._process is not None and server._process.wait(30) == -9

    monkeypatch.setattr(embedded, "serves", ready_and_dead)
    server = quick_server(repository, folder)
    with pytest.raises(ServerStartError, match="ended as soon as it was ready"):
        server.start()
    assert traces_of(server._run.name) == []


def test_a_server_without_http_is_refused(repository: Path, folder: TrialFolder) -> None:
    with pytest.raises(SpecError, match="without HTTP"):
        server_of("24.10", repository, folder, "--allow-http=false")


def test_a_release_without_a_wheel_is_refused_before_anything_is_fetched(
    repository: Path, folder: TrialFolder
) -> None:
    with pytest.raises(UnknownReleaseError, match=r"23\.11-vllm-python-py3"):
        EmbeddedServer(get_release("23.11"), repository, folder)


def test_a_server_starts_once(repository: Path, folder: TrialFolder) -> None:
    server = quick_server(repository, folder)
    with pytest.raises(ServerStartError, match="without a process"):
        _ = server.pid
    assert server.poll() is None
    assert server.stop() is None
    with server, pytest.raises(ServerStartError, match="started before"):
        server.start()
    with pytest.raises(urllib.error.URLError):
        infer(server.endpoint, "x")
