"""Servers that somebody else started: reached by URL, watched from outside, never stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from kit.errors import SpecError
from kit.report.page import write_report
from kit.runner.study import run_study
from kit.servers.attached import AttachedServer, endpoint_of
from kit.servers.base import Access
from kit.servers.embedded import EmbeddedServer
from kit.servers.ports import PortClaim
from kit.servers.repository import build_repository
from kit.stats.frames import requests_frame, samples_frame, trials_frame
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.releases import get_release
from kit.study.result import Verdict
from kit.study.spec import (
    Endpoint,
    Protocol,
    ServerKind,
    ServerSpec,
    TrialSpec,
    Workload,
)
from kit.ui.choices import choose

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


def wait_until_answered(process: subprocess.Popen[str]) -> None:
    """Until the progress tells of requests that have ended."""
    assert process.stderr is not None
    while not re.search(r": [1-9][\d,]* requests", process.stderr.readline()):
        assert process.poll() is None


@pytest.mark.slow
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
    frame = requests_frame(tmp_path / "study")
    assert len(frame) == 80
    per_s = found["token_events_per_s"] / found["ok_per_s"]
    assert per_s == pytest.approx(frame["tokens"].mean())


@pytest.mark.slow
def test_an_open_loop_counts_from_the_due_time(server: Endpoint, tmp_path: Path) -> None:
    done = load(
        *(f"grpc://127.0.0.1:{server.grpc_port}", "--model", "simulated"),
        *("--protocol", "grpc-stream", "--rate", 40, "--requests", 60, "--out", tmp_path / "s"),
    )
    assert done.returncode == 0, done.stderr
    assert "60 of 60 requests answered well" in done.stdout
    assert "token events a second" in done.stdout
    assert "e2e ms from the due time" in done.stdout


@pytest.mark.slow
def test_a_server_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    with PortClaim(1) as claim:  # claimed by us, so nobody listens
        done = load(
            *(f"http://127.0.0.1:{claim.ports[0]}", "--model", "m", "--requests", 20),
            *("--concurrency", 4, "--out", tmp_path / "s"),
        )
    assert done.returncode == 4
    assert "0 of 20 requests answered well" in done.stdout
    assert "is the server up" in done.stderr
    assert "refused" in done.stdout
    assert "never" in done.stdout


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://127.0.0.1:8000/v1", Protocol.HTTP_GENERATE),
        ("http://user@127.0.0.1:8000", Protocol.HTTP_GENERATE),
        ("127.0.0.1:8000", Protocol.HTTP_GENERATE),
        ("http://127.0.0.1:99999", Protocol.HTTP_GENERATE),
        ("http://a..b:80", Protocol.HTTP_GENERATE),
        (f"grpc://{64 * 'a'}.test", Protocol.GRPC_STREAM),
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


@pytest.mark.slow
def test_what_was_recorded_is_never_overwritten(server: Endpoint, tmp_path: Path) -> None:
    words = (f"http://127.0.0.1:{server.http_port}", "--model", "simulated", "--requests", 4)
    assert load(*words, "--out", tmp_path / "s").returncode == 0
    again = load(*words, "--out", tmp_path / "s")
    assert again.returncode != 0
    assert "already" in again.stderr
    assert len(requests_frame(tmp_path / "s")) == 4


@pytest.mark.slow
def test_a_server_that_dies_in_mid_load_stopped_answering(tmp_path: Path) -> None:
    spec = TrialSpec(
        trial_id="s", server=ServerSpec(release="24.05"), scenario="control", model="simulated"
    )
    repository = build_repository(spec, tmp_path / "repository")
    folder = TrialFolder.create(tmp_path / "trial", spec)
    with EmbeddedServer(get_release("24.05"), repository, folder) as up:
        words = (f"http://127.0.0.1:{up.endpoint.http_port}", "--model", "simulated")
        metrics = f"http://127.0.0.1:{up.endpoint.metrics_port}/metrics"
        with subprocess.Popen(
            command(*words, "--duration-s", 90, "--metrics-url", metrics, "--out", tmp_path / "s"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until_answered(process)
            os.kill(up.pid, signal.SIGKILL)
            out, _ = process.communicate(timeout=80)
    assert process.returncode == 3
    assert out.startswith("The server stopped answering")
    assert "requests sent until then were" in " ".join(out.split())
    assert "until then:\n" in out
    assert "e2e ms" in out
    study = StudyFolder(tmp_path / "s")
    (row,) = trials_frame(study).to_dict("records")
    assert row["verdict"] == Verdict.ANSWERS_STOPPED
    assert row["crashed"]
    assert row["release"] == f"127.0.0.1:{up.endpoint.http_port}"
    assert 0 < row["time_to_death_s"] < 80
    assert "stopped answering" in row["reason"]
    assert "nothing is known of its process" in row["reason"]
    assert (samples_frame(study)["source"] == "triton_metrics").any()
    page = write_report(study, tmp_path / "reports")
    assert "stopped answering" in page.read_text()


@pytest.mark.slow
def test_trials_that_share_a_server_run_one_after_the_other(
    server: Endpoint, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{server.http_port}"
    spec = choose(
        ServerSpec(kind=ServerKind.ATTACHED, url=url, model="simulated"),
        workload=Workload(requests=20),
        name="t",
        repeats=2,
        concurrency=[1, 4],
    )
    study = run_study(spec, tmp_path / "s", parallel=4)
    results = [result for trial in study.trials() if (result := trial.result)]
    spans = sorted((result.started_ns, result.ended_ns) for result in results)
    assert len(spans) == 4
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


@pytest.mark.slow
def test_a_server_that_was_never_reached_is_our_side_s_fault(tmp_path: Path) -> None:
    with PortClaim(1) as claim:
        url = f"http://127.0.0.1:{claim.ports[0]}"
        server = ServerSpec(kind=ServerKind.ATTACHED, url=url, model="m")
        spec = choose(server, workload=Workload(requests=8), name="t", repeats=1)
        study = run_study(spec, tmp_path / "s", parallel=1)
    (row,) = trials_frame(study).to_dict("records")
    assert row["verdict"] == Verdict.CLIENT_FAULT
    assert "never reached" in row["reason"]
    assert not study.finished


class _Asked(BaseHTTPRequestHandler):
    """Answers every GET, and keeps what it was asked with."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_probes_carry_the_token_and_nothing_stores_it(tmp_path: Path) -> None:
    _Asked.seen.clear()
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(kind=ServerKind.ATTACHED, model="m", url="http://127.0.0.1"),
        scenario="workload",
        model="m",
    )
    folder = TrialFolder.create(tmp_path / "t", spec)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Asked) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}"
        access = Access(headers=(("Authorization", "Bearer s3cret-token"),))
        attached = AttachedServer(
            ServerSpec(kind=ServerKind.ATTACHED, model="m", url=url),
            Protocol.HTTP_GENERATE,
            folder,
            access=access,
        )
        attached.start()
        assert attached.end() is None
        attached.stop()
        http.shutdown()
    assert ("/v2/health/ready", "Bearer s3cret-token") in _Asked.seen
    assert "s3cret" not in repr(access)
    assert all("s3cret" not in path.read_text() for path in folder.path.iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_the_traffic_and_keeps_what_was_recorded(
    server: Endpoint, tmp_path: Path
) -> None:
    words = (f"http://127.0.0.1:{server.http_port}", "--model", "simulated", "--duration-s", 60)
    process = subprocess.Popen(
        command(*words, "--out", tmp_path / "s"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until_answered(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None
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
