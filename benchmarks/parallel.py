"""What running trials beside each other gains: one release's part of the map, both ways."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.results import Result, Results, over_rounds
from kit.runner.study import run_study
from kit.study.spec import StudySpec
from kit.ui.choices import choose

RELEASE = "24.05"
#: Faults and controls of every protocol; those that end by waiting in silence wait in parallel too.
SCENARIOS = (
    *("control", "cancel-race", "http-disconnect", "control-grpc-stream", "grpc-stream-cancel"),
    *("http-never-answered", "bls-concurrency", "stub-dies"),
)
WAYS = (1, 2)


def parallel(results: Results, rounds: int) -> None:
    """The wall time of the same trials, one at a time and two at a time, in turn."""
    spec = choose(RELEASE, SCENARIOS, name="parallel", repeats=1)
    wall: dict[int, list[float]] = {ways: [] for ways in WAYS}
    for number in range(rounds):
        for ways in WAYS if number % 2 == 0 else reversed(WAYS):
            wall[ways].append(_seconds(spec, ways))
    trials = len(SCENARIOS) * spec.repeats
    command = "python -m benchmarks parallel"
    for ways, seconds in wall.items():
        results.add(
            Result(
                name=f"study_wall_{ways}_at_a_time",
                unit=f"s for {trials} trials of {RELEASE}",
                command=command,
                **over_rounds(seconds),  # type: ignore[arg-type]
            )
        )
    one, two = (wall[ways] for ways in WAYS)
    results.add(
        Result(
            name="study_speed_2_at_a_time_vs_1",
            unit="ratio of trials a second",
            peer="one trial at a time",
            command=command,
            **over_rounds([a / b for a, b in zip(one, two, strict=True)]),  # type: ignore[arg-type]
        )
    )


def _seconds(spec: StudySpec, ways: int) -> float:
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        begun = time.monotonic()
        run_study(spec, Path(scratch) / "study", parallel=ways)
        return time.monotonic() - begun
