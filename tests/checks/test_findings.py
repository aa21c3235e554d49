"""Before a study each piece of advice is checked: severity, reason and hint, or why it was not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import kit
from kit.checks import here
from kit.checks.finding import Finding, Preflight, Severity, in_order_of_gravity
from kit.checks.gpu import gpu_findings
from kit.checks.here import client_findings
from kit.checks.run import preflight
from kit.servers import whereabouts
from kit.servers.gpu import Gpu, gpus_here
from kit.servers.whereabouts import is_on_this_machine, is_own_address, tunnel_at
from kit.study.plan import plan
from kit.study.spec import TrialSpec, Workload
from kit.ui.choices import Servers, choose
from kit.ui.cli import main

TITAN = Gpu(
    index="0",
    uuid="GPU-1",
    name="an old one",
    capability=(6, 1),
    driver="520.61",
    memory_mib=16_000,
    used_mib=9_000,
)


def found(
    servers: Servers, scenario: str | Sequence[str] | None = None, **traffic: object
) -> Preflight:
    """Of a quick preflight, which asks neither Pythons nor container engines."""
    workload = None if scenario else Workload()
    return preflight(choose(servers, scenario, workload, name="p", **traffic), is_quick=True)


def about(findings: Preflight, topic: str) -> list[Finding]:
    return [one for one in findings.findings if one.topic == topic]


def trials(**words: object) -> list[TrialSpec]:
    workload = Workload(**words)  # type: ignore[arg-type]
    return plan(choose("24.05", workload=workload, name="p", repeats=1))


def test_a_release_that_dies_under_the_traffic_is_warned_of_with_where_to_move_and_where_not() -> (
    None
):
    worst, *_ = about(found("24.10", "cancel-race"), "release")
    assert worst.severity is Severity.WARNS
    assert "is-cancelled-after-final" in worst.found
    assert "10 of 10 trials died on 24.10" in worst.found
    assert "not known to be hit: 23.12–24.07" in worst.hint
    assert "do not move to 23.10, 23.11, 24.08, 24.09 and 24.11–" in worst.hint
    assert "23.04" not in worst.hint, "which has no generate endpoint to serve this with"


def test_a_release_that_was_measured_and_lived_is_ok_and_one_that_was_not_is_not_checked() -> None:
    states = {f.severity for f in about(found("24.05", "cancel-race"), "release")}
    assert Severity.OK in states
    assert Severity.WARNS not in states
    later = found(kit.container("25.06"), "http-disconnect")
    states = {f.severity for f in about(later, "release")}
    assert Severity.NOT_CHECKED in states
    assert Severity.OK not in states


def test_traffic_of_ones_own_is_compared_with_the_faults_of_the_catalog() -> None:
    cancels = found("24.05", protocol="grpc-stream", cancel=0.3)
    assert any("grpc-stream-cancel-state-race" in f.found for f in cancels.warnings)
    quiet = found("24.05", protocol="grpc-stream")
    assert not [f for f in quiet.warnings if f.topic == "release"]


def test_what_takes_a_model_that_asks_is_a_note_for_models_that_the_kit_did_not_write() -> None:
    server = kit.container("24.10", model="m", gpus="all")
    notes = [f for f in about(found(server), "release") if "is-cancelled" in f.found]
    assert [f.severity for f in notes] == [Severity.NOTES]
    assert "takes a model that does so" in notes[0].reason
    assert not [f for f in about(found("24.10"), "release") if f.severity is Severity.WARNS]


@pytest.mark.parametrize(
    ("release", "severity", "said"),
    [
        ("24.05", Severity.NOTES, "none of vLLM; KV usage comes from vLLM's log"),
        ("24.10", Severity.NOTES, "counters of requests and tokens"),
        ("25.10", Severity.WARNS, "KV usage neither there nor in its log"),
    ],
)
def test_what_the_official_backend_tells_of_its_cache_depends_on_the_release(
    release: str, severity: Severity, said: str
) -> None:
    (one,) = about(found(kit.container(release, model="m", gpus="all")), "metrics")
    assert one.severity is severity
    assert said in one.found
    assert "kit/servers/models/vllm/README.md" in one.hint


def test_a_container_of_another_image_has_an_unknown_release_and_vllm() -> None:
    server = kit.container(image="mine:latest", model="m", shm="64m")
    all_of_it = found(server)
    for topic in ("release", "vLLM version", "metrics", "KV cache"):
        assert about(all_of_it, topic)[0].severity is Severity.NOT_CHECKED
    assert about(all_of_it, "shared memory")[0].severity is Severity.WARNS
    assert about(all_of_it, "GPU")[0].severity is Severity.WARNS
    tagged = found(kit.container(image="mine/triton:23.11-vllm-python-py3", model="m"))
    assert "official image of 23.11 has 0.2.1.post1" in about(tagged, "vLLM version")[0].found


def test_sequences_longer_than_the_engine_takes_are_warned_of() -> None:
    server = kit.container("24.10", model="m", gpus="all", engine_args={"max_model_len": 512})
    warned = [f for f in found(server, prompt_tokens="500:600").warnings if f.topic == "KV cache"]
    assert "632 tokens, and the engine takes 512" in warned[0].found
    assert not [f for f in found(server).warnings if f.topic == "KV cache"]


def test_a_cache_too_small_for_the_traffic_is_warned_of_and_an_open_loop_is_not_checked() -> None:
    many = found("24.05", "control", concurrency=1000, output_tokens=900)
    assert [f for f in many.warnings if f.topic == "KV cache"]
    (unknown,) = about(found("24.05", "control", rate=5), "KV cache")
    assert unknown.severity is Severity.NOT_CHECKED


def judged(gpus: list[Gpu] | str, **words: str) -> list[Finding]:
    cuda = {"CUDA_VERSION": words["cuda"]} if "cuda" in words else {}
    release, asked = words.get("release"), words.get("asked", "all")
    return list(gpu_findings(asked, gpus, release=release, environment=cuda, server="s"))


def test_an_old_driver_a_small_capability_and_a_busy_gpu_are_warned_of() -> None:
    capability, memory, driver = judged([TITAN], release="25.03", cuda="12.8.1")
    assert {f.severity for f in (capability, memory, driver)} == {Severity.WARNS}
    assert "6.1" in capability.found
    assert "7.5" in capability.reason
    assert "525" in driver.reason
    fine, _, older = judged([TITAN], release="25.02", cuda="11.8.0")
    assert fine.severity is older.severity is Severity.OK


def test_gpus_that_are_not_there_block_or_warn_and_what_the_image_does_not_tell_is_said() -> None:
    assert judged("there is no nvidia-smi")[0].severity is Severity.WARNS
    assert judged([TITAN], asked="3")[0].severity is Severity.BLOCKS
    assert judged([TITAN])[-1].severity is Severity.NOT_CHECKED


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("echo '0, GPU-1, NVIDIA L4, 550.54.15, 23034, 12, 8.9'", [(8, 9)]),
        ("echo '0, GPU-1, old, 390.1, [N/A], 1, [N/A]'", [None]),
        (
            "case $1 in *cap*) echo 'not a valid field'; exit 2;; esac; "
            "echo '0, GPU-1, NVIDIA T4, 470.1, 15109, 2'",
            [None],
        ),
        ("echo 'no driver' >&2; exit 9", "nvidia-smi fails: no driver"),
    ],
)
def test_gpus_are_read_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seen: object
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    there = gpus_here()
    assert (there if isinstance(there, str) else [gpu.capability for gpu in there]) == seen
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus_here() == "there is no nvidia-smi"


def test_a_rate_that_a_client_cannot_send_is_warned_of() -> None:
    (slow,) = client_findings(trials(rate=100, concurrency=1))
    assert slow.severity is Severity.OK
    fast, *_ = client_findings(trials(rate=2000, protocol="http-generate-stream"))
    assert fast.severity is Severity.WARNS
    assert "raise processes" in fast.hint
    (closed,) = client_findings(trials(concurrency=4))
    assert closed.severity is Severity.NOTES


def test_clients_beyond_files_ports_and_cores_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(here, "_open_files", lambda: 256)
    monkeypatch.setattr(here, "_outgoing_ports", lambda: 1_000)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    words = {f.found for f in client_findings(trials(concurrency=200)) if f.is_grave}
    assert "200 clients, and a process may open 256 files" in words
    leaving = client_findings(trials(rate=100, protocol="http-generate-stream", disconnect=1.0))
    assert any("6,000 connections" in f.found for f in leaving)
    shared = client_findings(trials(processes=2), at_a_time=2, busy_fraction=0.9)
    assert [f.found.split()[0] for f in shared if f.is_grave] == ["90%", "2"]


def test_the_gravest_stand_first_and_each_once() -> None:
    ok = Finding(topic="t", severity=Severity.OK, found="f")
    warns = Finding(topic="t", severity=Severity.WARNS, found="f")
    assert in_order_of_gravity([ok, warns, ok]) == (warns, ok)


def test_a_loopback_port_that_a_tunnel_holds_is_on_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_own_address("localhost")
    assert is_own_address(socket.gethostbyname("localhost"))
    assert not is_own_address("192.0.2.7")
    assert not is_own_address("no such name")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert tunnel_at(port) is None
        assert is_on_this_machine("127.0.0.1", port)
        monkeypatch.setattr(
            whereabouts.psutil, "Process", lambda pid: SimpleNamespace(name=lambda: "kubectl")
        )
        assert tunnel_at(port) == "kubectl"
        assert not is_on_this_machine("127.0.0.1", port)


HOSTILE = "<script>\x1b[31m\u202e"


def test_the_card_is_escaped_cleaned_and_says_why_and_what_to_do() -> None:
    from kit.ui.preflight_card import PreflightCard

    bad = Finding(
        topic="t", severity=Severity.BLOCKS, found=HOSTILE, reason=HOSTILE, hint="do", server="s"
    )
    card = PreflightCard(servers=("s",), traffic=("w",), findings=(bad,))
    for text in (repr(card), card._repr_html_()):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "BLOCKS" in text
        assert "why: " in text
        assert "hint: do" in text
    assert "<script>" not in card._repr_html_()
    assert card.summary == "s under w: 1 thing blocks it."


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.ui.cli.signal.signal", lambda *_: None)


def test_the_command_prints_a_page_or_json_and_ends_with_1_if_something_blocks(
    own_signals: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    assert main(["preflight", "25.10", "--model", "m", "--gpus", "all", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["severity"] == "blocks"
    assert told["findings"][0]["topic"] == "container engine"
    assert all(f["severity"] for f in told["findings"])
    assert main(["preflight", "http://127.0.0.1:9"]) == 1
    assert "--model NAME" in capsys.readouterr().err


def test_before_a_study_warnings_are_lines_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.ui.preflighting import beforehand

    lines = beforehand(choose(["23.10", "24.10"], "cancel-race", name="p"))
    assert (
        "warning: 24.10 is known to be hit by is-cancelled-after-final under cancel-race" in lines
    )
    assert "`kit preflight`" in lines[-1]
    assert len(beforehand(choose("all", "all", name="p"))) == 8
    assert [one for one in beforehand(choose("24.05", "control", name="p")) if "hit" in one] == []
