"""One trial whose load comes from two Dask workers, against a real HTTP server of the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import msgspec
import pytest
from scripted_server import Script, ScriptedServer, answer, generate

import kit
from kit.errors import ClusterError, SpecError
from kit.load.worker.counters import CountsElsewhere, Elsewhere
from kit.runner.dask_load_host import Ask, _Load
from kit.runner.dask_load_place import check_reach
from kit.runner.study import StudyProgress, run_study
from kit.servers.runs import registered
from kit.stats.client_limits import client_limits
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.load_hosts import start_skew_s
from kit.study.plan import plan
from kit.study.result import Verdict
from kit.study.spec import Endpoint, ServerKind, ServerSpec, StudySpec, Workload, embedded
from kit.ui.cli import main
from kit.ui.console import FAILED

PATIENCE_S = 60.0
#: A key and its certificate, which is its own authority.
TLS = Path(__file__).parents[1] / "load" / "tls"
COMM = "DASK_DISTRIBUTED__COMM__"
REQUESTS = 120
#: What does not depend on when it was sent, nor by whom.
SAME = (
    *("request", "conversation", "turn", "warmup", "prompt_tokens", "output_tokens_asked"),
    "fault",
)


def respond(head: bytes, body: bytes) -> Script:
    if head.startswith(b"GET /metrics"):
        return [answer(b"", status="404 Not Found")]
    if head.startswith(b"GET"):  # server and model are ready
        return [answer(b"")]
    return generate(head, body)


@contextmanager
def two_workers(
    folder: Path, *, scheme: str = "tcp", **settings: str
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler's address, and two workers, each of which declares that it may be a host.

    scheme: of its addresses. settings: environment variables of all three.
    """
    told = folder / "scheduler.json"
    common = ("--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(told))
    own = ("--nthreads", "1", "--no-nanny", "--resources", "trial=1")
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        command = [sys.executable, "-m", "dask", *words, *common]
        environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder), **settings}
        with (folder / "dask.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    try:
        start("scheduler", "--port", "0", "--protocol", scheme)
        for _ in range(2):
            start("worker", *own, "--local-directory", str(folder))
        eventually(told.exists, "no scheduler")
        yield str(json.loads(told.read_text())["address"]), started[1:]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def eventually(true: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, what
        time.sleep(0.05)


def spec_for(port: int, workload: Workload) -> StudySpec:
    server = ServerSpec(kind=ServerKind.ATTACHED, url=f"http://127.0.0.1:{port}", model="m")
    return StudySpec(name="hosts", servers=(server,), workload=workload, repeats=1)


def only(study: StudyFolder) -> TrialFolder:
    [trial] = study.trials()
    return trial


@pytest.mark.slow
def test_two_hosts_send_what_one_machine_sends_and_one_that_is_killed_is_named(
    tmp_path: Path,
) -> None:
    workload = Workload(concurrency=6, requests=REQUESTS, prompt_tokens="4:16", disconnect=0.2)
    with two_workers(tmp_path) as (address, workers), ScriptedServer(respond) as server:
        alone = only(run_study(spec_for(server.port, workload), tmp_path / "alone"))
        prompts = sorted(body for head, body in server.seen if head.startswith(b"POST"))
        server.seen.clear()
        spec = spec_for(server.port, replace(workload, load_hosts=2, processes=2))
        study = run_study(spec, tmp_path / "both", on=address)
        both = only(study)
        assert both.result is not None
        assert both.result.verdict is Verdict.SURVIVED, both.result.reason
        assert prompts == sorted(body for head, body in server.seen if head.startswith(b"POST"))
        rows = [folder.requests().select(SAME).sort_by("request") for folder in (alone, both)]
        assert rows[0].equals(rows[1]), "request by request"
        assert rows[1]["request"].to_pylist() == list(range(REQUESTS))
        assert set(both.requests()["worker"].to_pylist()) == {0, 1, 2, 3}
        first, second = both.result.load_hosts
        assert (first.workers, second.workers) == ((0, 2), (1, 3))
        assert {first.label, second.label} == {"host 1, worker 1", "host 1, worker 2"}
        for host in (first, second):  # they share a clock: the truth is 0
            assert host.offset_before_ns is not None
            assert host.offset_before_error_ns is not None
            assert abs(host.offset_before_ns) <= host.offset_before_error_ns
            assert host.clock_error_ns is not None
            assert (host.unsent, host.failed) == (0, "")
        assert start_skew_s((first, second)) is not None
        assert not (both.path / "hosts").exists()
        assert client_limits(study)["trial_id"].tolist() == [both.spec.trial_id]

        found = kit.find_limit(
            kit.attach(f"http://127.0.0.1:{server.port}", model="m"),
            p95_e2e_ms=20_000,
            high=4,
            requests=20,
            most_trials=2,
            load_hosts=2,
            on=address,
            folder=tmp_path / "limit",
            progress=False,
        )
        assert set(found.load_hosts["label"]) == {"host 1, worker 1", "host 1, worker 2"}
        assert set(found.limit.table["trial_id"]) == set(found.trials["trial_id"])

        def kill_one(progress: StudyProgress) -> None:
            # Which of the two processes is which host is not known: something has come of both.
            arrived = list((tmp_path / "lost").glob("trials/*/hosts/requests-[01].arrows"))
            came = min((path.stat().st_size for path in arrived), default=0)
            if len(arrived) == 2 and came > 20_000 and workers[1].poll() is None:
                its = {r.name for r in registered() if r.owner and r.owner.pid == workers[1].pid}
                assert its
                workers[1].send_signal(signal.SIGKILL)
                # The host itself clears up: this study, which is held up here, does not yet.
                eventually(
                    lambda: not its & {run.name for run in registered()}, "its folder is left"
                )

        endless = replace(spec.workload, requests=None, duration_s=40.0)  # type: ignore[arg-type]
        lost = only(
            run_study(
                spec_for(server.port, endless),
                tmp_path / "lost",
                on=address,
                on_progress=kill_one,
            )
        )
        assert lost.result is not None
        assert lost.result.verdict is Verdict.CLIENT_FAULT
        assert "has not answered" in lost.result.reason
        [gone] = [host for host in lost.result.load_hosts if host.failed]
        assert gone.label in lost.result.reason
        assert gone.requests > 0, "what had come is kept"
        assert lost.requests().num_rows == sum(h.requests for h in lost.result.load_hosts)
        own = {os.getpid(), *(worker.pid for worker in workers)}  # others may run beside
        eventually(
            lambda: not [r for r in registered() if r.owner and r.owner.pid in own],
            "scratch folders are left",
        )


@pytest.mark.slow
def test_load_comes_from_hosts_of_a_cluster_that_wants_certificates(tmp_path: Path) -> None:
    pem, key = str(TLS / "certificate.pem"), str(TLS / "key.pem")
    settings = {f"{COMM}REQUIRE_ENCRYPTION": "true", f"{COMM}TLS__CA_FILE": pem}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        settings |= {f"{COMM}TLS__{role}__CERT": pem, f"{COMM}TLS__{role}__KEY": key}
    security = distributed.Security(
        require_encryption=True, tls_ca_file=pem, tls_client_cert=pem, tls_client_key=key
    )
    with (
        two_workers(tmp_path, scheme="tls", **settings) as (address, _),
        ScriptedServer(respond) as server,
    ):
        assert address.startswith("tls://")
        spec = spec_for(server.port, Workload(concurrency=4, requests=40, load_hosts=2))
        with pytest.raises(ClusterError, match="certificate"):
            run_study(spec, tmp_path / "none", on=address)
        with distributed.Client(address, security=security, set_as_default=False) as client:
            trial = only(run_study(spec, tmp_path / "two", on=client))
        assert trial.result is not None
        assert trial.result.verdict is Verdict.SURVIVED, trial.result.reason
        assert [(host.unsent, host.failed) for host in trial.result.load_hosts] == [(0, "")] * 2
        assert trial.requests().num_rows == 40


def test_load_hosts_need_a_cluster_and_a_server_that_they_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_for(8000, Workload(load_hosts=2))
    with pytest.raises(SpecError, match="without the hosts"):
        run_study(spec, tmp_path / "s")
    with pytest.raises(SpecError, match="threads of this process"):
        run_study(spec, tmp_path / "s", on="local")
    with pytest.raises(SpecError, match=r"this machine's 127\.0\.0\.1"):
        run_study(replace(spec, servers=embedded("24.05")), tmp_path / "s", on="tcp://x:8786")
    with pytest.raises(SpecError, match="own loopback"):
        check_reach(["http://localhost:8000"], ["tcp://127.0.0.1:41", "tcp://10.0.0.2:42"])
    check_reach(["http://127.0.0.1:8000"], ["tcp://127.0.0.1:41"])
    words = ("run", "--server", "http://127.0.0.1:1", "--model", "m", "--load-hosts", "2")
    assert main([*words, "--out", str(tmp_path / "s")]) == FAILED
    assert "load_hosts=2 without the hosts" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("rule", [{"max_errors": 5}, {"max_error_fraction": 0.2}])
def test_what_other_hosts_count_reaches_the_workers_of_this_one(
    rule: dict[str, Any], tmp_path: Path
) -> None:
    [trial] = plan(spec_for(9, Workload(load_hosts=2, **rule)))
    folder = StudyFolder(tmp_path / "study").new_trial(trial)
    load = _Load(trial, Endpoint(host="127.0.0.1", http_port=9), folder, [1])
    load.answer(Ask(elsewhere=Elsewhere(errors=3, ended=40)), 0)
    assert CountsElsewhere(folder.path, 1, trial.workload.workers)() == (3, 40)
    ask = Ask(elsewhere=Elsewhere(errors=3, ended=40))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ask), type=Ask) == ask, "on the way"
    load.close()
