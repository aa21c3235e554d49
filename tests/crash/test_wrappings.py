"""A death is read in whatever wrapping its log comes, and none is read where it is only quoted."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.crash.diagnose import diagnose, diagnose_chunks, diagnose_file
from kit.crash.log import source
from kit.crash.several import diagnose_folder
from kit.crash.state import State
from kit.errors import LogError
from kit.study.plain_yaml import from_yaml

STACKS = Path(__file__).parent / "stacks"
TIME = "2026-02-03T05:06:07.000456789Z"
POD = "triton-7cd84c8f4b-abcde"
DEATHS = {
    "a stack of the server": "server-7332.log",
    "a dead engine": "vllm-10024.log",
    "a watchdog": "llamafactory-6953.log",
    "Ray's monitor": "easyr1-185.log",
    "a debugger": "server-7938.log",
    "the kernel": "synthetic-kernel.log",
    "a worker's error": "vllm-20170.log",
    "a start that failed": "vllm-23176.log",
    "a probe": "llm-d-sim-45.log",
}


def _each(make: Callable[[str], str]) -> Callable[[str], str]:
    return lambda log: "".join(make(line) + "\n" for line in log.splitlines())


def _rows(log: str) -> list[str]:
    return log.splitlines()


def _csv(log: str, quoting: int) -> str:
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(["timestamp", "pod", "message"])
    writer.writerows([TIME, POD, line] for line in _rows(log))
    return out.getvalue()


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda log: log,
    "kubectl --timestamps": _each(lambda line: f"{TIME} {line}"),
    "kubectl --prefix": _each(lambda line: f"[pod/{POD}/triton] {line}"),
    "CRI": _each(lambda line: f"2026-02-03T05:06:07.000456789+01:00 stderr F {line}"),
    "compose": _each(lambda line: f"triton-1  | {line}"),
    "compose in colour": _each(lambda line: f"\x1b[36mtriton-1  |\x1b[0m {line}"),
    "a swarm's service": _each(lambda line: f"llm_triton.1.x8k2j@node-3    | {line}"),
    "a journal": _each(lambda line: f"Feb 03 05:06:07 gpu-3 docker[1234]: {line}"),
    "a journal in ISO": _each(lambda line: f"2026-02-03T05:06:07+0100 gpu3 triton[12]: {line}"),
    "a journal's export": _each(lambda line: f"MESSAGE={line}"),
    "a journal's JSON": _each(lambda line: json.dumps({"PRIORITY": "6", "MESSAGE": line})),
    "syslog": _each(lambda line: f"<134>1 {TIME} gpu-3 triton 12 - - {line}"),
    "docker's JSON": _each(lambda line: json.dumps({"log": line + "\n", "stream": "stderr"})),
    "Loki's JSON": _each(lambda line: json.dumps({"line": line, "timestamp": TIME, "fields": {}})),
    "any key": _each(lambda line: json.dumps({"ts": TIME, "lvl": "info", "payload": line})),
    "nested JSON": _each(lambda line: json.dumps({"log": json.dumps({"message": line})})),
    "a search's hits": lambda log: json.dumps(
        {"hits": {"hits": [{"_source": {"message": line}} for line in _rows(log)]}}
    ),
    "a query's streams": lambda log: json.dumps(
        {"data": {"result": [{"stream": {}, "values": [["17", line] for line in _rows(log)]}]}}
    ),
    "one JSON array": lambda log: json.dumps([{"message": line} for line in _rows(log)]),
    "a JSON array, spread": lambda log: json.dumps(
        [{"timestamp": 1737504812000, "message": line} for line in _rows(log)], indent=2
    ),
    "an array of lines": lambda log: json.dumps(_rows(log)),
    "one record": lambda log: json.dumps({"time": TIME, "message": log}),
    "a forwarder's tag": _each(lambda line: f"{TIME} kube.triton: {json.dumps({'log': line})}"),
    "Ruby's hash": _each(
        lambda line: (
            f"[0] kube: [[1737.0, {{}}], {json.dumps({'log': line}).replace(': ', '=>', 1)}]"
        )
    ),
    "CSV": lambda log: _csv(log, csv.QUOTE_MINIMAL),
    "CSV, all quoted": lambda log: _csv(log, csv.QUOTE_ALL),
    "logfmt": _each(lambda line: f"time={TIME} level=info msg={json.dumps(line)}"),
    "stern": _each(lambda line: f"{POD} triton {line}"),
    "aws logs tail": _each(lambda line: f"{TIME} vllm/vllm-0/0123abcd {line}"),
    "colours": _each(lambda line: f"\x1b[31m{line}\x1b[0m"),
    "colours written out": _each(lambda line: f"#033[2m#033[33m(raylet)#033[0m {line}"),
    "colours of which the first byte is lost": _each(lambda line: f"[36mtriton-1 |[0m {line}"),
    "Windows": lambda log: log.replace("\n", "\r\n"),
    "a byte order mark": lambda log: "\ufeff" + log,
    "quoted mail": _each(lambda line: f"> > {line}"),
    "grep": _each(lambda line: f"server.log:12:{line}"),
    "a bullet": _each(lambda line: f"- {line}"),
    "a table": _each(lambda line: f"│ {line}        │"),
    "mpirun": _each(lambda line: f"[1,0]<stderr>:{line}"),
    "Ray": _each(lambda line: f"(RayWorkerWrapper pid=12, ip=10.0.0.1) {line}"),
}


def _answer(text: str) -> tuple[bool, int | None, str]:
    found = diagnose(text)
    return found.died, found.signal, found.component.value


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_death_survives(wrapping: str) -> None:
    for what, name in DEATHS.items():
        log = (STACKS / name).read_text()
        assert _answer(WRAPPINGS[wrapping](log)) == _answer(log), what


INDEX: list[dict[str, Any]] = from_yaml((STACKS / "index.yaml").read_text())
DEAD = [row["file"] for row in INDEX if row.get("died", True)]
LIVING = [row["file"] for row in INDEX if not row.get("died", True)]
#: A record under a key that nobody knows says a single word as a status says it, and a worker's
#: tag names the engine: both change what a log says.
STATUSES = {"any key"}
NAMING = {"Ray"}


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(DEAD), wrapping=st.sampled_from(sorted(WRAPPINGS.keys() - STATUSES)))
def test_any_death_survives_any_wrapping(name: str, wrapping: str) -> None:
    log = (STACKS / name).read_text()
    died, signal, component = _answer(log)
    found = _answer(WRAPPINGS[wrapping](log))
    assert found[:2] == (died, signal), name
    assert found[2] == component or wrapping in NAMING, name


#: What containers write, read by what collects it.
OUTER = (
    "docker's JSON",
    "CRI",
    "a journal's JSON",
    "Loki's JSON",
    "CSV",
    "one JSON array",
    "stern",
)
INNER = ("compose", "colours", "kubectl --timestamps", "mpirun", "docker's JSON", "Windows")


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(DEAD), outer=st.sampled_from(OUTER), inner=st.sampled_from(INNER))
def test_a_death_survives_a_wrapping_in_a_wrapping(name: str, outer: str, inner: str) -> None:
    log = (STACKS / name).read_text()
    assert _answer(WRAPPINGS[outer](WRAPPINGS[inner](log)))[:2] == _answer(log)[:2], name


def _folded(log: str, width: int) -> str:
    """As somebody copies it from a terminal of so many columns."""
    return "\n".join(
        line[at : at + width]
        for line in log.splitlines()
        for at in range(0, max(len(line), 1), width)
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120, 200])
def test_nearly_all_deaths_survive_a_terminal_that_folds_their_lines(width: int) -> None:
    logs = {name: _folded((STACKS / name).read_text(), width) for name in DEAD}
    missed = [name for name, log in logs.items() if not _answer(log)[0]]
    assert len(missed) <= 0.02 * len(DEAD), missed


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_living_servers_log_is_no_death_in_a_terminal(width: int) -> None:
    logs = {name: _folded((STACKS / name).read_text(), width) for name in LIVING}
    assert not [name for name, log in logs.items() if _answer(log)[0]]


def test_a_folded_line_has_the_number_of_its_first_part() -> None:
    line = "[2026-01-01 10:00:00 +0000] [1] [ERROR] [triton-1] [rank 0] Signal (11) received."
    found = diagnose(_folded(f"before\n{line}\nbehind", 64))
    assert (found.signal, found.line, found.lines) == (11, 2, 4)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(LIVING),
    wrapping=st.sampled_from(sorted(WRAPPINGS)),
    order=st.randoms(use_true_random=False),
)
def test_a_living_servers_log_is_no_death_wrapped_or_shuffled(
    name: str, wrapping: str, order: random.Random
) -> None:
    lines = (STACKS / name).read_text().splitlines(keepends=True)
    assert not _answer(WRAPPINGS[wrapping]("".join(lines)))[0], name
    order.shuffle(lines)
    assert not _answer("".join(lines))[0], name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_a_death_survives_an_encoding(encoding: str, tmp_path: Path) -> None:
    log = (STACKS / "server-7332.log").read_text()
    path = tmp_path / "log"
    path.write_bytes(log.encode(encoding))
    assert diagnose_file(path).top_frame == "TRITONBACKEND_ResponseFactoryIsCancelled"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_log_is_read(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "server.log.packed"
    log = (STACKS / "server-7332.log").read_bytes()
    path.write_bytes(pack(log * 3))
    assert diagnose_file(path).top_frame == "TRITONBACKEND_ResponseFactoryIsCancelled"
    assert diagnose_file(path).lines == 3 * log.count(b"\n")


def test_what_is_no_log_is_refused_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LogError, match="a device"):
        diagnose_file(Path("/dev/zero"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(source, "SILENCE_S", 0.3)
    with pytest.raises(LogError, match="nothing was written"):
        diagnose_file(pipe)
    holes = tmp_path / "holes.log"
    with holes.open("wb") as file:
        file.truncate(2 << 30)
    monkeypatch.setattr(source, "MOST_ZEROS", 1 << 20)
    with pytest.raises(LogError, match="nothing but zero bytes"):
        diagnose_file(holes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match="no file that looks like a log"):
        diagnose_folder(tmp_path / "empty")


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    log = (STACKS / "server-7332.log").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(log,))
    writer.start()
    found = diagnose_file(pipe)
    writer.join()
    assert found.died


def test_a_folders_logs_are_put_in_order_and_the_first_death_is_named(tmp_path: Path) -> None:
    log = (STACKS / "server-7332.log").read_text().splitlines()
    (tmp_path / "triton.log").write_text("2026-02-03T05:06:09Z all is well\n")
    (tmp_path / "triton.log.1").write_text("".join(f"{TIME} {line}\n" for line in log[3:]))
    packed = gzip.compress("".join(f"{TIME} {line}\n" for line in log[:3]).encode())
    (tmp_path / "triton.log.2.gz").write_bytes(packed)
    engine = (STACKS / "vllm-10024.log").read_text().splitlines()
    later = "".join(f"2026-02-03T05:06:08Z {line}\n" for line in engine)
    (tmp_path / "vllm.log").write_text(later)
    (tmp_path / "sidecar.log").write_text("2026-02-03T05:06:00Z nothing\n")
    found = diagnose_folder(tmp_path)
    assert [log.name for log in found.dead] == ["triton.log", "vllm.log"]
    assert found.first is not None
    assert found.first.diagnosis is not None
    assert found.first.files == ("triton.log.2.gz", "triton.log.1", "triton.log")
    assert found.first.diagnosis.top_frame == "TRITONBACKEND_ResponseFactoryIsCancelled"
    assert "2 of 3 logs tell of a death; first that of triton.log" in found.summary


def test_a_line_with_countless_ways_to_read_a_name_in_it_is_read_at_once() -> None:
    began = time.process_time()
    diagnose(" 0# 0x00007F" + "$" * 16_000 + " in tritonserver\n")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ["vllm-20361.log", "server-7332.log", "measured-23.10-1.log"])
def test_a_stack_is_read_alike_wherever_the_log_is_cut(name: str) -> None:
    lines = (STACKS / name).read_text().splitlines(keepends=True)
    whole = diagnose_chunks(["".join(lines)])
    for at in range(1, len(lines)):
        parts = ["".join(lines[:at]), "".join(lines[at:])]
        assert diagnose_chunks(parts) == whole, f"cut behind line {at}"


@pytest.mark.parametrize(
    ("name", "state", "word"),
    [
        ("vllm-27313.log", State.HANGS, "Nothing died"),
        ("server-5310.log", State.HANGS, "a thread waits"),
        ("server-5197.log", State.NO_MODEL, "unsupported toolchain"),
        ("vllm-20361.log", State.FAILED_TO_START, "undefined symbol"),
        ("llm-d-sim-45.log", State.KILLED, "failed liveness probe"),
    ],
)
def test_a_server_that_is_sick_has_a_word_of_its_own(name: str, state: State, word: str) -> None:
    found = diagnose_file(STACKS / name)
    assert found.state is state
    assert word in found.summary


def test_what_is_known_of_a_death_is_advised() -> None:
    assert "/dev/shm" in diagnose_file(STACKS / "vllm-859.log").advice
    assert "startupProbe" in diagnose_file(STACKS / "llm-d-sim-45.log").advice
    assert "OOMKilled" in diagnose("triton-1 exited with code 137").advice
    broken = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert "Restart the process" in diagnose(broken).advice
    clash = "Signal (11) received.\n" + "\n".join(
        f" {at}# {frame}"
        for at, frame in enumerate(
            [
                "0x000055D4EAAEC8A9 in tritonserver",
                "0x00007F62E2C4B210 in /lib/x86_64-linux-gnu/libc.so.6",
                "re2::RE2::Match(int) const in /lib/x86_64-linux-gnu/libre2.so.5",
                "0x000055D4EAAF1196 in tritonserver",
            ]
        )
    )
    assert "LD_PRELOAD" in diagnose(clash).advice
