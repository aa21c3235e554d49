"""Study folders written through kit.study.folder with invented, clearly labelled numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kit.study.arrow_file import ArrowAppender
from kit.study.files import write_whole
from kit.study.folder import CLIENT, REQUESTS, SAMPLES, StudyFolder, TrialFolder
from kit.study.result import Frame, Outcome, Signature, TrialResult, Verdict
from kit.study.sequential import TrialTest
from kit.study.spec import (
    Arrivals,
    Engine,
    Fault,
    Protocol,
    ServerSpec,
    StudySpec,
    TrialSpec,
    Workload,
    embedded,
)

START_NS = 5_000_000_000_000
SEGFAULT = Signature(
    signal=11,
    frames=(
        Frame(index=0, module="tritonserver", offset=0x13D, symbol=None),
        Frame(
            index=2,
            module="libtritonserver.so",
            offset=None,
            symbol="TRITONBACKEND_ResponseFactoryIsCancelled",
        ),
    ),
    key="11:tritonserver+0x13d:libtritonserver.so!TRITONBACKEND_ResponseFactoryIsCancelled",
    text="SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled",
)


def write_study(
    path: Path, releases: Sequence[str], scenarios: Sequence[str], *, engine: Engine | None = None
) -> StudyFolder:
    """A study folder without trials."""
    spec = StudySpec(
        name="synthetic",
        servers=embedded(*releases),
        scenarios=tuple(scenarios),
        engines=(engine or Engine(),),
    )
    return StudyFolder.create(path, spec)


def write_trial(
    study: StudyFolder,
    release: str,
    *,
    scenario: str = "cancel-race",
    repeat: int = 0,
    requests: int = 60,
    crash_after: int | None = None,
    concurrency: int = 4,
    protocol: Protocol = Protocol.HTTP_GENERATE_STREAM,
    engine: Engine | None = None,
    outcomes: dict[int, Outcome] | None = None,
    verdict: Verdict | None = None,
    signature: Signature | None = SEGFAULT,
    triton: str = "2.0.0",
    finished: bool = True,
    kv: bool = True,
    service_ms: float = 40.0,
    warmup: int = 0,
    faults: tuple[Fault, ...] = (),
    not_answered_reason: str = "connection closed",
    arrivals: Arrivals | None = None,
    late_loop_s: float = 0.001,
    watch_fault: str | None = None,
) -> TrialFolder:
    """One trial: `requests` done, or death after `crash_after` with `concurrency` in flight."""
    spec = TrialSpec(
        trial_id=f"{release}_{scenario}_c{concurrency}_r{repeat}",
        server=ServerSpec(release=release),
        scenario=scenario,
        model="simulated",
        repeat=repeat,
        engine=engine or Engine(),
        workload=Workload(
            protocol=protocol,
            arrivals=arrivals or Arrivals(concurrency=concurrency),
            requests=requests,
            faults=faults,
        ),
    )
    folder = TrialFolder.create(study.trial(spec.trial_id).path, spec)
    rng = np.random.default_rng([int(release.replace(".", "")), repeat, concurrency])
    done = requests if crash_after is None else crash_after
    total = done if crash_after is None else done + concurrency
    result = outcomes or {}
    service = rng.lognormal(np.log(service_ms), 0.25, total)
    begin = START_NS + (np.arange(total) // concurrency * service_ms * 1.1e6).astype(np.int64)
    rows: list[dict[str, object]] = []
    for i in range(total):
        outcome = Outcome.IN_FLIGHT if i >= done else result.get(i, Outcome.OK)
        answered = outcome is Outcome.OK
        sent = int(begin[i]) + 200_000
        end = sent + int(service[i] * 1e6)
        tokens = [sent + int(service[i] * 1e6 * (k + 1) / 5) for k in range(5)]
        rows.append(
            dict.fromkeys(REQUESTS.names)
            | {
                "request": i,
                "worker": 0,
                "client": i % concurrency,
                "warmup": i < warmup,
                "scheduled_ns": int(begin[i]),
                "sent_ns": sent,
                "first_ns": tokens[0] if answered else None,
                "end_ns": end,
                "token_ns": tokens if answered else None,
                "tokens": 5 if answered else None,
                "bytes_received": 100,
                "status": 200 if answered else None,
                "outcome": outcome.value,
                "cause": None if answered else not_answered_reason,
                "fault": faults[0].kind.value if faults else None,
            }
        )
    append(folder, "requests-0.arrows", REQUESTS, rows)
    last = max((int(row["end_ns"]) for row in rows), default=START_NS)  # type: ignore[call-overload]
    ticks = np.arange(START_NS, last, 50_000_000)
    samples = [
        {
            "t_ns": int(t),
            "source": "engine_log",
            "name": "kv_usage_fraction",
            "value": min(1.0, 0.1 + 0.6 * k / max(1, len(ticks))),
            "labels": "",
        }
        for k, t in enumerate(ticks)
    ]
    if kv:
        append(folder, "samples-watch.arrows", SAMPLES, samples)
    append(
        folder,
        "client-0.arrows",
        CLIENT,
        [
            dict.fromkeys(CLIENT.names)
            | {"t_ns": t_ns, "worker": 0, "loop_lag_s": late_loop_s, "cpu_fraction": 0.2}
            for t_ns in range(START_NS, START_NS + 1_000_000_000, 250_000_000)
        ],
    )
    if not finished:
        return folder
    crashed = crash_after is not None
    folder.finish(
        TrialResult(
            trial_id=spec.trial_id,
            verdict=verdict or (Verdict.CRASHED if crashed else Verdict.SURVIVED),
            reason="synthetic",
            completed=done,
            in_flight=total - done,
            exit_code=-11 if crashed else 0,
            signature=signature if crashed else None,
            started_ns=START_NS - 3_000_000_000,
            ready_ns=START_NS - 500_000_000,
            load_started_ns=START_NS,
            died_ns=last if crashed else None,
            ended_ns=last,
            wall_offset_ns=1_700_000_000_000_000_000 - START_NS,
            versions={"triton": triton, "kit": "0.1.0"},
            watch_fault=watch_fault,
        )
    )
    return folder


def append(folder: TrialFolder, name: str, schema: object, rows: list[dict[str, object]]) -> None:
    """Rows into a file of `schema`, a batch for every 16, as a worker's flushes would."""
    columns = schema.names  # type: ignore[attr-defined]
    with ArrowAppender(folder.path / name, schema) as file:
        for begin in range(0, len(rows), 16):
            part = rows[begin : begin + 16]
            file.append({column: [row[column] for row in part] for column in columns})


