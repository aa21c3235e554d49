"""Arrivals: requests are due when the workload says, whatever the server does."""

from __future__ import annotations

import statistics
from itertools import count, islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_helpers import run_load, workload
from scripted_server import Script, ScriptedServer, generate

from kit.errors import SpecError
from kit.load.traffic.arrivals import due_times
from kit.load.traffic.schedule import Profile
from kit.load.worker.counters import Counters, progress_of
from kit.load.worker.pacers import workers_of
from kit.load.worker.stop_rules import Stop
from kit.study.spec import ArrivalKind, Arrivals, Step, Workload
from kit.study.traces.read import read_trace
from kit.study.workload import LEAST_ERRORS


def open_loop(kind: ArrivalKind = ArrivalKind.POISSON, **changes: object) -> Workload:
    given: dict[str, object] = {"rate_per_s": 100.0, "concurrency": None, "kind": kind}
    return workload(arrivals=Arrivals(**(given | changes)))  # type: ignore[arg-type]


def gaps(load: Workload, number: int = 4000) -> list[float]:
    return [b - a for a, b in pairwise(islice(due_times(load), number))]


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = list(islice(due_times(open_loop(ArrivalKind.CONSTANT)), 5))
    assert times == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])


@pytest.mark.parametrize(
    ("kind", "cv"), [(ArrivalKind.POISSON, 1.0), (ArrivalKind.GAMMA, 3.0), (ArrivalKind.GAMMA, 0.5)]
)
def test_random_arrivals_have_their_rate_and_their_burstiness(kind: ArrivalKind, cv: float) -> None:
    seen = gaps(open_loop(kind, burstiness_cv=cv), 20_000)
    assert statistics.fmean(seen) == pytest.approx(0.01, rel=0.07)
    assert statistics.stdev(seen) / statistics.fmean(seen) == pytest.approx(cv, rel=0.12)


def test_a_step_changes_the_rate_from_its_moment_on() -> None:
    load = open_loop(ArrivalKind.CONSTANT, steps=(Step(after_s=1.0, rate_per_s=400.0),))
    times = list(islice(due_times(load), 500))
    assert sum(time < 1.0 for time in times) == pytest.approx(100, abs=1)
    assert sum(1.0 <= time < 2.0 for time in times) == pytest.approx(400, abs=1)


def test_a_ramp_reaches_its_rate_linearly() -> None:
    load = open_loop(ArrivalKind.CONSTANT, steps=(Step(after_s=2.0, rate_per_s=300.0, ramp=True),))
    times = list(islice(due_times(load), 1000))
    assert sum(time < 1.0 for time in times) == pytest.approx(150, abs=2)  # 100 -> 200
    assert sum(1.0 <= time < 2.0 for time in times) == pytest.approx(250, abs=2)  # 200 -> 300
    assert sum(2.0 <= time < 3.0 for time in times) == pytest.approx(300, abs=2)


def test_a_rate_of_zero_in_the_end_ends_the_arrivals() -> None:
    load = open_loop(ArrivalKind.CONSTANT, steps=(Step(after_s=0.5, rate_per_s=0.0),))
    assert len(list(due_times(load))) == pytest.approx(50, abs=1)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.floats(0, 50),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 50), st.booleans()), max_size=5).map(
        lambda steps: tuple(sorted(steps))
    ),
    st.lists(st.floats(0.01, 30), min_size=1, max_size=20),
)
def test_the_area_up_to_each_moment_is_what_was_asked_for(
    start: float, steps: tuple[tuple[float, float, bool], ...], wanted: list[float]
) -> None:
    profile = Profile(start=start, steps=steps)
    areas = sorted(wanted)
    for area, moment in zip(areas, profile.filled(iter(areas)), strict=False):
        if moment > 1e6:
            continue
        # From step to step: between two of them a thousandth may be longer than a whole step.
        ends = [0.0, *(after_s for after_s, _, _ in steps if after_s < moment), moment]
        seen = 0.0
        for begin, end in pairwise(ends):
            width = (end - begin) / 400
            seen += width * sum(profile.at(begin + (n + 0.5) * width) for n in range(400))
        assert seen == pytest.approx(area, rel=0.02, abs=0.2)


