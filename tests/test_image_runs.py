"""The image is built and run by the tests' own engine: JupyterLab answers, a server crashes inside.

In `make test-long` alone: it takes minutes and 2 GB. No registry is asked: the base is Debian 12's
smallest root, made here, with this machine's certificates.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from debian_packages import missing_for_packages
from effort import LONG
from lacks import lacks

from kit.servers.apt import system_mirror

if TYPE_CHECKING:
    from real_engine import RealEngine

ROOT = Path(__file__).resolve().parents[1]
BASE, IMAGE = "debian:bookworm-slim", "triton-crash-kit"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TOKEN = re.compile(r"127\.0\.0\.1:8888\S*\?token=(\w+)")
#: One that crashes nearly every server, as `kit run` inside the container is told it.
CRASH = (
    *("--release", "24.10", "--scenario", "cancel-race", "--concurrency", "16"),
    *("--requests", "200", "--repeats", "1", "--json"),
)
Docker = Callable[..., str]


@pytest.fixture
def docker(real_engine: RealEngine) -> Docker:
    from real_engine import SEARCHED

    environment = {"DOCKER_HOST": real_engine.url, "DOCKER_BUILDKIT": "0", "PATH": SEARCHED}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture
def container(docker: Docker, tmp_path: Path) -> Iterator[str]:
    """The image, built as `make image` does, and a container of it."""
    if what := missing_for_packages("mmdebstrap", "docker"):
        lacks(", ".join(what))
    trusted = tmp_path / "ca-certificates"
    trusted.mkdir()
    (trusted / "here.crt").write_bytes(CERTIFICATES.read_bytes())
    base = tmp_path / "base.tar"
    copy = f"--customize-hook=copy-in {trusted} /usr/local/share"
    docker("mmdebstrap", "--quiet", "--variant=minbase", copy, "bookworm", base, system_mirror())
    docker("docker", "import", str(base), BASE)
    docker("make", "image", "ARGS=--network host --build-arg RELEASES=24.10")
    run = ("--detach", "--shm-size=1g", "--publish", "127.0.0.1::8888", IMAGE)
    name = docker("docker", "run", *run).split()[0]
    yield name
    docker("docker", "rm", "--force", name)
    docker("docker", "rmi", "--force", IMAGE, BASE)


def lab_token(docker: Docker, container: str) -> str:
    """What JupyterLab prints when it is up."""
    for _ in range(120):
        if found := TOKEN.search(docker("docker", "logs", container)):
            return found[1]
        time.sleep(1.0)
    pytest.fail("JupyterLab printed no address")


if LONG:

    @pytest.mark.server
    @pytest.mark.timeout(2400)
    def test_jupyter_lab_answers_and_a_server_crashes_inside_and_nothing_is_left(
        docker: Docker, container: str
    ) -> None:
        token = lab_token(docker, container)
        address = docker("docker", "port", container, "8888").split()[0]
        url = f"http://{address}/lab/tree/00_start_here.ipynb?token={token}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
        inside = ("docker", "exec", container)
        told = docker(*inside, ".venv/bin/kit", "run", *CRASH, "--out", "studies/inside")
        assert "SIGSEGV" in told
        result = docker(*inside, "bash", "-c", "cat studies/inside/trials/*/result.json")
        assert json.loads(result)["verdict"] == "crashed"
        assert docker(*inside, "ls", "/dev/shm").split() == []
        assert "tritonserver" not in docker("docker", "top", container)
