"""What load hosts recorded, put together: pure parts and files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from load_helpers import trial

from kit.load.hosts.clocks import ClockLine, ClockOffset
from kit.load.hosts.merge import (
    ARRIVED,
    by_caller,
    merge_records,
    numbers_apart,
    twice,
    unsent,
)
from kit.load.worker.pacers import workers_of
from kit.study.arrow_file import ArrowAppender, stream_rows
from kit.study.folder import CLIENT, REQUESTS, TrialFolder
from kit.study.load_hosts import LoadHost, load_hosts_sentence, start_skew_s
from kit.study.workload import Workload

AHEAD_NS = 7_000_000_000_000
LINE = ClockLine(
    ClockOffset(at_ns=0, offset_ns=AHEAD_NS, error_ns=400_000),
    ClockOffset(at_ns=10**11, offset_ns=AHEAD_NS, error_ns=300_000),
)


def row(number: int, **others: object) -> dict[str, object]:
    times = {"scheduled_ns": 10, "sent_ns": 20, "first_ns": None, "end_ns": 40, "token_ns": None}
    moved = {
        name: None if at is None else at + AHEAD_NS if isinstance(at, int) else at
        for name, at in (times | others).items()
    }
    plain = dict.fromkeys(REQUESTS.names, None) | {"request": number, "outcome": "ok"}
    return plain | moved


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=REQUESTS)


def test_times_are_converted_and_nothing_else_is_touched() -> None:
    stamps = [AHEAD_NS + 30, AHEAD_NS + 35]
    rows = table(row(3, token_ns=stamps, tokens=None), row(1), row(2, token_ns=[]), row(4))
    moved = by_caller(rows, LINE)
    assert moved.schema == rows.schema
    assert moved["sent_ns"].to_pylist() == [20] * 4
    assert moved["first_ns"].to_pylist() == [None] * 4
    assert moved["token_ns"].to_pylist() == [[30, 35], None, [], None]
    assert moved["request"].to_pylist() == [3, 1, 2, 4]
    others = [name for name in REQUESTS.names if not name.endswith("_ns")]
    assert moved.select(others).equals(rows.select(others))


def test_no_rows_stay_none() -> None:
    assert by_caller(REQUESTS.empty_table(), LINE).equals(REQUESTS.empty_table())


def test_a_hosts_records_become_the_trials_with_the_clocks_error_beside_them(
    tmp_path: Path,
) -> None:
    folder = TrialFolder.create(tmp_path, trial(Workload()))
    arrived = tmp_path / ARRIVED
    arrived.mkdir()
    with ArrowAppender(arrived / "requests-5.arrows", REQUESTS) as appender:
        for numbers in ((1, 3), (5,)):
            appender.append_batch(table(*map(row, numbers)).to_batches()[0])
    whole = (arrived / "requests-5.arrows").read_bytes()
    (arrived / "requests-5.arrows").write_bytes(whole[:-60])  # its host was lost in mid-write
    health = {name: [AHEAD_NS + 9 if name == "t_ns" else 0] for name in CLIENT.names}
    with ArrowAppender(arrived / "client-5.arrows", CLIENT) as appender:
        appender.append(health)
    assert merge_records(tmp_path, 5, LINE, "host 2")["request"].to_pylist() == [1, 3]
    assert folder.requests()["end_ns"].to_pylist() == [40, 40]
    assert folder.client()["t_ns"].to_pylist() == [9]
    assert folder.damage == []
    parts = stream_rows(tmp_path / "requests-5.arrows", REQUESTS)  # as packing reads them
    assert [part.num_rows for part in parts] == [2]
    with pa.ipc.open_stream(tmp_path / "requests-5.arrows") as stream:
        about = stream.schema.metadata
    assert about[b"load_host"] == b"host 2"
    assert about[b"clock_error_ns"] == b"400000"


def test_records_of_a_clock_that_was_never_compared_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / ARRIVED).mkdir()
    with ArrowAppender(tmp_path / ARRIVED / "requests-0.arrows", REQUESTS) as appender:
        appender.append_batch(table(row(1)).to_batches()[0])
    assert merge_records(tmp_path, 0, None, "host 1").num_rows == 0
    assert not (tmp_path / "requests-0.arrows").exists()


def test_what_no_host_sent_is_named_with_its_host() -> None:
    sent = np.array([0, 1, 2, 4, 6, 7])
    owner = np.arange(8) % 2
    assert unsent(sent, 8, owner, 0).tolist() == []
    assert unsent(sent, 8, owner, 1).tolist() == [3, 5]
    assert numbers_apart([3, 5, 6, 7]) == "3, 5-7"
    assert numbers_apart(range(0, 20, 2)) == "0, 2, 4, 6, 8 and more"
    assert twice(sent) == []
    assert twice(np.array([4, 1, 4])) == [4]


def test_workers_are_those_of_all_hosts_and_never_more_than_clients() -> None:
    assert workers_of(Workload(concurrency=16, processes=2, load_hosts=3)) == 6
    assert workers_of(Workload(concurrency=4, processes=2, load_hosts=3)) == 4
    assert workers_of(Workload(concurrency=16, processes=2)) == 2
    assert workers_of(Workload(rate=5, load_hosts=4)) == 4


def test_the_sentence_states_error_and_skew_and_what_was_lost() -> None:
    hosts = [
        LoadHost(label=f"host {n}", workers=(n,), requests=9, clock_error_ns=n * 200_000,
                 began_late_s=n / 1000)
        for n in (1, 3)
    ]  # fmt: skip
    assert load_hosts_sentence([hosts]) == (
        "The load of a trial came from 2 hosts. Their clocks were compared to ±0.60 ms, and they "
        "began within 2.0 ms."
    )
    assert start_skew_s(hosts[:1]) is None
    assert load_hosts_sentence([(), ()]) == ""
    gone = LoadHost(label="host 4", workers=(3,), requests=2, failed="it has not answered for 6 s")
    assert "Of the load of host 4 a part was lost." in load_hosts_sentence([[*hosts, gone]])
