"""A server on another machine whose link is cut in the middle of a run; it lives all the while.

The other machine is a network namespace with a cable of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lacks import lacks

import kit
from kit.runner.study import StudyProgress
from kit.study.result import Outcome

#: Answers whatever is asked, after 20 ms; it stands for a server of somebody else's.
SERVER = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(404 if self.path == "/metrics" else 200, b"")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        self.answer(200, b'{"text_output": "an answer of four words"}')
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@pytest.fixture
def cable() -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """The other machine's namespace and address, and the server's process."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        lacks("root and `ip`, for a network namespace")
    name = f"kitcut{os.getpid()}"
    end, number = f"kc{os.getpid() % 100_000}", 1 + os.getpid() % 250
    here, there = f"10.97.{number}.1", f"10.97.{number}.2"
    with ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
        _ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{here}/30", "dev", end)
        _ip("link", "set", end, "up")
        for words in (("addr", "add", f"{there}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("netns", "exec", name, "ip", *words)
        server = subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", SERVER])
        stack.callback(server.wait)
        stack.callback(server.kill)
        yield name, there, server


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.mark.slow
def test_a_cut_link_is_told_from_a_crash_and_what_was_true_until_then_stays(
    cable: tuple[str, str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    machine, address, server = cable
    url = f"http://{address}:8000"
    _until_it_answers(url)
    cut: list[float] = []

    def cut_once(progress: StudyProgress) -> None:
        if not cut and any(trial.ended >= 100 for trial in progress.running):
            _ip("-n", machine, "link", "set", "eth0", "down")
            cut.append(time.monotonic())

    study = kit.run(
        kit.attach(url, model="m"),
        workload=kit.Workload(concurrency=4, requests=10_000, timeout_s=5.0),
        repeats=1,
        folder=tmp_path / "study",
        progress=cut_once,
        yes=True,
        most_minutes=3,
    )
    [verdict] = study.trials["verdict"]
    [reason] = study.trials["reason"]
    assert cut
    assert verdict == "answers_stopped", reason
    assert "nothing is known of its process" in reason
    assert server.poll() is None, "it lives"
    rows = study.requests
    well = rows[rows["outcome"] == Outcome.OK]
    assert len(well) >= 100
    assert not study.trials["signature"].notna().any()
    _ip("-n", machine, "link", "set", "eth0", "up")
    _until_it_answers(url)


def _until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 60.0
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
