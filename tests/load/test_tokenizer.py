"""Lengths and counts by a tokenizer file: prompts have the tokens asked for, answers are counted
where their server does not, and a file that is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from load_helpers import run_load, trial, workload
from scripted_server import Script, ScriptedServer, answer, generate
from tokenizer_files import KINDS, tokenizer_file
from tokenizers import Tokenizer

from kit.errors import KitError, SpecError, StoreError
from kit.load.traffic.traffic import Traffic
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder
from kit.study.grid import number_of, tag_of
from kit.study.spec import AnswerCheck, Protocol, StudySpec, Workload, embedded, uniform
from kit.study.tokenizer_file import as_tokenizer, keep_tokenizer
from kit.study.traces.notes import trace_notes

FILES = Path(__file__).parents[1] / "study" / "traffic_files"


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_file(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_file(tmp_path_factory.mktemp("tokenizer"))


def sizes(path: Path, load: Workload, count: int) -> list[tuple[int, int]]:
    """(tokens of the prompt as it is, as its call says) of the first requests."""
    read = Tokenizer.from_file(str(path))
    calls = [Traffic(load).call(0), *(Traffic(load).call(n) for n in range(1, count))]
    return [
        (len(read.encode(call.text.decode(), add_special_tokens=False).ids), call.prompt_tokens)
        for call in calls
    ]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [32, 128, 1000])
@pytest.mark.parametrize("prompts", [None, "unicode"])
def test_a_prompt_has_the_tokens_that_were_asked_for(
    path: Path, prompts: str | None, tokens: int
) -> None:
    load = Workload(tokenizer=path, prompt_tokens=tokens, prompt_set=prompts)
    for real, planned in sizes(path, load, 8):
        assert real == pytest.approx(tokens, rel=0.02)
        assert planned == tokens


@pytest.mark.slow
def test_lengths_that_vary_a_prefix_and_turns_are_in_tokens(path: Path) -> None:
    varied = Workload(tokenizer=path, prompt_tokens="16:400", shared_prefix_tokens=200)
    words = Workload(prompt_tokens="16:400", shared_prefix_tokens=200)
    for number, (real, planned) in enumerate(sizes(path, varied, 8)):
        asked = Traffic(words).call(number).prompt_tokens  # the same draws, in words
        assert real == pytest.approx(max(asked, 216), rel=0.02)
        assert planned == real
    for real, planned in sizes(path, Workload(tokenizer=path, prompt_tokens=50, turns=3), 6):
        assert real == planned
    first, second = (Traffic(varied).call(number).text for number in (0, 1))
    assert first[:400] == second[:400]


def test_a_prompt_is_never_shorter_than_what_marks_it(one: Path) -> None:
    ((real, planned), _) = sizes(one, Workload(tokenizer=one, prompt_tokens=1), 2)
    assert real == planned > 1


@pytest.mark.parametrize("name", ["azure.csv", "burstgpt.csv", "mooncake.jsonl"])
def test_prompts_of_a_traffic_file_have_its_lengths_in_tokens(path: Path, name: str) -> None:
    words, load = Workload(trace=FILES / name), Workload(trace=FILES / name, tokenizer=path)
    smallest = Traffic(Workload(tokenizer=path, prompt_tokens=1)).call(0).prompt_tokens
    for number, (real, planned) in enumerate(sizes(path, load, load.requests or 0)):
        asked = Traffic(words).call(number).prompt_tokens
        assert real == pytest.approx(max(asked, smallest), rel=0.02, abs=1)
        assert planned == pytest.approx(real, abs=1)


def test_shared_blocks_of_mooncake_stay_shared(path: Path) -> None:
    load = Workload(trace=FILES / "mooncake.jsonl", tokenizer=path)
    first, second, third = (Traffic(load).call(number).text for number in range(3))
    read = Tokenizer.from_file(str(path))

    def ids(text: bytes) -> Any:
        return read.encode(text.decode(), add_special_tokens=False).ids

    # Of 1,030 tokens; the last ones are the word that marks the prompt.
    assert ids(first)[:1015] == ids(second)[:1015]
    assert ids(first)[:4] != ids(third)[:4]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sharegpt.json", "openai.jsonl", "perf_analyzer.json"])
def test_prompts_that_a_file_has_are_sent_as_they_are_and_counted(one: Path, name: str) -> None:
    load = Workload(trace=FILES / name, tokenizer=one)
    words = Workload(trace=FILES / name)
    for number, (real, planned) in enumerate(sizes(one, load, load.requests or 0)):
        assert planned == real
        assert Traffic(load).call(number).text == Traffic(words).call(number).text


def test_the_answers_of_a_file_are_as_long_in_tokens(one: Path) -> None:
    read = Tokenizer.from_file(str(one))
    entry = json.loads((FILES / "sharegpt.json").read_text())[0]
    said = next(turn["value"] for turn in entry["conversations"] if turn["from"] == "gpt")
    call = Traffic(Workload(trace=FILES / "sharegpt.json", tokenizer=one)).call(0)
    assert call.output_tokens == len(read.encode(said, add_special_tokens=False).ids)
    assert call.output_tokens > len(said.split())


@pytest.mark.slow
@pytest.mark.parametrize("check", [AnswerCheck.EXACT, AnswerCheck.ECHO])
def test_answers_are_counted_by_the_file_where_the_server_does_not(
    one: Path, check: AnswerCheck, tmp_path: Path
) -> None:
    load = workload(
        tokenizer=as_tokenizer(one), requests=60, answer_check=check, prompt_tokens=uniform(20, 60)
    )
    with ScriptedServer(generate) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    read = Tokenizer.from_file(str(one))
    prompts = {}
    for _, body in server.seen:
        text = json.loads(body)["text_input"]
        prompts[text.split("]")[0]] = text
    assert {row["tokens_by"] for row in rows} == {"tokenizer"}
    traffic = Traffic(load)
    for row in rows:
        call = traffic.call(row["request"])
        said = "".join(f" {call.digits.decode()}:{index}" for index in range(5))
        assert row["tokens_out"] == len(read.encode(said, add_special_tokens=False).ids)
        assert row["tokens_in"] == row["prompt_tokens"] == call.prompt_tokens


@pytest.mark.slow
def test_a_server_that_counts_is_believed_before_the_file(one: Path, tmp_path: Path) -> None:
    def some(head: bytes, body: bytes) -> Script:
        usage = {"prompt_tokens": 50, "completion_tokens": 3}
        said = {"choices": [{"message": {"content": "and so on"}}]}
        return [
            answer(json.dumps(said | ({"usage": usage} if len(server.seen) % 2 else {})).encode())
        ]

    load = workload(
        protocol=Protocol.OPENAI_CHAT,
        tokenizer=as_tokenizer(one),
        requests=20,
        answer_check=AnswerCheck.NONE,
    )
    with ScriptedServer(some) as server:
        rows = run_load(load, server.port, tmp_path / "t")
    assert sorted({row["tokens_by"] for row in rows}) == ["server", "tokenizer"]
    read = Tokenizer.from_file(str(one))
    tokens = len(read.encode("and so on", add_special_tokens=False).ids)
    assert {row["tokens_out"] for row in rows if row["tokens_by"] == "tokenizer"} == {tokens}


BROKEN = {
    "no JSON": b"{",
    "another JSON": b'{"model": "llama"}',
    "nothing": b"",
    "no tokenizer": b'{"version":"1.0","model":{"type":"BPE"}}',
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=r"tokenizer\.json.*none") as caught:
        Workload(tokenizer=path)
    assert "tokenizers" in caught.value.expected


def test_a_file_that_is_not_there_is_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    for given in (tmp_path / "nowhere.json", "Qwen/Qwen2.5-0.5B", tmp_path):
        with pytest.raises(SpecError, match="cannot be read") as caught:
            Workload(tokenizer=given)
        assert "fetches nothing" in caught.value.hint
    with pytest.raises(SpecError, match="tokenizer = 3"):
        Workload(tokenizer=3)  # type: ignore[arg-type]


def test_the_folder_of_a_model_will_do(one: Path) -> None:
    load = Workload(tokenizer=one.parent, prompt_tokens=64)
    assert sizes(one, load, 2)[0] == (64, 64)


def test_a_spec_names_the_file_and_its_contents(one: Path) -> None:
    load = Workload(tokenizer=one)
    assert load.tokenizer is not None
    assert from_json(to_json(load), Workload) == load
    assert load.changed(concurrency=2).tokenizer == load.tokenizer
    assert str(number_of(load.tokenizer)).startswith("tokenizer.json (")
    assert tag_of("tokenizer", load.tokenizer)[:3] == "tok"
    assert f"tokens by {number_of(load.tokenizer)}" in trace_notes(
        [trial(Workload(tokenizer=one, trace=FILES / "azure.csv"))]
    )[0]  # fmt: skip


def test_a_study_keeps_the_file_and_notices_a_change(one: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(one.read_bytes())
    load = Workload(tokenizer=path, prompt_tokens=40)
    spec = StudySpec(name="s", servers=embedded("23.10"), workload=load)
    study = StudyFolder.create(tmp_path / "study", spec)
    keep_tokenizer(study.path, load.tokenizer)
    before = Traffic(load).call(3).text
    path.write_bytes(one.read_bytes() + b" ")
    with pytest.raises(SpecError, match="has changed"):
        Traffic(load)
    path.unlink()
    assert Traffic(load, within=study.path).call(3).text == before
    (kept,) = (study.path / "traces").iterdir()
    kept.write_bytes(b"{}")
    with pytest.raises(StoreError, match="damaged"):
        Traffic(load, within=study.path)


@pytest.mark.parametrize("text", ["x#tokenizer_sha256=12", "x#tokenizer_sha256=" + "g" * 64])
def test_a_name_that_was_changed_by_hand_is_refused(text: str) -> None:
    with pytest.raises(KitError, match="tokenizer file"):
        Workload(tokenizer=text)
