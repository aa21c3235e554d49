"""Whether the client was the bottleneck, where load came from several hosts."""

from dataclasses import replace
from pathlib import Path

from synthetic_studies import append, write_study, write_trial

from kit.stats.client_limits import client_limits, client_sentence
from kit.study.folder import CLIENT, StudyFolder
from kit.study.load_hosts import LoadHost


def tick(worker: int, number: int, *, busy: float) -> dict[str, object]:
    return dict.fromkeys(CLIENT.names, 0) | {
        "t_ns": number,
        "worker": worker,
        "cpu_fraction": busy,
        "loop_lag_s": 0.0,
        "dispatch_delay_s": 0.0001,
    }


def test_one_host_of_four_at_its_limit_is_named_and_not_averaged_away(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["control"])
    trial = write_trial(study, "24.05", scenario="control", requests=20)
    for path in trial.path.glob("client-*"):
        path.unlink()
    for worker in range(4):
        busy_ticks = 3 if worker == 2 else 0
        rows = [tick(worker, n, busy=0.99 if n < busy_ticks else 0.2) for n in range(20)]
        append(trial, f"client-{worker}.arrows", CLIENT, rows)
    assert not client_limits(StudyFolder(study.path))["limited"].any(), "3 ticks of 80"
    assert trial.result is not None
    hosts = tuple(
        LoadHost(label=f"host {number}", workers=(number - 1,), requests=5)
        for number in (1, 2, 3, 4)
    )
    trial.finish(replace(trial.result, load_hosts=hosts))
    limits = client_limits(StudyFolder(study.path))
    assert limits["reasons"].tolist() == [
        "host 3: its core was more than 90% busy in 15% of the ticks"
    ]
    assert "Client-limited in 1 of 1 trials (host 3: " in client_sentence(limits)
