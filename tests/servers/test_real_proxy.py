"""An attached server behind a real nginx, which answers in its place while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import real_nginx
from lacks import lacks
from scripted_server import Script, ScriptedServer, answer, generate

from kit.runner.study import StudyProgress, run_study
from kit.stats.frames import requests_frame, trials_frame
from kit.study.result import Outcome, Verdict
from kit.study.spec import ServerKind, ServerSpec, Workload, fixed
from kit.ui.choices import choose


def triton(head: bytes, body: bytes) -> Script:
    return [answer(b"{}")] if head.startswith(b"GET ") else generate(head, body)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[real_nginx.RealNginx, ScriptedServer, ExitStack]]:
    """A server, the nginx before it, and where to enter the server that comes after it."""
    if what := real_nginx.missing():
        lacks(what)
    folder = tmp_path / "nginx"
    folder.mkdir()
    with (
        ExitStack() as later,
        ScriptedServer(triton) as server,
        real_nginx.RealNginx(folder, behind=server.port) as nginx,
    ):
        yield nginx, server, later


def run(port: int, folder: Path, on_progress: Any, *, requests: int) -> tuple[Any, Any]:
    """(the trial, its requests) of twenty requests a second through the proxy."""
    server = ServerSpec(kind=ServerKind.ATTACHED, url=f"http://127.0.0.1:{port}", model="m")
    workload = Workload(requests=requests, output_tokens=fixed(4))
    spec = choose(server, workload=workload, name="t", repeats=1, rate=20.0)
    study = run_study(spec, folder, parallel=1, on_progress=on_progress)
    [row] = trials_frame(study).to_dict("records")
    return row, requests_frame(study)


def test_a_server_that_stays_away_behind_its_proxy_stopped_answering(
    proxy: tuple[real_nginx.RealNginx, ScriptedServer, ExitStack], tmp_path: Path
) -> None:
    nginx, server, _ = proxy
    seen: list[int] = []

    def die(progress: StudyProgress) -> None:
        if not seen and any(trial.ended > 5 for trial in progress.running):
            seen.append(1)
            server.die()

    row, requests = run(nginx.port, tmp_path / "study", die, requests=4000)
    assert row["verdict"] == Verdict.ANSWERS_STOPPED
    assert "HTTP 502 in its place" in row["reason"]
    assert "nothing is known of its process" in row["reason"]
    outcomes = requests["outcome"].value_counts()
    assert outcomes[Outcome.OK] > 5
    assert row["completed"] < 4000


def test_a_restart_behind_a_proxy_is_no_end_and_its_502s_are_counted(
    proxy: tuple[real_nginx.RealNginx, ScriptedServer, ExitStack], tmp_path: Path
) -> None:
    nginx, server, later = proxy
    steps: list[int] = []

    def restart(progress: StudyProgress) -> None:
        ended = max((trial.ended for trial in progress.running), default=0)
        if not steps and ended > 5:
            steps.append(ended)
            server.die()
        elif len(steps) == 1 and ended > steps[0] + 5:
            steps.append(ended)
            later.enter_context(ScriptedServer(triton, port=server.port))

    row, requests = run(nginx.port, tmp_path / "study", restart, requests=200)
    well = int((requests["outcome"] == Outcome.OK).sum())
    assert len(steps) == 2
    assert row["verdict"] == Verdict.SURVIVED
    assert row["reason"] == f"All 200 requests ended, only {well} of them answered well."
    assert well < 200
    assert (requests["outcome"] == Outcome.HTTP_ERROR).any()
    assert requests["outcome"].iloc[-1] == Outcome.OK, "it answers again"
