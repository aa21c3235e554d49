"""`kit doctor` tells what this machine has; each thing that it lacks comes with a hint."""

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.errors import LibpythonMissingError, SpecError, UnsupportedPlatformError
from kit.servers import doctor, prepare
from kit.servers import python as python_module
from kit.servers.doctor import PROBES, Check, CheckState, best_python, check_machine, served_by
from kit.servers.python import ServerPython
from kit.study.hybrids import load_hybrids
from kit.study.releases import embedded_releases
from kit.ui.cli import main, parser
from kit.ui.commands.doctor import page
from kit.ui.console import print_error

EMBEDDED = [release.release for release in embedded_releases()]


def a_python(version: str, *, libpython: Path | None = Path("/l.so")) -> ServerPython:
    return ServerPython(version=version, home=Path("/opt/p"), libpython=libpython)


def only(topic: str) -> Check:
    (check,) = PROBES[topic]()
    return check


def test_a_python_serves_the_releases_with_a_stub_and_a_numpy_for_it() -> None:
    assert served_by(a_python("3.11")) == [name for name in EMBEDDED if name != "23.04"]
    assert served_by(a_python("3.12")) == [name for name in EMBEDDED if name >= "24.03"]
    assert served_by(a_python("3.13")) == [], "24.10 has a stub for it, but there is no numpy 1"
    assert served_by(a_python("3.8", libpython=None)) == ["23.04"], "whose stub has a libpython"
    assert served_by(a_python("3.14")) == []


def test_the_python_to_get_is_the_one_that_most_of_the_missing_releases_take() -> None:
    assert best_python(EMBEDDED[1:]) == "3.11"
    assert best_python(["23.04"]) == "3.8"


def test_hybrids_that_run_and_those_that_do_not_are_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks = dict.fromkeys(load_hybrids(), "Python 3.12")
    monkeypatch.setattr(doctor, "hybrid_lacks_here", lambda hybrid: lacks[hybrid.name])
    without = only("hybrids that run")
    assert (without.topic, without.state) == ("hybrids that do not", CheckState.WITHOUT)
    assert "26.09 on core 24.10: they want Python 3.12" in without.found
    assert without.hint
    monkeypatch.setattr(doctor, "hybrid_lacks_here", lambda hybrid: None)
    assert only("hybrids that run").state is CheckState.OK
    assert "no releases" in only("hybrids that run").found


@pytest.mark.slow
def test_every_line_of_this_machine_is_well_or_has_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.ui.cli.signal.signal", lambda *_: None)
    assert main(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    topics = {check["topic"] for check in checks}
    for topic in ("platform", "C library", "container engine", "GPU", "/dev/shm", "clock", "cache"):
        assert topic in topics
    assert any(topic.startswith("Python 3.") for topic in topics)
    assert [c for c in checks if c["state"] == "lacks" and not c["hint"]] == []
    assert [c for c in checks if "cannot be told" in c["found"]] == []


@pytest.fixture
def only_python_3_12(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine such as Ubuntu 24.04."""
    monkeypatch.setattr(python_module, "_candidates", lambda _: iter([a_python("3.12")]))
    prepare._check_python.cache_clear()
    yield
    prepare._check_python.cache_clear()


def test_kit_releases_tells_what_does_not_run_here_and_why(
    only_python_3_12: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = parser().parse_args(["releases"])
    args.function(args)
    out = capsys.readouterr().out
    rows = {line[:5]: line for line in out.splitlines()}
    assert "no: lacks libpython3.11.so.1.0" in rows["23.10"]
    assert " yes " in rows["24.05"]
    assert "needs a container" in rows["23.11"]
    assert "The first run fetches a Python that is lacking" in out


def test_a_machine_with_python_3_12_alone_is_told_what_to_install(only_python_3_12: None) -> None:
    runs, oldest, others = PROBES["releases that run"]()
    assert (runs.state, runs.found) == (CheckState.OK, "24.03–24.10")
    assert (oldest.state, others.state) == (CheckState.WITHOUT, CheckState.LACKS)
    assert others.found.startswith("23.07–24.02: ")
    assert "libpython3.11" in others.found
    assert "python=3.11" in (others.hint or "")


def test_a_machine_that_cannot_run_servers_is_told_of_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> str:
        raise UnsupportedPlatformError("Darwin, while it holds Linux binaries", "Linux", "go there")

    monkeypatch.setattr(doctor, "architecture_for", refuse)
    check = only("platform")
    assert (check.state, check.hint) == (CheckState.LACKS, "go there")
    assert "Darwin" in check.found


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        (
            "echo '0, GPU-1, NVIDIA L4, 550.54, 23034, 1, 8.9'",
            CheckState.OK,
            "L4, 23,034 MiB, driver 550",
        ),
        (
            "echo 'couldnt talk to the driver'; exit 9",
            CheckState.LACKS,
            "couldnt talk to the driver",
        ),
    ],
)
def test_the_gpu_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, state: CheckState, words: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = only("GPU")
    assert check.state == state
    assert words in check.found


def test_no_gpu_and_no_browser_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert only("GPU").state == only("browser").state == CheckState.WITHOUT


def test_a_full_disk_and_a_small_shared_memory_are_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=64_000_000, used=60_000_000, free=4_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert [check.state for check in PROBES["disk"]()] == [CheckState.LACKS, CheckState.LACKS]
    small = only("/dev/shm")
    assert small.state == CheckState.LACKS
    assert "--shm-size" in (small.hint or "")


def test_a_low_limit_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    files, processes = PROBES["limits"]()
    assert files.state == processes.state == CheckState.LACKS
    assert "ulimit -Hn" in (files.hint or "")


def test_a_slow_clock_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    monkeypatch.setattr(doctor, "CLOCK", source)
    for name, state in (("hpet\n", CheckState.LACKS), ("tsc\n", CheckState.OK)):
        source.write_text(name)
        assert only("clock").state == state


def test_a_check_that_fails_is_a_line_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise PermissionError(13, "Permission denied", "/proc/x")

    def refused() -> list[Check]:
        raise SpecError("that", "this", "do so")

    monkeypatch.setattr(doctor, "PROBES", {"a": broken, "b": refused, "c": PROBES["memory"]})
    first, second, third = check_machine()
    assert (first.topic, first.state) == ("a", CheckState.LACKS)
    assert "Permission denied" in first.found
    assert (second.found, second.hint) == ("that", "do so")
    assert third.state == CheckState.OK


def test_the_page_has_a_line_each_and_ends_with_what_is_to_be_put_right() -> None:
    good = Check(topic="disk", state=CheckState.OK, found="much")
    bad = Check(
        topic="/dev/shm", state=CheckState.LACKS, found="little", hint="give " + "more " * 40
    )
    text = page([good, bad])
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0] == "ok     disk      much"
    assert text.endswith("to put right: /dev/shm")
    assert page([good]).endswith("nothing is lacking")


def test_errors_about_the_machine_point_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = LibpythonMissingError("no Python", "one", "install it")
    assert "kit doctor" in str(error)
    print_error(error)
    print_error(SpecError("no study", "one", "write it"))
    assert capsys.readouterr().err.count("kit doctor") == 1
