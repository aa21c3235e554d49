"""The load generator by itself, against a server that somebody else started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kit.errors import SpecError, StoreError
from kit.runner.loadtest import endpoint_of, run_load
from kit.servers.embedded import EmbeddedServer
from kit.servers.ports import PortClaim
from kit.servers.repository import build_repository
from kit.stats.frames import requests_frame, trials_frame
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, Protocol, ServerSpec, TrialSpec, Workload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    path = tmp_path_factory.mktemp("server")
    spec = TrialSpec(
        trial_id="s", server=ServerSpec(release="24.05"), scenario="control", model="simulated"
    )
    folder = TrialFolder.create(path / "trial", spec)
    repository = build_repository(spec, path / "repository")
    with EmbeddedServer(get_release("24.05"), repository, folder) as up:
        yield up.endpoint


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "kit", "load", *map(str, words)]


def load(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_answers_of_a_running_server_are_checked_and_timed(
    server: Endpoint, tmp_path: Path
) -> None:
    done = load(
        *(
            f"http://127.0.0.1:{server.http_port}",
            "--model",
            "simulated",
            "--answer-check",
            "exact",
        ),
        *("--protocol", "http-generate-stream", "--requests", 80, "--output-tokens", "4:12"),
        *("--out", tmp_path / "study", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcomes"] == [{"outcome": "ok", "cause": None, "requests": 80}]
    rows = {(row["measure"], row["quantile"]): row for row in found["latencies"]}
    assert 0 < rows["TTFT ms", 0.5]["ms"] < rows["e2e ms", 0.5]["ms"]
    assert rows["e2e ms", 0.99]["ms"] is None
    assert "80 requests" in rows["e2e ms", 0.99]["lacks"]
    assert len(requests_frame(tmp_path / "study")) == 80


def test_an_open_loop_counts_from_the_due_time(server: Endpoint, tmp_path: Path) -> None:
    done = load(
        *(f"grpc://127.0.0.1:{server.grpc_port}", "--model", "simulated"),
        *("--protocol", "grpc-stream", "--rate", 40, "--requests", 60, "--out", tmp_path / "s"),
    )
    assert done.returncode == 0, done.stderr
    assert "60 of 60 requests answered well" in done.stdout
    assert "e2e ms from the due time" in done.stdout


def test_a_server_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    with PortClaim(1) as claim:  # claimed by us, so nobody listens
        done = load(
            *(f"http://127.0.0.1:{claim.ports[0]}", "--model", "m", "--requests", 20),
            *("--concurrency", 4, "--out", tmp_path / "s"),
        )
    assert done.returncode == 4
    assert "0 of 20 requests answered well" in done.stdout
    assert "refused" in done.stdout
    assert "never" in done.stdout


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://127.0.0.1:8000/v1", Protocol.HTTP_GENERATE),
        ("http://user@127.0.0.1:8000", Protocol.HTTP_GENERATE),
        ("127.0.0.1:8000", Protocol.HTTP_GENERATE),
        ("http://127.0.0.1:99999", Protocol.HTTP_GENERATE),
        ("http://127.0.0.1:8001", Protocol.GRPC_STREAM),
    ],
)
def test_an_address_that_cannot_be_meant_is_a_named_error(url: str, protocol: Protocol) -> None:
    with pytest.raises(SpecError, match="HOST:PORT"):
        endpoint_of(url, protocol)


def test_schemes_say_port_and_tls() -> None:
    assert endpoint_of("http://[::1]", Protocol.OPENAI_CHAT) == Endpoint(host="::1", http_port=8000)
    assert endpoint_of("grpcs://a.test", Protocol.GRPC_INFER) == Endpoint(
        host="a.test", grpc_port=443, tls=True
    )


def test_what_was_recorded_is_never_overwritten(server: Endpoint, tmp_path: Path) -> None:
    few = Workload(requests=4)
    run_load(few, server, "simulated", tmp_path / "s")
    with pytest.raises(StoreError, match="already"):
        run_load(few, server, "simulated", tmp_path / "s")
    assert len(requests_frame(tmp_path / "s")) == 4


def test_ctrl_c_ends_the_traffic_and_keeps_what_was_recorded(
    server: Endpoint, tmp_path: Path
) -> None:
    words = (f"http://127.0.0.1:{server.http_port}", "--model", "simulated", "--duration-s", 60)
    process = subprocess.Popen(
        command(*words, "--out", tmp_path / "s"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while " ok " not in (line := process.stderr.readline()) or " 0 ok " in line:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stderr.close()
    (row,) = trials_frame(StudyFolder(tmp_path / "s")).to_dict("records")
    assert row["verdict"] == "interrupted"
    assert len(requests_frame(tmp_path / "s")) > 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (left := _about(tmp_path)):
        time.sleep(0.05)
    assert left == []


def _about(path: Path) -> list[psutil.Process]:
    everyone = psutil.process_iter(["cmdline"])
    return [p for p in everyone if any(str(path) in word for word in p.info["cmdline"] or ())]