@pytest.mark.slow
def test_an_open_loop_sends_on_time_while_answers_are_late(tmp_path: Path) -> None:
    def late(head: bytes, body: bytes) -> Script:
        return [3.0, *generate(head, body)]

    load = workload(
        requests=60,
        arrivals=Arrivals(kind=ArrivalKind.CONSTANT, rate_per_s=100.0, concurrency=None),
        timeout_s=60.0,
    )
    with ScriptedServer(late) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    due = [row["scheduled_ns"] for row in rows]
    assert [later - earlier for earlier, later in pairwise(due)] == [10_000_000] * 59
    assert min(row["sent_ns"] - row["scheduled_ns"] for row in rows) >= 0
    # None waits for an answer, however slow this machine is at sending.
    assert max(row["sent_ns"] for row in rows) < min(row["end_ns"] for row in rows)
    assert server.most_open >= 20
    assert all(row["client"] is None for row in rows)


@pytest.mark.slow
def test_a_capped_open_loop_never_has_more_in_flight_and_keeps_the_schedule(tmp_path: Path) -> None:
    def late(head: bytes, body: bytes) -> Script:
        return [0.1, *generate(head, body)]

    load = workload(
        requests=30,
        arrivals=Arrivals(kind=ArrivalKind.CONSTANT, rate_per_s=200.0, concurrency=3),
    )
    with ScriptedServer(late) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert server.most_open == 3
    assert len(rows) == 30
    last = max(rows, key=lambda row: row["sent_ns"])
    assert last["scheduled_ns"] - rows[0]["scheduled_ns"] == 29 * 5_000_000
    assert last["sent_ns"] - last["scheduled_ns"] > 500_000_000  # 30 requests, 3 at a time, 0.1 s


@pytest.mark.slow
def test_several_workers_share_an_open_loop_exactly(tmp_path: Path) -> None:
    load = workload(
        requests=60,
        processes=2,
        arrivals=Arrivals(kind=ArrivalKind.POISSON, rate_per_s=200.0, concurrency=9),
    )
    with ScriptedServer() as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert [row["request"] for row in rows] == list(range(60))
    start = rows[0]["scheduled_ns"]
    seen = [(row["scheduled_ns"] - start) / 1e9 for row in rows]
    due = list(islice(due_times(load), 60))
    assert seen == pytest.approx([time - due[0] for time in due], abs=1e-6)


@pytest.mark.slow
def test_a_trace_is_replayed_with_its_times_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t_s,prompt_tokens,output_tokens\n5.2,7,3\n5.0,9,2\n5.05,,4\n")
    arrivals = Arrivals(kind=ArrivalKind.TRACE, trace_file=str(path), concurrency=None)
    with ScriptedServer() as server:
        rows = run_load(workload(arrivals=arrivals), server.port, tmp_path / "t")
    assert [row["outcome"] for row in rows] == ["ok"] * 3
    assert [row["prompt_tokens"] for row in rows] == [9, 6, 7]
    assert [row["output_tokens_asked"] for row in rows] == [2, 4, 3]
    first = rows[0]["scheduled_ns"]
    assert [row["scheduled_ns"] - first for row in rows] == [0, 50_000_000, 200_000_000]


