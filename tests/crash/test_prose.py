"""A death that is only quoted or spoken of is none: in sentences, prompts, requests, chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.crash.diagnose import diagnose, diagnose_chunks

STACKS = Path(__file__).parent / "stacks"
ALL_LINES = [
    line.strip()
    for path in sorted(STACKS.glob("*.log"))
    for line in path.read_text(errors="replace").splitlines()
    if line.strip()
]
#: Without those that would end a quotation.
LINES = st.sampled_from([line for line in ALL_LINES if not {"'", '"', "\\"} & {*line}])
PROSE = ("the", "log", "of", "our", "server", "says", "that", "a", "model", "was", "slow", "and")
WORDS = st.lists(st.sampled_from(PROSE), min_size=2, max_size=9).map(" ".join)
#: How people speak of a line: in issues, manuals, comments and answers.
SENTENCES = st.sampled_from(
    [
        "The log of our server says {}",
        "Sometimes we see {}",
        "It ends like this: {}",
        "After an upgrade the {} appears on every node.",
        "On both machines {} comes up once a day, nobody knows why.",
        "* If you get {}, set the timeout higher.",
        "@maria I had {} as well and a reboot helped",
        "[Bug]: {} when I send two requests",
        "## How to fix {}",
        "3. Watch for {} in the log",
        "Q: what does {} mean?",
        "{} is what we see since the upgrade",
        "{} happens whenever I send two requests at once.",
        "{} - does anybody know why?",
        "`{}` is printed and the pod restarts",
        "- `{}`: the server ran out of memory",
        "1. **{}** - the process read a wrong address",
        "| `{}` | the stub died |",
        "Yes, {} too",
        "I'm getting {} with vLLM 0.6.3, any idea?",
        "A line such as {} points to a damaged heap.",
        "Could this be related to {}?",
        "Closing, since {} was caused by a wrong driver.",
        "Fixed a bug where {} was printed on shutdown (#1234)",
        "- Fix {} when a request is cancelled (#7332)",
        "$ grep '{}' server.log",
        "INFO 06-07 17:13:56 [chat.py:88] the model says: {}",
        "2024-05-01 10:00:01,123 INFO chat: user asked about {} and left",
        "I0101 10:00:01.000000 1 model.py:20] user wrote {} and then left",
        "INFO:     chat: {} is what my server prints, help",
    ]
)
QUOTED = st.one_of(
    st.builds(lambda a, b: f"INFO 06-07 17:13:56 [chat.py:88] {a} says: {b}", WORDS, LINES),
    st.builds(lambda a, b: f"{a} says {b}", WORDS, LINES),
    st.builds(lambda a, b: f"{a} why does it print '{b}' then", WORDS, LINES),
    st.builds(
        lambda a, b: (
            f"INFO 06-07 17:13:56 logger.py:39] Received request 7: prompt: '{a}\\n"
            + "\\n".join(b)
            + "', params: SamplingParams(n=1)"
        ),
        WORDS,
        st.lists(LINES, max_size=8),
    ),
    st.builds(
        lambda a, b: (
            f"INFO 06-07 17:13:56 logger.py:39] Received request 7: prompt: '{a}\n"
            + "\n".join(b)
            + "', params: SamplingParams(n=1)"
        ),
        WORDS,
        st.lists(LINES, max_size=8),
    ),
    st.builds(
        lambda b: json.dumps({"messages": [{"role": "user", "content": "\n".join(b)}]}),
        st.lists(LINES, max_size=8),
    ),
    st.builds(lambda form, line: form.format(line), SENTENCES, st.sampled_from(ALL_LINES)),
    WORDS,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(QUOTED, max_size=6).map("\n".join))
def test_prose_and_quotations_are_no_death(text: str) -> None:
    found = diagnose(text)
    assert not found.died, (found.summary, found.line)


@pytest.mark.parametrize(
    "words",
    [
        "a#012free(): invalid pointer#012",
        'x"}#012free(): invalid pointer#012',
        'x"}\n#012free(): invalid pointer',
        "it's #012Aborted (core dumped)#012'}",
    ],
)
@pytest.mark.parametrize("asked", ["{}", "prompt: {!r}, params: SamplingParams(n=1)", "syslog"])
def test_what_a_client_writes_as_syslog_does_is_not_read_so(words: str, asked: str) -> None:
    said = json.dumps({"text_input": words})
    record = {"{}": said, "syslog": json.dumps({"log": f"request: {said}\n"})}
    line = record.get(asked) or asked.format(words)
    assert not diagnose(f"I0101 10:00:01.000000 1 model.py:20] {line}\n").died
    assert diagnose("I0101 10:00:01.000000 1 model.py:20] a#012free(): invalid pointer").died


def test_words_about_an_exit_are_no_exit() -> None:
    assert not diagnose("INFO [chat.py:88] the model says: Exited with code 137").died
    assert not diagnose("The message triton-1 exited with code 137 has no cause in it").died
    row = (
        '{}a1b2c3d4e5f6   triton:24.10   "tritonserver"   2 hours ago   Exited (139) 2 minutes ago'
    )
    assert diagnose(row.format("")).died
    assert not diagnose(row.format("The log of our server says ")).died
    assert diagnose("error: the container exited with code 137").died


@pytest.mark.parametrize(
    "record",
    [
        "ollama.service: Failed with result 'oom-kill'.",
        "triton-0   0/1     CrashLoopBackOff   6          10m",
        "Warning BackOff 2m (x5 over 10m) kubelet Back-off restarting failed container",
        "RuntimeError: Failed to update model: Stub process 'a_0' is not healthy.",
        "loading weights 57% 4/7free(): invalid pointer",
        "python3: ../a.cc:5: T f(U) [with U = int]: Assertion `x > 0' failed.",
        "/workspace/start.sh: line 15:   341 Segmentation fault      (core dumped) tritonserver",
        '2026-02-03T05:06:07Z kube.triton: {"log": "Signal (11) received."}',
        "Process was terminated with exit code 139",
    ],
)
def test_what_a_record_has_around_the_words_of_a_crash_is_no_prose(record: str) -> None:
    assert diagnose(record).died
    assert not diagnose(f"Our manual says {record}").died
    assert not diagnose(f"{record} is what we see").died


def test_a_quotation_that_began_among_lines_that_tell_nothing_is_still_one() -> None:
    quiet = "".join(f"INFO 06-07 17:13:{n % 60:02d} api.py:1] all is well\n" for n in range(3000))
    opened = "INFO 06-07 17:13:56 engine.py:436] Received request 7d1c: prompt: 'Explain this:\n"
    quoted = (STACKS / "server-7332.log").read_text() + "', params: SamplingParams(n=1)\n"
    assert not diagnose(quiet + opened + quoted).died
    assert not diagnose_chunks([quiet, opened, "to me\n", quoted]).died, "as a pipe gives it"
    assert diagnose(quiet + opened + "', params: SamplingParams(n=1)\n" + quoted).died


def test_a_crash_behind_a_quotation_mark_that_nothing_closes_is_read() -> None:
    opened = "INFO 06-07 17:13:56 logger.py:39] Received request 7: prompt: 'why\n"
    assert diagnose(opened + (STACKS / "server-7332.log").read_text()).died
