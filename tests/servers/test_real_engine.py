"""Servers in containers of a real engine, with the real servers of two releases in its images."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import real_sshd
from effort import many
from lacks import lacks
from real_engine import RealEngine, wait_until_up
from server_helpers import infer, write_model

import kit
from kit.errors import ContainerError
from kit.runner.study import StudyProgress
from kit.servers.container import ContainerServer
from kit.servers.container_engine import ContainerEngine, address_of
from kit.servers.containers_left import note_container
from kit.servers.runs import registered
from kit.servers.traces import remove
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, ServerKind, ServerSpec, TrialSpec

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(r, "text_input") for r in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("text_output", one.as_numpy())])
            for one in given
        ]
"""
NOBODY = 65534


@pytest.fixture(autouse=True)
def engine(real_engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealEngine]:
    monkeypatch.setenv("DOCKER_HOST", real_engine.url)
    # The tests count its containers, and pytest's other processes have the same engine.
    with (Path(real_engine.folder) / "in-use").open("w") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        before = {run.name for run in registered()}
        yield real_engine
        left = [run for run in registered() if run.name not in before and is_ours(run)]
        for run in left:
            remove(run)
        assert not left, "a run stayed on the register"


def is_ours(run: Any) -> bool:
    return run.owner is not None and run.owner.pid == os.getpid()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., ContainerServer]]:
    """Makes servers in containers, not started yet; each is stopped at the end."""
    with ExitStack() as stack:

        def make(**fields: Any) -> ContainerServer:
            spec = ServerSpec(kind=ServerKind.CONTAINER, **{"release": "24.05", **fields})
            trial = TrialSpec(trial_id="t", server=spec, scenario="control", model="tiny")
            folder = TrialFolder.create(tmp_path / f"trial{len(list(tmp_path.iterdir()))}", trial)
            made = ContainerServer(
                spec, lambda into: write_model(into, code=ECHO), folder, ready_timeout_s=240.0
            )
            stack.callback(made.stop, patience_s=0.0)
            return made

        yield make


def containers(engine: RealEngine) -> list[str]:
    import docker

    client = docker.DockerClient(base_url=engine.url)
    try:
        return [one.name for one in client.containers.list(all=True, ignore_removed=True)]
    finally:
        client.close()


def test_the_reported_crash_has_the_same_signature_in_a_container(
    engine: RealEngine, tmp_path: Path
) -> None:
    def crash_of(*servers: Any) -> Any:
        study = kit.run(
            list(servers),
            scenario="cancel-race",
            requests=100,
            repeats=1,
            folder=tmp_path / servers[0].kind.value,
            progress=False,
        )
        return study.trials.set_index("release")

    embedded = crash_of(ServerSpec(release="24.10"))
    contained = crash_of(kit.container("24.10"), kit.container("24.05"))
    assert contained.verdict["24.10"] == embedded.verdict["24.10"] == "crashed"
    assert contained.exit_code["24.10"] == embedded.exit_code["24.10"] == -signal.SIGSEGV
    assert contained.signature["24.10"] == embedded.signature["24.10"]
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in contained.signature["24.10"]
    assert contained.triton["24.10"] == embedded.triton["24.10"]
    assert contained.verdict["24.05"] == "survived"
    assert not containers(engine)


def test_a_kill_from_outside_is_seen_at_once_and_leaves_nothing(
    engine: RealEngine, server: Callable[..., ContainerServer]
) -> None:
    one = server()
    endpoint = one.start()
    assert infer(endpoint, "an answer") == "an answer"
    assert one.versions["triton"] == "2.46.0"
    assert one.pid is not None, "its process is one of this machine's"
    process = psutil.Process(one.pid)
    assert process.name() == "tritonserver"
    process.kill()
    end = one.end(60.0)
    assert end is not None
    assert end.exit_code == -signal.SIGKILL
    assert not one.out_of_memory()
    one.stop()
    assert not containers(engine)


def test_a_server_that_outgrows_its_memory_limit_ran_out_of_memory(
    server: Callable[..., ContainerServer],
) -> None:
    one = server(memory="600m", shm="64m")
    send_without_end(one.start(), 2000 << 20)
    end = one.end(60.0)
    assert end is not None
    assert end.exit_code == -signal.SIGKILL
    assert one.out_of_memory()


