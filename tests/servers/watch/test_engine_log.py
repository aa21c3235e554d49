"""The engine log reader against lines of every vLLM format, and against logs gone wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kit.servers.watch import names
from kit.servers.watch.engine_log import MAX_LINE_CHARS, EngineLog
from kit.servers.watch.tail import MAX_LINE_BYTES, Tail

LINES = yaml.safe_load(Path(__file__).with_name("engine_log_lines.yaml").read_text())
V0, V1 = LINES[0]["line"], LINES[-1]["line"]
ALL_PARTS = (
    "(EngineCore pid=1) INFO 11-01 10:00:00 [loggers.py:335] Engine 000: Avg prompt throughput: "
    "1.0 tokens/s, Avg generation throughput: 2.0 tokens/s, Running: 1 reqs, Waiting: 5 reqs, "
    "Deferred: 2 reqs, KV fetch: 1 waiting to start, 2 in progress, 3 completed waiting, "
    "Preemptions: 4, GPU KV cache usage: 99.9%"
)


def read(*lines: str) -> list[names.Sample]:
    log = EngineLog()
    return [sample for line in lines for sample in log.read_line(line, t_ns=7)]


def values(*lines: str) -> dict[str, float]:
    """The last value of each name."""
    return {sample.name: sample.value for sample in read(*lines)}


@pytest.mark.parametrize("row", LINES, ids=[row["vllm"] for row in LINES])
def test_a_line_of_each_vllm_version_gives_its_figures(row: dict[str, Any]) -> None:
    expected = {
        names.RUNNING: row["running"],
        names.WAITING: row["waiting"],
        names.PROMPT_RATE: row["prompt_per_s"],
        names.GENERATION_RATE: row["generation_per_s"],
        names.KV_USAGE: row["kv_percent"] / 100,
    }
    if row["swap_percent"] is not None:
        expected |= {names.KV_SWAP_USAGE: row["swap_percent"] / 100, names.SWAPPED: 0}
    if row["hits_percent"] is not None:
        expected[names.PREFIX_HITS] = row["hits_percent"] / 100

    assert values(row["line"]) == pytest.approx(expected)
    assert all(s.source == names.ENGINE_LOG and s.t_ns == 7 for s in read(row["line"]))


def test_optional_parts_are_read_and_named() -> None:
    found = values(ALL_PARTS)

    assert found[names.DEFERRED] == 2
    assert found[names.PREEMPTIONS] == 4
    assert found[names.KV_USAGE] == pytest.approx(0.999)


def test_device_and_engine_become_labels() -> None:
    [labels] = {s.labels for s in read(V1)}

    assert json.loads(labels) == {"device": "CPU", "engine": "000"}


def test_preemptions_of_v1_add_up_over_lines_and_apart_for_each_engine() -> None:
    other = ALL_PARTS.replace("Engine 000", "Engine 001")
    samples = [s for s in read(ALL_PARTS, other, ALL_PARTS) if s.name == names.PREEMPTIONS]

    assert [s.value for s in samples] == [4, 4, 8]


def test_the_preemption_warning_of_v0_tells_the_total() -> None:
    line = (
        "WARNING 08-20 10:18:39 scheduler.py:1141] Sequence group 147 is preempted by "
        "PreemptionMode.RECOMPUTE mode because there is not enough KV cache space. This can "
        "affect the end-to-end performance. Increase gpu_memory_utilization or "
        "tensor_parallel_size to provide more KV cache memory. "
        "total_num_cumulative_preemption=51"
    )

    assert values(line) == {names.PREEMPTIONS: 51}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "INFO 06-07 17:13:00 llm_engine.py:337] # GPU blocks: 2482, # CPU blocks: 327",
            {names.KV_BLOCKS: 2482, names.KV_SWAP_BLOCKS: 327},
        ),
        (
            "INFO 01-22 18:20:00 executor_base.py:110] # CUDA blocks: 27443, # CPU blocks: 2340",
            {names.KV_BLOCKS: 27443, names.KV_SWAP_BLOCKS: 2340},
        ),
        (
            "INFO 07-28 06:40:00 [kv_cache_utils.py:716] GPU KV cache size: 43,520 tokens",
            {names.KV_CACHE_TOKENS: 43520},
        ),
        (
            "CPU KV cache size: 1,024 tokens, Maximum concurrency for 512 tokens per request: "
            "2.00x",
            {names.KV_CACHE_TOKENS: 1024, names.MAX_CONCURRENCY: 2.0},
        ),
        (
            "Engine 000: Iteration(61): 1 context requests, 3 context tokens, 2 generation "
            "requests, 2 generation tokens, iteration elapsed time: 4.10 ms, CPU KV cache "
            "usage: 9.7%",
            {names.KV_USAGE: 0.097},
        ),
        (
            "INFO 08-20 02:39:37 metrics.py:427] Prefix cache hit rate: GPU: 12.50%, CPU: 0.00%",
            {names.PREFIX_HITS: 0.125},
        ),
    ],
)
def test_start_up_and_step_lines_are_read(line: str, expected: dict[str, float]) -> None:
    assert values(line) == pytest.approx(expected)


@pytest.mark.parametrize("prefix", ["\x1b[0;36m(APIServer pid=9)\x1b[0;0m ", '{"message": "', "x"])
def test_prefixes_do_not_matter(prefix: str) -> None:
    assert values(prefix + V1) == values(V1)


def test_two_messages_that_ran_into_one_line_are_both_read() -> None:
    both = [s.value for s in read(V0 + V1) if s.name == names.KV_USAGE]

    assert both == pytest.approx([0.987, 1.0])


@pytest.mark.parametrize("cut", range(1, V1.index("usage") + 10, 7))
def test_a_message_cut_by_another_is_left_out_and_the_other_read(cut: int) -> None:
    """Not one figure of the first may be joined with one of the second."""
    assert values(V0[:cut] + V1) == values(V1)


@pytest.mark.parametrize(("mark", "via"), names.LOG_MARKS.items())
def test_lines_after_a_remedys_mark_say_that_they_came_through_it(mark: str, via: str) -> None:
    before, after = EngineLog(), EngineLog()
    after.read_line(f"{mark} 1.0 s", t_ns=0)

    assert names.VIA not in before.read_line(V1, t_ns=0)[0].labels
    assert json.loads(after.read_line(V1, t_ns=0)[0].labels)[names.VIA] == via


def test_with_both_remedies_a_line_names_both_since_either_may_have_asked_for_it() -> None:
    log = EngineLog()
    for mark in names.LOG_MARKS:
        log.read_line(mark, t_ns=0)
    via = json.loads(log.read_line(V1, t_ns=0)[0].labels)[names.VIA]

    assert via == f"{names.VIA_HOOK}, {names.VIA_MODEL}"


@pytest.mark.parametrize(
    "line", ["", "I1122 10:00:00 server.cc:1] KV cache", "Running: 3 reqs", "usage: 5.0%"]
)
def test_other_lines_give_nothing(line: str) -> None:
    assert read(line) == []


#: Pieces of messages that a careless pattern would begin to read again and again.
HOSTILE = [
    "7" * 64,
    "w" * 64,
    "Engine 0: ",
    "Iteration(1): ",
    "# GPU blocks: ",
    "9,999",
    ALL_PARTS[:-20],
    V0[:-20],
]


def read_chunk(line: str) -> float:
    """Processor time for 1 MiB of such lines."""
    log, lines = EngineLog(), [line] * (1024 * 1024 // len(line))
    began = time.process_time()
    for each in lines:
        log.read_line(each, t_ns=0)
    return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_mebibyte_costs_little_more_than_one_of_engine_lines(piece: str) -> None:
    hostile = (piece * MAX_LINE_CHARS)[: MAX_LINE_CHARS - 20] + " KV cache KV cache "

    assert read_chunk(hostile) < 5 * read_chunk(V1)


def test_a_line_longer_than_any_engines_is_passed_over() -> None:
    assert read(V1 + " " * (MAX_LINE_CHARS - len(V1))) == read(V1)
    assert read(V1 + " " * MAX_LINE_CHARS) == []


@given(st.text(), st.text(), st.integers(0, len(ALL_PARTS)))
def test_no_line_is_an_error(before: str, after: str, cut: int) -> None:
    for sample in read(before + ALL_PARTS[:cut] + after, before + after):
        assert sample.value >= 0


@given(st.binary(max_size=4096), st.lists(st.integers(0, 4096), max_size=6))
def test_a_log_read_in_pieces_gives_what_it_gives_whole(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cuts: list[int]
) -> None:
    data = noise + b"\n" + V1.encode() + b"\r\n" + V0.encode()
    path = tmp_path_factory.mktemp("log") / "server.log"
    tail, lines = Tail(path), []
    path.touch()
    start = 0
    for end in [*sorted(cuts), len(data)]:
        with path.open("ab") as log:
            log.write(data[start:end])
        start = max(start, min(end, len(data)))
        lines += tail.read()
    lines += tail.flush()
    tail.close()

    whole = noise.decode(errors="replace")  # decoded by line, so only the end is compared
    assert lines[-2:] == [V1, V0], whole


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text("first\nhalf")

    assert tail.read() == ["first"]
    tail.close()


def test_a_log_that_was_replaced_or_truncated_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("old line one\nold half")
    tail = Tail(path)
    tail.read()
    path.write_text("new\n")
    assert tail.read() == ["new"]
    other = tmp_path / "other"
    other.write_text("another\n")
    other.replace(path)

    assert tail.read() == ["another"]
    tail.close()


def test_an_endless_line_costs_bounded_memory_and_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(b"x" * (4 * MAX_LINE_BYTES))
    tail = Tail(path)
    lines = tail.read()
    with path.open("ab") as log:
        log.write(b"still the same line\nnext\n")
    lines += tail.read()
    tail.close()

    assert lines == ["next"]
