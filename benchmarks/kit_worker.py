"""Runs the kit's load workers alone on a workload, and reads their records."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import msgspec

from benchmarks.tools import Work
from kit.study.folder import TrialFolder
from kit.study.spec import (
    AnswerCheck,
    ArrivalKind,
    Arrivals,
    Endpoint,
    Protocol,
    ServerSpec,
    TrialSpec,
    Workload,
    fixed,
)


def workload(work: Work, **changes: object) -> Workload:
    """What the peers do, as a workload: answers checked, everything recorded."""
    streams = Protocol.OPENAI_CHAT_STREAM if work.streams else Protocol.HTTP_GENERATE
    plain = Workload(
        protocol=streams,
        arrivals=Arrivals(kind=ArrivalKind.CLOSED, concurrency=work.clients),
        requests=None,
        duration_s=work.seconds,
        prompt_tokens=fixed(8),
        output_tokens=fixed(work.tokens),
        answer_check=AnswerCheck.EXACT,
        processes=work.cores,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def prepare(load: Workload, endpoint: Endpoint, folder: Path, model: str = "m") -> list[str]:
    """The command; it runs in a trial folder of its own below `folder`."""
    spec = TrialSpec(
        trial_id="bench",
        server=ServerSpec(release="24.10"),
        scenario="bench",
        model=model,
        workload=load,
    )
    trial = TrialFolder.create(folder / "trial", spec)
    return [
        *(sys.executable, "-P", str(Path(__file__).parent / "alone.py")),
        *(str(trial.path), str(load.processes), msgspec.json.encode(endpoint).decode()),
    ]


def trial(folder: Path) -> TrialFolder:
    return TrialFolder(folder / "trial")
