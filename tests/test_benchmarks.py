"""The benchmarks: honest to read and to repeat, whatever the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks import __main__ as program  # noqa: E402
from benchmarks import readme, results, source  # noqa: E402
from benchmarks.commands import readable  # noqa: E402
from benchmarks.kit_worker import prepare, trial, workload  # noqa: E402
from benchmarks.processes import measure  # noqa: E402
from benchmarks.real import Seen, agreement  # noqa: E402
from benchmarks.results import Result, Results, summary  # noqa: E402
from benchmarks.tools import PEERS, Work, tokenizer  # noqa: E402
from kit.study.spec import Client, Endpoint, Protocol  # noqa: E402


def work(folder: Path, **changes: Any) -> Work:
    plain: dict[str, Any] = {
        "port": 12345,
        "clients": 4,
        "tokens": 8,
        "streams": False,
        "seconds": 0.5,
        "folder": folder,
    }
    return Work(**plain | changes)


def test_a_tool_is_asked_for_no_more_than_the_source_can_send(tmp_path: Path) -> None:
    streams = work(tmp_path, streams=True, clients=64, tokens=50, seconds=6.0)
    assert streams.requests(1_000) == 6_000
    paced = replace(streams, interval_us=20_000)  # an answer takes a second
    assert paced.requests(1_000) == 64 * 6
    assert replace(paced, seconds=0.1).requests(1_000) == 64


@pytest.fixture
def bench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the peers that is not the user's."""
    home = tmp_path / "bench"
    home.mkdir()
    for module in ("tools", "commands"):
        monkeypatch.setattr(f"benchmarks.{module}.HOME", home)
    return home


@pytest.mark.parametrize("name", [name for name in PEERS if name != "perf_analyzer"])
def test_a_command_in_the_results_names_no_folder_of_this_machine(
    name: str, tmp_path: Path, bench_home: Path
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    said = readable(PEERS[name].command(work(folder)), {str(folder): "FOLDER", "12345": "PORT"})
    for place in (ROOT, Path.home(), tmp_path, Path(sys.prefix)):
        assert f"{place}/" not in said
    assert " /" not in said.replace("--endpoint /v1/", "")
    assert "PORT" in said
    assert "12345" not in said


def test_the_kits_own_command_can_be_repeated_from_the_checkout(tmp_path: Path) -> None:
    command = prepare(workload(work(tmp_path)), Endpoint(http_port=80), tmp_path)
    said = readable(command, {str(tmp_path): "FOLDER", "80": "PORT"})
    assert said.startswith(".venv/bin/python -P benchmarks/alone.py FOLDER/trial 1 ")
    assert '"http_port":PORT' in said


def test_a_port_is_replaced_only_where_it_is_the_whole_number(tmp_path: Path) -> None:
    assert readable(["wrk", "-c64", "http://h:64", "-d640"], {"64": "PORT"}) == (
        "wrk -cPORT http://h:PORT -d640"
    )


def test_several_of_the_kits_workers_share_a_benchmark(tmp_path: Path) -> None:
    with source.own_source(is_pinned=False) as up:
        load = workload(work(tmp_path, port=up.port, cores=2), requests=400, duration_s=None)
        command = prepare(load, Endpoint(http_port=up.port), tmp_path)
        subprocess.run(command, check=True, timeout=60)
        served, _ = up.count()
    rows = trial(tmp_path).requests().to_pylist()
    assert served == len(rows) == 400
    assert {row["outcome"] for row in rows} == {"ok"}
    assert {row["worker"] for row in rows} == {0, 1}


@pytest.mark.parametrize("client", Client)
@pytest.mark.parametrize("protocol", [Protocol.GRPC_INFER, Protocol.GRPC_STREAM])
def test_the_grpc_source_answers_either_client_well(
    tmp_path: Path, client: Client, protocol: Protocol
) -> None:
    with source.grpc_source(is_pinned=False) as up:
        load = workload(
            work(tmp_path, clients=8),
            protocol=protocol,
            grpc_client=client,
            requests=400,
            duration_s=None,
        )
        endpoint = Endpoint(grpc_port=up.port, http_port=up.port)
        subprocess.run(prepare(load, endpoint, tmp_path), check=True, timeout=60)
        served, tokens = up.count()
    rows = trial(tmp_path).requests().to_pylist()
    assert served == len(rows) == 400
    assert {row["outcome"] for row in rows} == {"ok"}
    assert tokens == (8 * 400 if protocol is Protocol.GRPC_STREAM else 0)


def test_no_two_openai_answers_of_the_source_have_the_same_id() -> None:
    body = {"stream": True, "max_tokens": 2, "messages": [{"content": "[n:01234567] hi"}]}
    with source.own_source(is_pinned=False) as up:
        url = f"http://127.0.0.1:{up.port}/v1/chat/completions"
        ids = []
        for _ in range(3):
            ask = ["curl", "-s", url, "-d", json.dumps(body)]
            said = subprocess.run(ask, capture_output=True, check=True).stdout
            events = [json.loads(line[6:]) for line in said.splitlines() if b'"id"' in line]
            assert len(events) == 2
            ids.append({event["id"] for event in events})
    assert all(len(one) == 1 for one in ids)
    assert len(set.union(*ids)) == 3


LEAVES_A_CHILD = """
import signal, subprocess, sys
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
print(child.pid, flush=True)
"""


def test_nothing_that_a_tool_leaves_running_lives_on(tmp_path: Path) -> None:
    with source.own_source(is_pinned=False) as up:
        command = [sys.executable, "-c", LEAVES_A_CHILD]
        usage = measure(command, up.count, core=None, folder=tmp_path)
        assert not Path(f"/proc/{int(usage.output)}").exists()
        assert up.count() == (0, 0)  # the source is no tool: it goes on


def test_what_ran_before_a_tool_is_not_charged_to_it_and_lives_on(tmp_path: Path) -> None:
    burns = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with (
        source.own_source(is_pinned=False) as up,
        subprocess.Popen([sys.executable, "-c", burns], start_new_session=True) as server,
    ):
        peer = "import time; time.sleep(8)"  # a slow machine looks once a second
        begun = time.monotonic()

        def count() -> tuple[int, int]:
            return round(1000 * (time.monotonic() - begun)), 0

        usage = measure([sys.executable, "-c", peer], count, core=None, folder=tmp_path)
        assert server.poll() is None
        os.killpg(server.pid, signal.SIGKILL)
    assert usage.cores is not None
    assert usage.cores < 0.2
    assert up.port


def seen(p50_ms: float, deviation_ms: float) -> Seen:
    return Seen(
        requests_per_s=100.0,
        cpu_us_a_request=50.0,
        p50_ms=p50_ms,
        average_ms=p50_ms,
        deviation_ms=deviation_ms,
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "agrees"),
    [
        ([(10.0, 0.1), (10.4, 0.1)], [(11.0, 0.7), (11.2, 0.5)], True),
        ([(10.0, 0.1), (10.2, 0.1)], [(11.0, 0.7), (11.2, 0.5)], False),
        ([(12.0, 9.0)], [(11.0, 0.1)], False),  # our own spread is no excuse
        ([(12.0, 0.1), (9.0, 0.1)], [(11.0, 0.1)], True),
    ],
)
def test_latencies_agree_within_the_peers_own_spread(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]], agrees: bool
) -> None:
    found, note = agreement([seen(*one) for one in ours], [seen(*one) for one in theirs])
    assert found is agrees
    assert "clients / rate" in note


