"""Servers in containers, against an engine that runs nothing and says what a real one says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_api import EngineApi

import kit
from kit.errors import ContainerError, ServerStartError, SpecError
from kit.servers.container import ContainerServer
from kit.servers.container_engine import ContainerEngine, address_of
from kit.servers.container_image import ensure_image, image_of
from kit.servers.container_inside import versions_inside
from kit.servers.containers_left import note_container
from kit.servers.engine_errors import Asked, container_error
from kit.servers.runs import register, registered
from kit.servers.traces import remove, sweep
from kit.servers.vllm_repository import engine_arguments, write_vllm_repository
from kit.study.folder import TrialFolder
from kit.study.plan import plan
from kit.study.releases import get_release
from kit.study.spec import (
    Engine,
    EngineKind,
    Protocol,
    ServerKind,
    ServerSpec,
    StudySpec,
    TrialSpec,
    Workload,
)

IMAGE = "tritonserver:test"


@pytest.fixture(autouse=True)
def own_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    yield
    for run in registered():
        run.forget()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineApi]:
    with EngineApi(tmp_path) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine


def repository(into: Path) -> Path:
    (into / "simulated/1").mkdir(parents=True)
    (into / "simulated/1/model.py").write_text("# a model")
    return into


def server_of(tmp_path: Path, **fields: Any) -> ContainerServer:
    spec = ServerSpec(kind=ServerKind.CONTAINER, **{"image": IMAGE, **fields})
    trial = TrialSpec(trial_id="t", server=spec, scenario="control", model="simulated")
    folder = TrialFolder.create(tmp_path / "trial", trial)
    return ContainerServer(spec, repository, folder, ready_timeout_s=20.0)


@pytest.mark.slow
def test_a_container_is_made_as_asked_followed_and_removed(api: EngineApi, tmp_path: Path) -> None:
    asked = {"memory": "2g", "ulimits": ("nofile=1024:4096",), "server_args": ("--log-verbose=1",)}
    server = server_of(tmp_path, release="24.08", **asked)
    endpoint = server.start()
    [run] = registered()
    made = api.created
    assert made["Labels"] == {"triton-crash-kit.run": run.name}
    assert f"TRITON_CRASH_KIT_RUN={run.name}" in made["Env"]
    assert made["Cmd"][0] == "tritonserver"
    assert made["Cmd"][-1] == "--log-verbose=1"
    host = made["HostConfig"]
    assert host["Init"] is True
    assert host["Memory"] == host["MemorySwap"] == 2 << 30
    assert host["ShmSize"] == 1 << 30
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]
    assert {b["HostIp"] for [b] in host["PortBindings"].values()} == {"127.0.0.1"}
    assert "models/simulated/1/model.py" in api.copied
    assert str(endpoint.http_port) == api.ports()["8000/tcp"][0]["HostPort"]
    assert server.versions["triton"] == "2.51.0"  # what the server says
    assert server.versions["vllm"] == "0.5.5"  # what the image has
    assert server.versions["vllm-of-release"] == get_release("24.08").vllm
    assert server.sees_exit
    assert server.end() is None

    api.end(139)
    end = server.end(20.0)
    assert end is not None
    assert end.exit_code == -11
    server.stop()
    folder = TrialFolder(tmp_path / "trial")
    assert folder.log.read_bytes() == api.log
    assert "tritonserver" in folder.maps.read_text()
    assert json.loads(folder.server.read_text())["image"] == IMAGE
    assert not api.containers
    assert not registered()


@pytest.mark.slow
@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (137, -9), (134, -6), (255, 255)])
def test_an_exit_is_told_as_of_an_embedded_server(
    api: EngineApi, tmp_path: Path, code: int, seen: int
) -> None:
    server = server_of(tmp_path)
    server.start()
    api.end(code, oom_killed=code == 137)
    end = server.end(20.0)
    assert end is not None
    assert end.exit_code == seen
    if code == 137:
        assert server.out_of_memory()
    server.stop()


@pytest.mark.slow
def test_what_the_kit_stops_has_not_ended_by_itself(api: EngineApi, tmp_path: Path) -> None:
    server = server_of(tmp_path)
    server.start()
    server.stop(patience_s=0.0)
    assert server.end() is None
    assert not api.containers


@pytest.mark.slow
def test_a_process_of_that_number_that_is_not_the_container_s_is_not_watched(
    api: EngineApi, tmp_path: Path
) -> None:
    api.pid = os.getpid()  # as of an engine in a virtual machine
    server = server_of(tmp_path)
    server.start()
    assert server.pid is None
    server.stop()


@pytest.mark.slow
def test_a_lost_engine_is_no_end_of_the_server(api: EngineApi, tmp_path: Path) -> None:
    server = server_of(tmp_path)
    server.start()
    os.unlink(api.path)
    api.shutdown()
    api.server_close()
    api.refuse["start"] = (0, "")
    api.state = None  # type: ignore[assignment]  # the handler breaks: the connection is cut
    api.ended.set()
    end = server.end(20.0)
    assert end is not None
    assert end.lost
    assert end.exit_code is None
    server.stop()
    assert registered(), "its container may still be there, so its run stays on the register"


SAID = {
    "no such tag": ("pull", 404, "manifest for x/y:9 not found: manifest unknown", "no image"),
    "no registry": ("pull", 500, "dial tcp: lookup nvcr.io: no such host", "docker save"),
    "login": (
        "pull",
        404,
        "pull access denied for x, repository does not exist or may require 'docker login'",
        "docker login",
    ),
    "unauthorized": ("pull", 500, "unauthorized: authentication required", "docker login"),
    "other processor": (
        "pull",
        404,
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
        "another processor",
    ),
    "disk": ("copy", 500, "write /models: no space left on device", "docker system df"),
    "no GPU runtime": (
        "start",
        500,
        'could not select device driver "" with capabilities: [[gpu]]',
        "NVIDIA container toolkit",
    ),
    "port": (
        "start",
        500,
        "driver failed programming external connectivity: Bind for "
        "127.0.0.1:8000 failed: port is already allocated",
        "try again",
    ),
    "limit": (
        "start",
        500,
        "OCI runtime create failed: error setting rlimit type 8: operation not permitted",
        "ulimits=",
    ),
    "exec format": ("start", 400, "exec /usr/bin/tini: exec format error", "another processor"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("step", "status", "said", "hint"), SAID.values(), ids=SAID)
def test_what_an_engine_refuses_is_an_error_with_a_hint_and_leaves_nothing(
    api: EngineApi, tmp_path: Path, step: str, status: int, said: str, hint: str
) -> None:
    api.refuse[step] = status, said
    given: dict[str, Any] = {"image": "x/y:9"} if step == "pull" else {}
    with pytest.raises(ContainerError, match=hint) as caught:
        server_of(tmp_path, gpus="0,1", **given).start()
    assert said[:20] in caught.value.given
    assert not api.containers
    assert not registered()


@pytest.mark.slow
def test_an_error_in_the_middle_of_a_pull_is_told(api: EngineApi, tmp_path: Path) -> None:
    api.pull_events = [{"status": "Pulling"}, {"error": "write layer: no space left on device"}]
    with pytest.raises(ContainerError, match="no room for x/y:9"):
        server_of(tmp_path, image="x/y:9").start()


@pytest.mark.slow
def test_a_pull_tells_how_far_it_is_and_stops_before_the_disk_is_full(api: EngineApi) -> None:
    def layer(done: int, total: int) -> dict[str, Any]:
        detail = {"current": done, "total": total}
        return {"id": "a", "status": "Downloading", "progressDetail": detail}

    api.pull_events = [layer(2 * 10**8, 4 * 10**8), {"id": "a", "status": "Download complete"}]
    lines: list[str] = []
    engine = ContainerEngine(address_of(None, os.environ), None)
    ensure_image(engine, "x/y:1", lines.append)
    assert lines == ["pulling x/y:1: 0.2 of 0.4 GB", "pulling x/y:1: 0.4 of 0.4 GB"]
    api.pull_events = [layer(0, 10**15)]
    with pytest.raises(ContainerError, match=r"1000000\.0 GB to download"):
        ensure_image(engine, "x/y:2")


@pytest.mark.slow
def test_an_image_for_another_processor_is_refused_before_it_runs(
    api: EngineApi, tmp_path: Path
) -> None:
    api.images[IMAGE] = "arm64"
    with pytest.raises(ContainerError, match="it is for arm64, the engine's machine is amd64"):
        server_of(tmp_path).start()
    assert not any("create" in path for path in api.asked)


@pytest.mark.slow
def test_a_request_for_gpus_that_an_engine_drops_in_silence_is_found_out(
    api: EngineApi, tmp_path: Path
) -> None:
    with pytest.raises(ContainerError, match="podman drops the request"):
        server_of(tmp_path, gpus="all").start()
    assert not api.containers


@pytest.mark.slow
def test_gpus_are_asked_for_by_index_and_uuid(api: EngineApi, tmp_path: Path) -> None:
    api.has_gpu = True
    server = server_of(tmp_path, gpus="0,GPU-12ab")
    server.start()
    [request] = api.created["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["0", "GPU-12ab"]
    server.stop()


@pytest.mark.slow
def test_a_server_that_ends_at_its_start_says_why(api: EngineApi, tmp_path: Path) -> None:
    api.log = b"E0101 12:00:00 1 model.cc] failed to load 'simulated': no such file\n"
    api.end(1)
    with pytest.raises(ServerStartError, match="failed to load 'simulated'"):
        server_of(tmp_path).start()
    assert not registered()


def test_no_engine_and_no_permission_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ContainerError, match="systemctl start docker"):
        server_of(tmp_path).start()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refused)
    with pytest.raises(ContainerError, match="usermod -aG docker"):
        server_of(tmp_path).start()
    assert not registered()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ssh://me@gpu1", "ssh://me@gpu1"),
        ("ssh://gpu1:2222/run/user/7/podman/podman.sock",) * 2,
        ("unix:///run/x.sock", "unix:///run/x.sock"),
    ],
)
def test_an_engine_has_one_address(given: str, url: str) -> None:
    assert address_of(given, {}).url == url
    assert address_of(None, {"DOCKER_HOST": given}).url == url


@pytest.mark.parametrize(
    "given", ["tcp://gpu1:2375", "ssh://-oProxyCommand=x", "ssh://a:b@c", "unix://x", "gpu1"]
)
def test_what_is_no_address_of_an_engine_is_refused(given: str) -> None:
    with pytest.raises(SpecError, match="ssh://USER@HOST"):
        address_of(given, {})


@pytest.mark.slow
def test_a_sweep_removes_the_container_of_a_dead_owner(api: EngineApi) -> None:
    run = register()
    note_container(run.record, api.url)
    api.containers = {f"tck-{run.name}": run.name, "somebody-elses": "another"}
    assert not [trace for trace in sweep() if trace.run == run.name]  # its owner lives
    trace = remove(run)
    assert trace.containers == (f"tck-{run.name}",)
    assert list(api.containers) == ["somebody-elses"]
    assert not registered()


def test_a_run_whose_engine_does_not_answer_stays_on_the_register(tmp_path: Path) -> None:
    run = register()
    note_container(run.record, f"unix://{tmp_path}/none.sock")
    assert remove(run).unreached
    assert [left.name for left in registered()] == [run.name]


@pytest.mark.parametrize("said", [b"", b"[1]", b"[" * 100_000, b'{"vllm": "0.5"} and more'])
def test_an_image_that_tells_no_versions_tells_none(said: bytes) -> None:
    done = SimpleNamespace(exit_code=0, output=(said, None))
    container = SimpleNamespace(exec_run=lambda command, *, demux: done)
    assert versions_inside(container) == {}


def test_unknown_words_of_an_engine_are_quoted() -> None:
    error = container_error("the moon is full", Asked(engine="unix:///x"))
    assert "the moon is full" in error.given


def test_the_official_image_is_the_one_with_vllm() -> None:
    assert image_of(kit.container("24.08")) == "nvcr.io/nvidia/tritonserver:24.08-vllm-python-py3"
    assert image_of(kit.container("24.08", image="mine:1")) == "mine:1"


def test_a_vllm_repository_has_the_layout_of_the_official_backend(tmp_path: Path) -> None:
    server = kit.container("24.10", model="some/model", engine_args={"max_model_len": 512})
    write_vllm_repository(server, tmp_path)
    arguments = json.loads((tmp_path / "vllm_model/1/model.json").read_text())
    assert arguments["model"] == "some/model"
    assert arguments["max_model_len"] == 512
    assert arguments["disable_log_stats"] is False
    config = (tmp_path / "vllm_model/config.pbtxt").read_text()
    assert 'backend: "vllm"' in config
    assert "REPORT_CUSTOM_METRICS" in config


@pytest.mark.slow
def test_each_generation_gets_the_arguments_that_its_vllm_knows(tmp_path: Path) -> None:
    old = engine_arguments(kit.container("23.11", model="m"))
    assert old["disable_log_requests"] is True  # else a line a request, the prompt in it
    newest = list(kit.releases()["release"])[-1]
    assert "disable_log_requests" not in engine_arguments(kit.container(newest, model="m"))
    write_vllm_repository(kit.container("23.11", model="m"), tmp_path)
    assert "METRICS" not in (tmp_path / "vllm_model/config.pbtxt").read_text()


def test_a_model_that_is_a_folder_is_served_from_where_the_container_has_it(tmp_path: Path) -> None:
    assert engine_arguments(kit.container("24.10", model=str(tmp_path)))["model"] == "/weights"


def study(*servers: ServerSpec, engine: EngineKind = EngineKind.SIMULATED) -> StudySpec:
    return StudySpec(
        name="x",
        servers=servers,
        engines=(Engine(kind=engine),),
        workload=Workload(protocol=Protocol.GRPC_STREAM),
        repeats=1,
    )


def test_containers_and_embedded_servers_may_be_in_one_study() -> None:
    trials = plan(study(ServerSpec(release="24.05"), kit.container("25.10")))
    assert [trial.server.kind.value for trial in trials] == ["embedded", "container"]
    assert {trial.model for trial in trials} == {"simulated"}
    with pytest.raises(SpecError, match="make two studies"):
        plan(study(ServerSpec(release="24.05"), kit.container("24.05")))


def test_a_model_in_a_container_is_served_by_the_images_own_vllm() -> None:
    server = kit.container("25.10", model="some/model")
    [trial] = plan(study(server, engine=EngineKind.VLLM))
    assert trial.model == "vllm_model"
    assert trial.ready_timeout_s > 600
    with pytest.raises(SpecError, match="'simulated' in a container"):
        plan(study(server))