def send_without_end(endpoint: Endpoint, size: int) -> None:
    """A request whose body the server keeps until it is whole, which it never is."""
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    piece = b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", endpoint.http_port or 0)) as connection:
        connection.sendall(head.encode())
        try:
            for _ in range(size // len(piece) - 1):
                connection.sendall(piece)
        except OSError:
            return


def test_a_stop_unloads_the_models_and_ports_that_are_taken_are_named(
    engine: RealEngine, server: Callable[..., ContainerServer], tmp_path: Path
) -> None:
    one = server()
    endpoint = one.start()
    [name] = containers(engine)
    first = endpoint.http_port or 0
    with ExitStack() as held:
        for port in range(first - 50, first + 50):  # the engine tries some ten, one after another
            holder = held.enter_context(socket.socket())
            try:
                holder.bind(("127.0.0.1", port))
                holder.listen()
            except OSError:
                continue
        with pytest.raises(ContainerError, match=r"a port that the engine chose .* is taken"):
            server().start()
    assert containers(engine) == [name]
    one.stop(patience_s=60.0)
    assert one.end() is None, "what the kit stops has not ended by itself"
    assert not containers(engine)
    [log] = (path for path in tmp_path.glob("*/server.log") if path.stat().st_size)
    assert "unloading models" in log.read_text()


REFUSED = {
    "GPUs": ({"gpus": "all"}, "could not select device driver.*install the NVIDIA container"),
    "a limit": ({"ulimits": ("nofile=99999999999",)}, "setting rlimit.*lower what was given"),
    "little memory": ({"memory": "4m"}, "Minimum memory limit.*lower what was given"),
    "no registry": ({"image": "127.0.0.1:1/none:1"}, "connection refused.*docker save"),
    "no name": ({"image": "BAD//name"}, "invalid reference format.*check the tag"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_real_engine_refuses_has_its_words_and_a_hint(
    engine: RealEngine, server: Callable[..., ContainerServer], fields: Any, words: str
) -> None:
    with pytest.raises(ContainerError, match=f"(?s){words}"):
        server(**fields).start()
    assert not containers(engine)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "MANIFEST_UNKNOWN", "there is no image .*check the tag"),
        (401, "UNAUTHORIZED", "docker login"),
    ],
)
def test_what_a_registry_refuses_has_a_hint(
    server: Callable[..., ContainerServer], status: int, code: str, words: str
) -> None:
    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"errors": [{"code": "%b", "message": "not for you"}]}' % code.encode()
            is_root = self.path == "/v2/"
            self.send_response(200 if is_root and status == 404 else status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    registry = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ContainerError, match=words):
            server(image=f"127.0.0.1:{registry.server_port}/triton:9").start()
    finally:
        registry.shutdown()
        registry.server_close()


def test_a_user_without_permission_is_told_so(engine: RealEngine) -> None:
    address = address_of(engine.url, {})
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "no error"
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            ContainerEngine(address, None)
        except BaseException as error:  # noqa: BLE001 (the test reads it)
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        said = answer.read()
    assert "no permission to use the container engine" in said
    assert "usermod -aG docker" in said


@pytest.mark.alone  # the other tests' containers would end as well
@pytest.mark.parametrize("number", many([signal.SIGKILL], [signal.SIGKILL, signal.SIGTERM]))
def test_an_engine_that_ends_during_a_trial_is_no_crash_of_the_server(
    engine: RealEngine, tmp_path: Path, number: signal.Signals
) -> None:
    ended = []

    def end_engine(progress: StudyProgress) -> None:
        if not ended and any(trial.phase == "loading" for trial in progress.running):
            pid = int(engine.pid_file.read_text())
            ended.append(pid)
            handle = os.pidfd_open(pid)
            os.kill(pid, number)
            select.select([handle], [], [], 60.0)
            os.close(handle)

    study = kit.run(
        kit.container("24.05"),
        scenario="control",
        requests=100_000,
        repeats=1,
        folder=tmp_path / "study",
        progress=end_engine,
    )
    assert ended
    [verdict], [reason] = study.trials.verdict, study.trials.reason
    assert verdict in ("client_fault", "interrupted"), reason
    assert not study.trials.crashed.any()
    wait_until_up(engine)
    for run in registered():  # what `kit clean` does once the trial's process is gone
        if run.owner is not None and not psutil.pid_exists(run.owner.pid):
            remove(run)
    assert not containers(engine)


def test_a_lost_tunnel_is_no_crash_of_a_server_that_lives(
    engine: RealEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what := real_sshd.missing():
        lacks(what)
    folder = tmp_path / "ssh"
    folder.mkdir()
    with real_sshd.RealSshd(folder) as sshd:
        monkeypatch.setenv("PATH", f"{sshd.programs}{os.pathsep}{os.environ['PATH']}")
        ended: list[int] = []

        def cut(progress: StudyProgress) -> None:
            if not ended and any(trial.ended for trial in progress.running):
                ended.extend(trial.ended for trial in progress.running)
                sshd.cut()

        study = kit.run(
            kit.container("24.05", host=f"ssh://{sshd.destination}{engine.socket}"),
            scenario="control",
            requests=100_000,
            repeats=1,
            folder=tmp_path / "study",
            progress=cut,
        )
    assert ended, "requests went through the tunnel and were answered"
    [verdict], [reason] = study.trials.verdict, study.trials.reason
    assert verdict == "client_fault"
    assert reason.startswith("The way to the server was lost after ")
    assert "ssh" in reason
    [name] = containers(engine)  # nobody could stop it; it is on the register for `kit clean`
    [run] = [run for run in registered() if name == f"tck-{run.name}"]
    note_container(run.record, engine.url)  # the same engine, by a way that is open
    assert remove(run).containers == (name,)
    assert not containers(engine)
