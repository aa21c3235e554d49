"""Traffic files as people have them: recognised by content, read as they say, refused clearly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import KitError, SpecError, StoreError
from kit.study.folder import StudyFolder
from kit.study.grid import tag_of
from kit.study.plan import plan
from kit.study.spec import ArrivalKind, StudySpec, Workload, embedded
from kit.study.traces.keep import rows_of
from kit.study.traces.notes import trace_notes
from kit.study.traces.pinned import pinned
from kit.study.traces.read import read_trace
from kit.study.traces.rows import merged

FILES = Path(__file__).with_name("traffic_files")


@pytest.mark.parametrize(
    ("name", "found", "requests", "is_timed"),
    [
        ("azure.csv", "azure", 4, True),
        ("azure_2024.csv", "azure", 2, True),
        ("burstgpt.csv", "burstgpt", 3, True),
        ("mooncake.jsonl", "mooncake", 3, True),
        ("mooncake_sessions.jsonl", "mooncake", 4, True),
        ("sharegpt.json", "sharegpt", 3, False),
        ("openai.jsonl", "openai", 4, False),
        ("perf_analyzer.json", "perf_analyzer", 5, False),
    ],
)
def test_a_file_is_recognised_by_its_content(
    name: str, found: str, requests: int, is_timed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "no name that says anything"
    shutil.copy(FILES / name, path)
    file = pinned(str(path))
    assert (file.format, file.requests, file.span_s is not None) == (found, requests, is_timed)
    assert pinned(str(file)) == file


def test_azure_times_are_kept_to_the_microsecond_and_sorted() -> None:
    rows = read_trace(FILES / "azure.csv").rows
    assert [row.due_s for row in rows] == pytest.approx([0.0, 0.048, 0.052, 0.12], abs=1e-6)
    assert [(row.prompt_tokens, row.output_tokens) for row in rows] == [
        (7, 4),
        (5, 3),
        (12, 2),
        (1, 0),
    ]


def test_sessions_of_mooncake_are_conversations_with_their_delays() -> None:
    rows = read_trace(FILES / "mooncake_sessions.jsonl").rows
    assert [row.conversation for row in rows] == [0, 0, 0, 1]
    assert [row.delay_s for row in rows] == pytest.approx([0.0, 0.03, 0.01, 0.0])
    assert [row.due_s for row in rows] == [0.0, None, None, 0.05]


def test_sharegpt_asks_for_as_many_words_as_were_answered() -> None:
    rows = read_trace(FILES / "sharegpt.json").rows
    assert rows[0].dialogue == ("How do trains\nstop?",)
    assert rows[1].dialogue == ("How do trains\nstop?", 'With brakes, "mostly".', "And ships?")
    assert [row.output_tokens for row in rows] == [3, 1, 5]


def test_words_of_a_system_stand_before_those_of_the_first_user() -> None:
    assert read_trace(FILES / "openai.jsonl").rows[0].dialogue == ("Be brief.\nName a river.",)
    assert merged([("assistant", "a"), ("user", "b"), ("tool", "c")]) == ("", "a", "b\nc")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,2\n", ["line 2", "TIMESTAMP = 'noon'"]),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,2\n",
            ["line 2", "ContextTokens = 'x'"],
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4\n", ["GeneratedTokens"]),
        (
            "Timestamp,Model,Request tokens,Response tokens\n1,m,5,5\n2,m,-3,5\n",
            ["line 3", "Request tokens = '-3'"],
        ),
        ("t_s,prompt_tokens\n1.5,4\ninf,3\n", ["line 3", "t_s = 'inf'"]),
        ("t_s\n1,2,3,4\n", ["line 2", "1 fields"]),
        (
            '{"timestamp": 0, "input_length": 4}\n{"timestamp": "x", "input_length": 4}',
            ["line 2", "timestamp = 'x'"],
        ),
        ('{"timestamp": 0, "input_length": 4, "hash_ids": 5}', ["line 1", "hash_ids = 5"]),
        ('{"timestamp": 0, "input_length": 4}\n{"timestamp": 1}', ["line 2", "input_length"]),
        ('{"timestamp": 1%s, "input_length": 4}' % ("0" * 400), ["line 1", "timestamp = 1000"]),
        ('{"timestamp": 0, "input_length": 1%s}' % ("0" * 400), ["line 1", "input_length = 1000"]),
        ('{"timestamp": 0, "input_length": 3000000000}', ["from 0 to 2,147,483,647"]),
        ('{"timestamp": 0, "input_length": 4, "hash_ids": [1e30]}', ["hash_ids = 1e+30"]),
        ("[" * 100_000, ["recursion"]),
        ("{\n" + "[" * 5000, ["no JSON"]),
        ('{"timestamp": 0, "input_length": 4}\nnonsense', ["line 2", "one JSON object a line"]),
        ('{"prompt": "x"}\n{"prompt": 7}', ["line 2", "prompt = 7"]),
        ('{"messages": [{"role": "user"}, 7]}', ["line 1", "messages[1] = 7"]),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            ["messages[0].content[0]"],
        ),
        (
            '[{"conversations": [{"from": "human", "value": 5}]}]',
            ["entry 0", "conversations[0].value = 5"],
        ),
        ('{"data": [{"INPUT0": [1, 2]}]}', ["data[0]", "INPUT0"]),
        ('{"data": [{"text_input": ["x"], "max_tokens": ["y"]}]}', ["data[0].max_tokens = 'y'"]),
        ('[{"conversations": []},\n nonsense]', ["line 2 column 2"]),
        ('{"what": "is this"}', ["which begins with"]),
        ("a text\nof two lines\n", ["which begins with 'a text'"]),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", ["without a request"]),
        ('{"timestamp": 0, "input_length": 4}\n{"input_length": 4}', ["only some requests"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_field(
    text: str, named: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "traffic"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        Workload(trace=path)
    for words in (str(path), *named):
        assert words in str(caught.value)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = data.draw(st.sampled_from([f.read_bytes() for f in sorted(FILES.glob("*.*s*"))]))
    at = data.draw(st.integers(0, len(whole)))
    cut = whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + data.draw(st.integers(0, 9)) :]
    path = tmp_path_factory.mktemp("traffic") / "file"
    path.write_bytes(cut)
    try:
        rows = read_trace(path).rows
    except SpecError:
        return
    assert rows
    assert all((row.prompt_tokens or 0) >= 0 for row in rows)


def test_a_trace_brings_its_times_and_its_number_of_requests() -> None:
    load = Workload(trace=FILES / "azure.csv")
    assert (load.arrivals.kind, load.requests, load.concurrency) == (ArrivalKind.TRACE, 4, None)
    assert Workload(trace=FILES / "azure.csv", requests=2).requests == 2
    fields = Workload(concurrency=3).changed(trace=FILES / "azure.csv")
    assert (fields.arrivals.kind, fields.requests) == (ArrivalKind.TRACE, 4)


def test_a_trace_is_sent_by_clients_or_at_a_rate_if_that_is_asked() -> None:
    path = FILES / "azure.csv"
    closed, open_loop = Workload(trace=path, concurrency=3), Workload(trace=path, rate=5)
    assert (closed.is_closed_loop, closed.concurrency) == (True, 3)
    assert (open_loop.arrivals.kind, open_loop.rate) == (ArrivalKind.POISSON, 5)
    assert closed.trace == open_loop.trace
    assert Workload(trace=FILES / "sharegpt.json").is_closed_loop


def test_words_that_do_not_go_with_a_file_are_refused() -> None:
    with pytest.raises(SpecError, match="has no times"):
        Workload(trace=FILES / "sharegpt.json", arrivals="trace")
    with pytest.raises(SpecError, match="without a trace"):
        Workload(trace_speed=2)
    with pytest.raises(SpecError, match="turns = 2 with a trace"):
        Workload(trace=FILES / "azure.csv", turns=2)
    with pytest.raises(SpecError, match="arrivals = 'trace' with no trace"):
        Workload(arrivals="trace")
    with pytest.raises(SpecError, match="cannot be read"):
        Workload(trace="no such file")


def study_of(path: Path, **traffic: object) -> StudySpec:
    return StudySpec(
        name="s",
        servers=embedded("24.05"),
        workload=Workload(),
        grid={"trace": (str(path),), **traffic},  # type: ignore[dict-item]
        repeats=1,
    )


def test_files_can_be_swept_and_trials_are_named_after_them() -> None:
    spec = study_of(FILES / "azure.csv")
    (trial,) = plan(spec)
    assert trial.workload.arrivals.kind is ArrivalKind.TRACE
    assert "azure-0abe712e" in trial.trial_id
    assert tag_of("trace", spec.grid["trace"][0]) == "trace-azure-0abe712e"


def test_a_study_keeps_the_requests_and_needs_the_file_no_more(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    shutil.copy(FILES / "azure.csv", path)
    spec = study_of(path)
    (trial,) = plan(spec)
    folder = StudyFolder.create(tmp_path / "study", spec).new_trial(trial)
    path.unlink()
    moved = tmp_path / "elsewhere"
    (tmp_path / "study").rename(moved)
    assert trial.workload.trace is not None
    rows = rows_of(trial.workload.trace, moved / "trials" / folder.path.name)
    assert rows == read_trace(FILES / "azure.csv").rows
    assert plan(StudyFolder(moved).spec) == [trial]  # nor does its plan
    head = json.loads(next(iter((moved / "traces").iterdir())).read_text().split("\n")[0])
    assert (head["source"], head["format"]) == ("azure.csv", "azure")


def test_a_file_that_changed_or_a_kept_one_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    shutil.copy(FILES / "azure.csv", path)
    spec = study_of(path)
    (trial,) = plan(spec)
    study = StudyFolder.create(tmp_path / "study", spec)
    path.write_text(path.read_text().replace("7,4", "8,4"))
    with pytest.raises(SpecError, match="has changed"):
        study.new_trial(trial)
    shutil.copy(FILES / "azure.csv", path)
    study.new_trial(trial)
    (kept,) = (study.path / "traces").iterdir()
    kept.write_text(kept.read_text().replace('"prompt_tokens":5', '"prompt_tokens":6'))
    with pytest.raises(StoreError, match="checksum"):
        rows_of(trial.workload.trace or "", study.path)


@pytest.mark.parametrize("end", ["requests=0&sha256=" + "0" * 64, "requests=4&sha256=zz", ""])
def test_a_name_changed_by_hand_is_refused(end: str) -> None:
    with pytest.raises(KitError, match="traffic file"):
        pinned(f"azure.csv#format=azure&{end}")


def test_what_an_engine_is_sure_to_refuse_is_said_before(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("t_s,prompt_tokens,output_tokens\n0,4000,100\n2,10,10\n")
    (trial,) = plan(study_of(path, trace_speed=(10.0,)))
    first, second = trace_notes([trial, trial])
    assert "2 requests over 2 s; all of them, 10 times as fast" in first
    assert "4,100 tokens" in second
    assert "trace_lengths=0.45" in second
    assert len(trace_notes(plan(study_of(path, trace_lengths=(0.45,))))) == 1
