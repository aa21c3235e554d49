"""Every parser on its seeds, on each input that was a finding once, and on some random changes.

The long run, by coverage, is `python -m benchmarks fuzz`.
"""

from __future__ import annotations

import random
import secrets
import sys
import time
from pathlib import Path
from threading import Event

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.fuzz import campaign  # noqa: E402
from benchmarks.fuzz.mutate import mutated  # noqa: E402
from benchmarks.fuzz.targets import TARGETS  # noqa: E402

#: Processor time for the random inputs of one target, and how many at the most.
MOST_S = 0.3
MOST_INPUTS = 300


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_gives_named_errors_alone_whatever_it_reads(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    for data in (*seeds, *campaign.kept(name)):
        target.run(data)
    seed = secrets.token_hex(4)
    print(f"random inputs of seed {seed!r}")
    rng = random.Random(seed)
    until = time.thread_time() + MOST_S
    for _ in range(MOST_INPUTS):
        if time.thread_time() > until:
            break
        data = mutated(rng, seeds, target.words, target.largest_bytes)
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"seed {seed!r}, the input was {data!r}")
            raise


def test_the_kept_inputs_are_small_few_and_of_targets_that_there_are() -> None:
    files = [path for path in campaign.KEPT.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= TARGETS.keys()
    assert len(files) <= 100
    for path in files:
        data = path.read_bytes()
        assert path.name == campaign.name_of(data)
        assert len(data) <= 16_384


def test_a_target_that_breaks_a_promise_or_takes_too_long_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = TARGETS["shown-text"]
    monkeypatch.setattr("benchmarks.fuzz.text.clean_text", lambda text, *, lines=True: text)
    with pytest.raises(AssertionError, match="x1b"):
        target.run(b"\x1b[31m")
    monkeypatch.undo()
    monkeypatch.setattr("benchmarks.fuzz.target.SLOWEST_S", 0.0)
    with pytest.raises(AssertionError, match="bytes"):
        target.run(b"\x1b[31m")


def test_a_campaign_goes_on_where_it_stopped_and_counts_anew_from_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = ["", "IndexError: one", "", "", ""]

    def fuzz(
        target: campaign.Target, *, seed: int, cpu_s: float, folder: Path, over: Event
    ) -> campaign.Run:
        figures = {"executions": 100, "coverage": 7, "features": 9, "inputs": 2}
        said = findings.pop(0)
        return campaign.Run(target=target.name, seed=seed, cpu_s=cpu_s, finding=said, **figures)

    monkeypatch.setattr(campaign, "fuzz", fuzz)
    path, target = tmp_path / "f.jsonl", TARGETS["metrics"]
    runs = campaign.run(path, [target], seed=5, minutes=10)  # 5 minutes and a finding
    assert [run.seed for run in runs] == [5, 6]
    with path.open("a") as file:
        file.write('{"target": "met')  # killed while it wrote
    runs = campaign.run(path, [target], seed=5, minutes=10)
    assert [run.seed for run in runs[2:]] == [7, 8]
    row = campaign.table(runs, {"metrics": target}).splitlines()[-1]
    assert row == "| metrics | Prometheus text of /metrics | 10.0 | 200 | 7 | 9 | 1 |"
    assert campaign.run(path, [target], seed=5, minutes=10) == runs, "nothing is left to do"


def test_what_libfuzzer_says_becomes_a_run() -> None:
    said = (
        "#7\tINITED cov: 5 ft: 6 corp: 2/9b exec/s: 0 rss: 40Mb\n"
        " === Uncaught Python exception: ===\nIndexError: list index out of range\n"
        'Traceback (most recent call last):\n  File "/a/b/kit/x.py", line 12, in read\n    y\n'
    )
    assert campaign._what(said) == "IndexError: list index out of range (x.py:12 read)"
    assert campaign._what("==1== ERROR: libFuzzer: timeout\nSUMMARY: libFuzzer: timeout\n") == (
        "SUMMARY: libFuzzer: timeout"
    )
    assert campaign._escaped(b'a"\x00') == "a\\x22\\x00"


def test_an_input_that_took_long_on_a_busy_machine_alone_is_no_finding(tmp_path: Path) -> None:
    slow = tmp_path / "timeout-1"
    slow.touch()
    ending = [sys.executable, "-c", "import sys; sys.exit(sys.argv[-1].endswith('timeout-1'))"]
    assert campaign._again(ending, str(slow)), "it ends badly alone, too"
    assert not campaign._again([sys.executable, "-c", "pass"], str(slow))
    assert campaign._again([sys.executable, "-c", "pass"], str(tmp_path / "crash-1"))