@pytest.mark.slow
def test_a_recorded_trial_is_a_trace(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        before = run_load(workload(requests=12), server.port, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    due = sorted(row["scheduled_ns"] for row in before)
    assert [row.due_s for row in trace.rows] == pytest.approx([(t - due[0]) / 1e9 for t in due])
    assert [row.output_tokens for row in trace.rows] == [5] * 12
    assert Workload(trace=tmp_path / "t").requests == 12


@pytest.mark.parametrize("text", ["", "t_s\nsoon\n", "t_s\nnan\n", "when\n1.0\n"])
def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match="traffic file"):
        read_trace(path)


@pytest.mark.slow
def test_a_closed_loop_follows_its_steps(tmp_path: Path) -> None:
    def late(head: bytes, body: bytes) -> Script:
        return [0.02, *generate(head, body)]

    steps = (Step(after_s=1.5, concurrency=8), Step(after_s=3.0, concurrency=1))
    arrivals = Arrivals(concurrency=2, steps=steps)
    load = workload(requests=None, duration_s=5.0, arrivals=arrivals, timeout_s=60.0)
    with ScriptedServer(late) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    rows.sort(key=lambda row: row["sent_ns"])
    begun_ns = rows[0]["sent_ns"]

    def at_work(after_s: float, until_s: float) -> int:
        between = (begun_ns + after_s * 1e9, begun_ns + until_s * 1e9)
        return len({r["client"] for r in rows if between[0] <= r["sent_ns"] < between[1]})

    # A step that comes late, on a machine that stalls, is a step all the same.
    assert (at_work(0.0, 1.0), at_work(1.0, 3.0), at_work(4.0, 5.0)) == (2, 8, 1)
    assert server.most_open == 8


@pytest.mark.slow
def test_a_workload_ends_after_its_seconds_and_hears_out_what_is_open(tmp_path: Path) -> None:
    def late(head: bytes, body: bytes) -> Script:
        return [0.2, *generate(head, body)]

    with ScriptedServer(late) as server:
        load = workload(requests=None, duration_s=3.0, timeout_s=60.0)
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    sent = [row["sent_ns"] for row in rows]
    assert 0.15e9 < max(sent) - min(sent) < 5e9


def stops(folder: Path) -> set[Stop | None]:
    """The rules that ended the workers of a trial."""
    return {progress_of(Counters(path).words).stop for path in folder.glob("load-*.counters")}


@pytest.mark.slow
def test_a_workload_ends_after_its_errors(tmp_path: Path) -> None:
    load = workload(requests=100_000, max_errors=10, processes=2)
    with ScriptedServer(lambda head, body: [0.01, b"nonsense\r\n\r\n"]) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"malformed"}
    assert 10 <= len(rows) < 1000
    assert stops(tmp_path / "t") == {Stop.ERRORS}


@pytest.mark.slow
def test_a_workload_ends_once_too_large_a_share_failed(tmp_path: Path) -> None:
    numbers = count()

    def half(head: bytes, body: bytes) -> Script:
        return generate(head, body) if next(numbers) % 2 else [b"nonsense\r\n\r\n"]

    with ScriptedServer(half) as server:
        few = workload(requests=4000, max_error_fraction=0.25, processes=2)
        rows = run_load(few, server.port, tmp_path / "few")
        assert 20 <= len(rows) < 2000
        assert sum(row["outcome"] == "malformed" for row in rows) >= LEAST_ERRORS
        assert stops(tmp_path / "few") == {Stop.ERROR_FRACTION}
        all_of_them = workload(requests=200, max_error_fraction=0.75)
        assert len(run_load(all_of_them, server.port, tmp_path / "all")) == 200
        assert stops(tmp_path / "all") == {None}


def test_a_step_of_the_other_kind_of_loop_is_refused() -> None:
    mixed = Arrivals(concurrency=2, steps=(Step(after_s=1.0, rate_per_s=5.0),))
    with pytest.raises(SpecError, match="not mixed"):
        workers_of(workload(arrivals=mixed))


def test_no_more_workers_take_part_than_there_are_clients() -> None:
    assert workers_of(workload(concurrency=2, processes=4)) == 2
    assert workers_of(open_loop(concurrency=None)) == 1
