"""Studies on a Dask cluster in this process, whose trials only pretend to run."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, get_worker

from kit.errors import ClusterError, MissingPackageError, SpecError
from kit.runner import dask_host, dask_place
from kit.runner.agenda import decisions_of
from kit.runner.dask_cluster import connected
from kit.runner.study import StudyProgress, run_study
from kit.servers.runs import registered
from kit.study.folder import StudyFolder
from kit.study.hosts import read_hosts
from kit.study.plan import plan
from kit.study.result import TrialResult, Verdict
from kit.study.sequential import Decision, TrialTest
from kit.study.spec import ServerKind, ServerSpec, StudySpec, TrialSpec, embedded
from kit.ui.cli import main
from kit.ui.console import FAILED

SPEC = StudySpec(name="t", servers=embedded("23.10", "24.05"), scenarios=("control",), repeats=2)
LOADING = b'{"phase": "loading", "sent": 3, "ended": 2, "in_flight": 1}'


@dataclass
class Hosts:
    """What the pretended machines do, and what they did."""

    lasts_s: float = 0.05
    verdict: Verdict = Verdict.SURVIVED
    extra: dict[str, bytes] = field(default_factory=dict)  # files that a trial leaves
    machine: Callable[[str], str] = "machine of {}".format
    begun: list[tuple[str, str]] = field(default_factory=list)  # host and trial
    running: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    interrupted: int = 0
    scratch: list[Path] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # set: trials take forever


HOSTS = Hosts()


class FakeProcess:
    """A trial that lasts for a while; as kit.runner.place.TrialProcess."""

    def __init__(self, spec: TrialSpec, study: StudyFolder) -> None:
        self.spec, self.folder = spec, study.new_trial(spec)
        self.host = str(get_worker().name)
        self.until_s, self.is_over = time.monotonic() + HOSTS.lasts_s, False
        self.verdict = HOSTS.verdict
        HOSTS.scratch.append(study.path.parent)
        HOSTS.begun.append((self.host, spec.trial_id))
        HOSTS.running[self.host] = HOSTS.running.get(self.host, 0) + 1
        HOSTS.most[self.host] = max(HOSTS.most.get(self.host, 0), HOSTS.running[self.host])
        self.folder.progress.write_bytes(LOADING)

    def ended(self) -> bool:
        if not self.is_over and not HOSTS.hold.is_set() and time.monotonic() >= self.until_s:
            self._end()
        return self.is_over

    def wait(self, timeout_s: float) -> None:
        time.sleep(0.01)

    def interrupt(self) -> None:
        if not self.is_over:
            self.verdict = Verdict.INTERRUPTED
            HOSTS.interrupted += 1
            self._end()

    def kill(self) -> None: ...

    def _end(self) -> None:
        self.is_over = True
        HOSTS.running[self.host] -= 1
        for name, data in HOSTS.extra.items():
            (self.folder.path / name).write_bytes(data)
        self.folder.finish(
            TrialResult(
                trial_id=self.spec.trial_id, verdict=self.verdict, reason="pretended", completed=3
            )
        )

    def result(self) -> TrialResult | None:
        return self.folder.result


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hosts:
    def prepare(servers: object) -> None:
        HOSTS.prepared.append(str(get_worker().name))

    fresh = Hosts()
    HOSTS.__dict__.update(fresh.__dict__)
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dask_host, "TrialProcess", FakeProcess)
    monkeypatch.setattr(dask_host, "prepare_servers", prepare)
    monkeypatch.setattr(dask_host, "sweep", lambda: [])
    monkeypatch.setattr(dask_host, "gpus_here", lambda: "none")
    monkeypatch.setattr(dask_host, "machine_digest", lambda: HOSTS.machine(str(get_worker().name)))
    monkeypatch.setattr("kit.runner.study.prepare_servers", lambda servers: None)
    monkeypatch.setattr(dask_place, "LOOK_S", 0.1)
    return HOSTS


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    own = dask.config.set({"temporary-directory": str(tmp_path)})
    with (
        own,
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=False,
            protocol="inproc://",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=60,
        ) as started,
    ):
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as made:
        yield made


def eventually(true: Callable[[], Any]) -> None:
    until_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def in_thread(call: Callable[[], object]) -> Future[object]:
    return ThreadPoolExecutor(1).submit(call)


def trial_folders(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.glob("trials/*"))


@pytest.mark.slow
def test_trials_run_once_on_the_hosts_and_lie_in_the_study_as_local_ones_do(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.extra = {"server.log": b"log", "requests-0.arrows": b"rows"}
    study = run_study(SPEC, tmp_path / "s", on=client)
    assert sorted(t for _, t in hosts.begun) == sorted(t.trial_id for t in plan(SPEC))
    assert study.finished
    results = {t.spec.trial_id: t.result for t in study.trials()}
    ran = {trial: host for host, trial in hosts.begun}
    machines = {host.label: host.machine for host in read_hosts(study.path)}
    assert set(machines) == {"host 1", "host 2"}
    for trial, result in results.items():
        assert result is not None
        assert result.host is not None
        assert machines[result.host] == f"machine of {ran[trial]}"
        assert (study.trial(trial).path / "requests-0.arrows").read_bytes() == b"rows"
    assert hosts.most == {"0": 1, "1": 1}, "one at a time on each machine"
    assert sorted(hosts.prepared) == ["0", "1"], "each machine prepares its servers once"
    assert not any(folder.exists() for folder in hosts.scratch)
    assert registered() == []


@pytest.mark.slow
def test_two_workers_of_one_machine_run_one_trial_at_a_time(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.machine = lambda name: "one"
    run_study(SPEC, tmp_path / "s", on=client)
    assert len({host for host, _ in hosts.begun}) == 1
    assert max(hosts.most.values()) == 1


@pytest.mark.slow
def test_the_progress_of_a_trial_elsewhere_is_told_as_that_of_one_here(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.lasts_s, seen = 1.2, []
    run_study(SPEC, tmp_path / "s", on=client, on_progress=seen.append)
    loading = [t for p in seen for t in p.running if t.phase == "loading"]
    assert {(t.sent, t.ended, t.in_flight) for t in loading} == {(3, 2, 1)}


@pytest.mark.slow
def test_a_lost_worker_gives_its_trial_back(
    hosts: Hosts, cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    hosts.hold.set()
    study = in_thread(lambda: run_study(SPEC, tmp_path / "s", on=client))
    eventually(lambda: len(hosts.begun) == 2)
    lost, trial = hosts.begun[0]
    cluster.sync(cluster.workers[int(lost)].close, executor_wait=False)
    eventually(lambda: hosts.interrupted == 1)  # the worker stopped the trial that it ran
    hosts.hold.clear()
    study.result(20)
    assert [host != lost for host, run in hosts.begun if run == trial] == [False, True]
    study = StudyFolder(tmp_path / "s")
    assert study.finished
    assert len(study.trials()) == 4
    assert not (study.path / "interrupted").exists()


@pytest.mark.slow
def test_a_trial_that_outlives_no_worker_is_our_own_failure(
    hosts: Hosts, cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    hosts.hold.set()
    one = replace(SPEC, servers=embedded("24.05"), repeats=1)
    study = in_thread(lambda: run_study(one, tmp_path / "s", on=client))
    cluster.scale(4)
    for losses in range(dask_place.MOST_LOSSES):
        eventually(lambda n=losses: len(hosts.begun) == n + 1)
        cluster.sync(cluster.workers[int(hosts.begun[-1][0])].close, executor_wait=False)
    study.result(20)
    [trial] = StudyFolder(tmp_path / "s").trials()
    assert trial.result is not None
    assert trial.result.verdict is Verdict.CLIENT_FAULT
    assert "lost 3 times" in trial.result.reason


@pytest.mark.slow
def test_a_study_waits_for_a_worker_when_it_has_none(
    hosts: Hosts, cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    cluster.scale(0)
    eventually(lambda: not client.nthreads())
    seen: list[StudyProgress] = []
    study = in_thread(lambda: run_study(SPEC, tmp_path / "s", on=client, on_progress=seen.append))
    eventually(lambda: any("no worker" in line for p in seen for line in p.remarks))
    cluster.scale(1)
    study.result(20)
    assert StudyFolder(tmp_path / "s").finished


@pytest.mark.slow
def test_a_lost_scheduler_leaves_a_study_that_resumes(
    hosts: Hosts, cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    def hold(progress: StudyProgress) -> None:
        if progress.done:
            hosts.hold.set()

    study = in_thread(lambda: run_study(SPEC, tmp_path / "s", on=client, on_progress=hold))
    eventually(lambda: hosts.hold.is_set() and sum(hosts.running.values()) == 2)
    before = {path.parent.name for path in (tmp_path / "s").glob("trials/*/result.json")}
    ended = [StudyFolder(tmp_path / "s").trial(name).result for name in before]
    assert {r and (r.verdict, r.reason) for r in ended} == {(Verdict.SURVIVED, "pretended")}
    client.close()
    with pytest.raises(ClusterError, match="the same call goes on"):
        study.result(20)
    assert set(trial_folders(tmp_path / "s")) == before, "no half folder"
    eventually(lambda: hosts.interrupted == 2)  # nobody waits for those trials any more
    hosts.hold.clear()
    with Client(cluster, set_as_default=False) as other:
        study = run_study(SPEC, tmp_path / "s", on=other)
    assert study.finished
    assert len([t for _, t in hosts.begun if t in before]) == len(before), "they ran once"


@pytest.mark.slow
def test_stop_ends_the_trials_on_all_hosts_within_seconds(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.hold.set()
    stop = threading.Event()
    study = in_thread(lambda: run_study(SPEC, tmp_path / "s", on=client, stop=stop))
    eventually(lambda: len(hosts.begun) == 2)
    asked_s = time.monotonic()
    stop.set()
    study.result(20)
    assert time.monotonic() - asked_s < 5
    assert sum(hosts.running.values()) == 0
    assert not any(folder.exists() for folder in hosts.scratch)
    study = StudyFolder(tmp_path / "s")
    assert [t.result and t.result.verdict for t in study.trials()] == [Verdict.INTERRUPTED] * 2
    hosts.hold.clear()
    assert run_study(SPEC, tmp_path / "s", on=client).finished


@pytest.mark.slow
def test_a_keyboard_interrupt_ends_them_as_well(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.hold.set()

    def look(progress: StudyProgress) -> None:
        if len(hosts.begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(SPEC, tmp_path / "s", on=client, on_progress=look)
    assert sum(hosts.running.values()) == 0


@pytest.mark.slow
def test_a_host_with_another_kit_is_left_out_and_named(
    hosts: Hosts, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dask_host,
        "why_other",
        lambda kit, source: "kit 0.0 is there" if str(get_worker().name) == "0" else "",
    )
    seen: list[StudyProgress] = []
    study = run_study(SPEC, tmp_path / "s", on=client, on_progress=seen.append)
    assert {host for host, _ in hosts.begun} == {"1"}
    [refused] = [host for host in read_hosts(study.path) if host.refused]
    assert f"{refused.label} is left out: kit 0.0 is there" in seen[-1].remarks
    assert hosts.prepared == ["1"], "it is not prepared either"


@pytest.mark.slow
def test_a_cluster_that_cannot_run_the_study_at_all_is_an_error_that_says_why(
    hosts: Hosts, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_host, "source_digest", lambda: "another")
    with pytest.raises(ClusterError, match="install the same checkout"):
        run_study(SPEC, tmp_path / "s", on=client)
    assert hosts.begun == []


@pytest.mark.slow
def test_what_hosts_differ_in_is_said_before_they_run_anything(
    hosts: Hosts, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_host, "libc_here", lambda: f"glibc 2.3{get_worker().name}")
    seen: list[StudyProgress] = []
    study = run_study(SPEC, tmp_path / "s", on=client, on_progress=seen.append)
    [line] = seen[-1].remarks
    assert line.startswith("the hosts differ in C library: glibc 2.3")
    assert {host.libc for host in read_hosts(study.path)} == {"glibc 2.30", "glibc 2.31"}


@pytest.mark.slow
def test_a_sequential_study_decides_over_hosts_as_over_the_trials_of_one(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    hosts.verdict = Verdict.CRASHED
    spec = replace(SPEC, repeats=12, sequential=TrialTest(survives=0.2, crashes=0.5))
    study = run_study(spec, tmp_path / "s", on=client)
    decided = decisions_of(study)
    assert {progress.decision for progress in decided.values()} == {Decision.CRASHES}
    assert [progress.trials for progress in decided.values()] == [4, 4]
    assert len(study.trials()) <= 8 + 2, "no more than run beside the deciding ones"


@pytest.mark.slow
def test_what_a_worker_sends_lands_in_its_trial_only(
    hosts: Hosts, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dask_host._files_of
    monkeypatch.setattr(
        dask_host,
        "_files_of",
        lambda folder: real(folder) | {"../../../escaped": b"", ".hidden": b"", "spec.json": b""},
    )
    study = run_study(SPEC, tmp_path / "s", on=client)
    assert study.finished
    assert not list(tmp_path.rglob("escaped"))
    assert not list(tmp_path.rglob(".hidden"))
    assert len(study.trials()) == 4, "their specs are the study's own"


@pytest.mark.slow
def test_local_runs_in_this_process_listens_on_loopback_alone_and_leaves_nothing(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    addresses, scratch = set(), tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def look(progress: StudyProgress) -> None:
        found = psutil.Process().net_connections("inet")
        addresses.update(c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN)

    hosts.lasts_s = 0.5
    hosts.machine = lambda name: "one"
    study = run_study(SPEC, tmp_path / "s", on="local", parallel=2, on_progress=look)
    assert study.finished
    assert {host for host, _ in hosts.begun} == {"0", "1"}, "two at a time, as was asked for"
    assert addresses <= {"127.0.0.1"}
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "on", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1", "nonsense://x:1", "http", 5, ""]
)
def test_an_address_without_a_scheduler_is_named(
    on: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.runner.dask_cluster.CONNECT_S", 0.5)
    with pytest.raises(ClusterError, match="on="):
        run_study(SPEC, tmp_path / "s", on=on)


def test_the_command_line_says_it_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", "--release", "24.05", "--scenario", "control", "--out", str(tmp_path / "s"))
    assert main([*words, "--on", "nonsense"]) == FAILED
    assert "on='nonsense'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_that_is_done_needs_its_cluster_no_more(
    hosts: Hosts, client: Client, tmp_path: Path
) -> None:
    run_study(SPEC, tmp_path / "s", on=client)
    assert run_study(SPEC, tmp_path / "s", on="tcp://127.0.0.1:1").finished


def test_without_dask_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"\.\[dask\]"), connected("local", 1):
        pass


def test_a_server_of_its_own_machine_is_not_run_by_a_cluster(tmp_path: Path) -> None:
    attached = ServerSpec(kind=ServerKind.ATTACHED, url="http://llm.example:8000", model="m")
    with pytest.raises(SpecError, match="a machine of its own"):
        run_study(replace(SPEC, servers=(attached,)), tmp_path / "s", on="local")