def finish_study(study: StudyFolder) -> StudyFolder:
    write_whole(study.path / "done.json", b"{}\n")
    return study


def first_light(path: Path, *, repeats: int = 3) -> StudyFolder:
    """The story of issue 7332 in small: 23.10 and 24.10 die, 24.05 and the control do not."""
    study = write_study(path, ["23.10", "24.05", "24.10"], ["cancel-race", "control"])
    after = {"23.10": [28, 51, 33, 40, 30], "24.10": [1, 14, 48, 7, 20]}
    triton = {"23.10": "2.39.0", "24.05": "2.46.0", "24.10": "2.51.0"}
    for release in study.spec.releases:
        for repeat in range(repeats):
            crash = after.get(release)
            for scenario in study.spec.scenarios:
                deadly = crash is not None and scenario == "cancel-race"
                write_trial(
                    study,
                    release,
                    scenario=scenario,
                    repeat=repeat,
                    requests=200,
                    concurrency=16,
                    crash_after=crash[repeat] if deadly and crash else None,
                    triton=triton[release],
                    kv=release != "24.05",
                )
    return finish_study(study)


def release_map_study(path: Path) -> StudyFolder:
    """A sequential map in small: a crash that goes and comes back, and one that never goes."""
    line = ["23.10", "23.12", "24.05", "24.08", "24.10"]
    spec = StudySpec(
        name="synthetic-map",
        servers=embedded(*line),
        scenarios=("control", "cancel-race", "grpc-stream-cancel"),
        grid={},
        repeats=8,
        sequential=TrialTest(),
        least_repeats=5,
    )
    study = StudyFolder.create(path, spec)
    dying = {"cancel-race": {"23.10", "24.08", "24.10"}, "grpc-stream-cancel": set(line)}
    for scenario in spec.scenarios:
        for release in line:
            dies = release in dying.get(scenario, ())
            for repeat in range(5):
                write_trial(
                    study,
                    release,
                    scenario=scenario,
                    repeat=repeat,
                    crash_after=7 if dies else None,
                )
    return finish_study(study)