FIGURES = [
    Result(name="a", value=0.7, low=0.6, high=0.8, unit="ratio", target=">= 0.6", rounds=3),
    Result(name="b", value=3.0, unit="ratio", target="<= 2", command="wrk -c64", peer="wrk"),
    Result(name="c", value=None, unit="ratio", target=">= 100", note="it is not installed"),
    Result(name="d", value=5.0, unit="MB"),
]


def test_the_closing_summary_counts_what_was_met_missed_and_not_measured() -> None:
    said = summary(FIGURES)
    assert said.startswith("Targets: 1 met, 1 not met, 1 not measured.")
    assert "it is not installed" in said


@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_a_missed_target_ends_with_1_only_when_that_was_asked_for(
    strict: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    monkeypatch.setattr(results, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(readme.update, "__defaults__", (page, tmp_path / "results.json"))

    def case(into: Results, rounds: int) -> None:
        """A case."""
        for figure in FIGURES:
            into.add(figure)

    monkeypatch.setattr(program, "CASES", {"case": case})
    monkeypatch.setattr(program.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "case", *strict])
    assert program.main() == code
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `b` | 3 |  | 0 | ratio | <= 2 | **not met** | wrk | `wrk -c64` |" in text
    assert "| `c` | not measured |" in text


def test_the_table_in_the_readme_is_that_of_the_results(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(readme.README.read_text("utf-8"), "utf-8")
    readme.update(page)
    assert page.read_text("utf-8") == readme.README.read_text("utf-8")


def test_a_tokenizer_of_our_own_asks_no_hub(bench_home: Path) -> None:
    assert (tokenizer() / "tokenizer.json").is_file()
    assert tokenizer().is_relative_to(bench_home)
