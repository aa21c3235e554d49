"""Traffic files as they are sent: times, lengths, prompts and shared beginnings are kept."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from load_helpers import run_load
from scripted_server import Script, ScriptedServer, generate

from kit.load.traffic.arrivals import due_times
from kit.load.traffic.traffic import Traffic
from kit.servers.models.common.answer import nonce_of
from kit.study.spec import Workload

FILES = Path(__file__).parents[1] / "study" / "traffic_files"


def load(name: str, **words: Any) -> Workload:
    return Workload(trace=FILES / name, timeout_s=20.0, seed=3, **words)


def prompts_of(workload: Workload) -> list[str]:
    traffic = Traffic(workload)
    return [traffic.call(number).text.decode() for number in range(workload.requests or 0)]


def since_first_s(rows: list[dict[str, Any]]) -> list[float]:
    first = min(row["scheduled_ns"] for row in rows)
    return [(row["scheduled_ns"] - first) / 1e9 for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_azure_is_sent_at_its_times_with_its_lengths(speed: float, tmp_path: Path) -> None:
    with ScriptedServer() as server:
        rows = run_load(load("azure.csv", trace_speed=speed), server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    wanted = [due / speed for due in (0.0, 0.048, 0.052, 0.12)]
    assert since_first_s(rows) == pytest.approx(wanted, abs=1e-6)
    assert min(row["sent_ns"] - row["scheduled_ns"] for row in rows) >= 0
    assert [row["prompt_tokens"] for row in rows] == [7, 5, 12, 1]
    assert [row["output_tokens_asked"] for row in rows] == [4, 3, 2, 1]  # of 0 tokens nothing comes


@pytest.mark.slow
def test_lengths_are_scaled(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        rows = run_load(load("azure.csv", trace_lengths=2), server.port, tmp_path / "t")
    assert [row["prompt_tokens"] for row in rows] == [14, 10, 24, 2]
    assert [row["output_tokens_asked"] for row in rows] == [8, 6, 4, 1]


def test_prompts_of_mooncake_share_exactly_the_blocks_that_their_hashes_share() -> None:
    first, second, third = (text.split() for text in prompts_of(load("mooncake.jsonl")))
    assert list(map(len, (first, second, third))) == [1030, 1500, 600]
    assert first[:1024] == second[:1024]
    assert first[1024] != second[1024]
    assert first[0] != third[0]
    assert first[512:599] == third[512:599]  # block 1 in both, up to the end of the shorter
    assert len({text[-1] for text in (first, second, third)}) == 3  # each has its own nonce


def test_shared_blocks_stay_shared_when_lengths_are_scaled() -> None:
    first, second, _ = (
        text.split() for text in prompts_of(load("mooncake.jsonl", trace_lengths=0.1))
    )
    assert (len(first), len(second)) == (103, 150)
    assert first[:102] == second[:102]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sharegpt.json", "openai.jsonl", "perf_analyzer.json"])
def test_prompts_are_sent_as_they_are_and_their_answers_checked(name: str, tmp_path: Path) -> None:
    workload = load(name, concurrency=2)
    seen: list[str] = []

    def answer(head: bytes, body: bytes) -> Script:
        seen.append(json.loads(body)["text_input"])
        return generate(head, body)

    with ScriptedServer(answer) as server:
        rows = run_load(workload, server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}, [row["evidence"] for row in rows]
    assert sorted(seen) == sorted(prompts_of(workload))
    assert [row["prompt_tokens"] for row in rows] == [
        len(text.split()) for text in prompts_of(workload)
    ]


def test_what_the_traffic_expects_is_what_the_simulated_engine_says() -> None:
    for name in ("sharegpt.json", "openai.jsonl", "mooncake.jsonl", "mooncake_sessions.jsonl"):
        traffic = Traffic(load(name))
        for number in range(4):
            call = traffic.call(number)
            assert nonce_of(call.text.decode()) == call.digits.decode()
            assert json.loads(b'"%b"' % call.prompt) == call.text.decode()


@pytest.mark.slow
def test_turns_of_a_session_follow_the_answer_and_wait_as_long_as_the_file_says(
    tmp_path: Path,
) -> None:
    with ScriptedServer() as server:
        rows = run_load(load("mooncake_sessions.jsonl"), server.port, tmp_path / "t")
    assert {row["outcome"] for row in rows} == {"ok"}
    assert [(row["conversation"], row["turn"]) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    first, second, third, other = rows
    assert second["scheduled_ns"] - first["end_ns"] == 30_000_000
    assert third["scheduled_ns"] - second["end_ns"] == 10_000_000
    assert other["scheduled_ns"] - first["scheduled_ns"] == 50_000_000
    # Each turn has what was said before it in its prompt: 5, then 5 + 2 + 3, then 10 + 2 + 2.
    assert [row["prompt_tokens"] for row in rows] == [5, 10, 14, 4]


@pytest.mark.slow
def test_a_wait_ends_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    path.write_text(
        '{"session_id": "a", "timestamp": 0, "input_length": 5, "output_length": 2}\n'
        '{"session_id": "a", "delay": 600000, "input_length": 5, "output_length": 2}\n'
    )
    workload = Workload(trace=path, duration_s=0.5, timeout_s=20.0)
    for processes in (1, 2):
        with ScriptedServer() as server:
            rows = run_load(
                workload.changed(processes=processes), server.port, tmp_path / str(processes)
            )
        assert [row["turn"] for row in rows] == [0]


@pytest.mark.slow
def test_workers_share_the_conversations_of_a_file(tmp_path: Path) -> None:
    workload = load("sharegpt.json", concurrency=2, processes=2, requests=9)
    with ScriptedServer() as server:
        rows = run_load(workload, server.port, tmp_path / "t")
    assert [row["request"] for row in rows] == list(range(9))
    assert {(row["conversation"], row["worker"]) for row in rows} == {
        (0, 0),
        (1, 1),
        (2, 0),
        (3, 1),
        (4, 0),
        (5, 1),
    }


def test_more_requests_than_the_file_has_go_through_it_again() -> None:
    workload = load("azure.csv", concurrency=2, requests=9)
    calls = list(Traffic(workload).first_calls(0, 1, workload.requests))
    assert [call.prompt_tokens for call in calls] == [7, 5, 12, 1, 7, 5, 12, 1, 7]
    assert len({call.digits for call in calls}) == 9


def test_a_file_ends_its_own_arrivals() -> None:
    assert len(list(islice(due_times(load("azure.csv")), 100))) == 4
