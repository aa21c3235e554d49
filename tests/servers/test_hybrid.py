"""Hybrid servers: real frontends of 26.09 on the real core of 24.10, and what they are made of."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chances import at_least, until
from effort import LONG
from elftools.elf.elffile import ELFFile
from lacks import lacks

from kit.crash.diagnose import Diagnosis, diagnose
from kit.crash.log.backtrace import parse_backtraces
from kit.crash.log.shapes import Shape
from kit.errors import LibpythonMissingError, MachineError, SpecError, UnsupportedPlatformError
from kit.servers import python as python_module
from kit.servers.hybrid import c_library, crash_stack
from kit.servers.hybrid import files as files_module
from kit.servers.hybrid.c_library import CLibrary, is_new_enough, newer_c_library, why_no_newer
from kit.servers.hybrid.files import HybridFiles, hybrid_files, hybrid_lacks_here
from kit.servers.hybrid.server import log_level
from kit.servers.prepare import prepare_servers
from kit.servers.processes import SHM
from kit.servers.wheels import server_files
from kit.study.folder import TrialFolder
from kit.study.hybrids import get_hybrid, load_hybrids
from kit.study.plan import plan
from kit.study.releases import get_release
from kit.study.result import TrialResult, Verdict
from kit.study.spec import ServerKind, ServerSpec, StudySpec, TrialSpec

HYBRID = get_hybrid("26.09", "24.10")
SERVER = ServerSpec(kind=ServerKind.HYBRID, release="24.10", frontends="26.09")

#: Dies in a function that has a name, called from a thread of its own.
DIE = """
import ctypes, os, sys, threading
sys.path.insert(0, sys.argv[1])
import crash_stack
assert crash_stack.install()
def die():
    if sys.argv[2] == "SIGABRT":
        os.abort()
    ctypes.CDLL(None).strlen(ctypes.c_void_p(8))
thread = threading.Thread(target=die)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(("name", "number"), [("SIGSEGV", 11), ("SIGABRT", 6)])
def test_a_process_that_dies_prints_its_stack_as_triton_does(name: str, number: int) -> None:
    if platform.machine() != "x86_64":
        lacks("the handler is machine code for x86-64")
    folder = str(Path(crash_stack.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", DIE, folder, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == -number
    [found] = parse_backtraces(done.stderr)
    assert (found.shape, found.signal) == (Shape.TRITON, number)
    assert [frame.index for frame in found.frames[:4]] == [0, 1, 2, 3]
    called = " ".join(frame.symbol or "" for frame in found.frames)
    assert ("abort" if number == 6 else "ffi_call") in called
    assert any(frame.address is not None for frame in found.frames[1:]), "nameless ones by place"


def test_without_its_processor_no_handler_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert crash_stack.install() is False


def test_a_c_library_is_new_enough_by_its_version() -> None:
    assert is_new_enough((2, 39), "glibc 2.39")
    assert is_new_enough((2, 39), "glibc 2.41")
    assert not is_new_enough((2, 39), "glibc 2.36")
    assert not is_new_enough((2, 39), "")


def test_a_newer_c_library_starts_the_program_and_only_that(tmp_path: Path) -> None:
    started = CLibrary(folder=tmp_path).start(Path("/p/python"), [Path("/a"), Path("/b")])
    assert started == [
        str(tmp_path / "ld-linux-x86-64.so.2"),
        "--library-path",
        os.pathsep.join((str(tmp_path), "/a", "/b")),
        "/p/python",
    ]


def test_what_a_system_lacks_for_a_newer_c_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path))
    assert "Debian" in str(why_no_newer({"ID": "fedora"}))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert why_no_newer({"ID": "debian"}) == "apt-get and dpkg-deb"
    monkeypatch.setattr(c_library, "_suite", lambda _=None: None)
    with pytest.raises(UnsupportedPlatformError, match=r"glibc 2\.39 or later"):
        newer_c_library((2, 39))


def test_a_machine_without_the_python_of_the_frontends_is_told_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(python_module, "_candidates", lambda _: iter([]))
    if platform.machine() == "x86_64":
        assert "3.12" in str(hybrid_lacks_here(HYBRID))
    only_library = python_module.ServerPython(
        version="3.12", home=Path("/usr"), libpython=Path("/usr/lib/libpython3.12.so.1.0")
    )
    monkeypatch.setattr(files_module, "choose_python", lambda *_, **__: only_library)
    with pytest.raises(LibpythonMissingError, match=r"without the Python of its version"):
        files_module._python_for(HYBRID, fetch=False)


def test_arguments_that_a_hybrid_cannot_be_given_are_refused() -> None:
    assert log_level(HYBRID, ["--disable-auto-complete-config"]) == 0
    assert log_level(HYBRID, ["--disable-auto-complete-config", "--log-verbose=2"]) == 2
    with pytest.raises(SpecError, match="--rate-limit"):
        log_level(HYBRID, ["--rate-limit=off"])


@pytest.fixture(scope="module")
def files() -> HybridFiles:
    """What the hybrid needs, fetched if need be."""
    try:
        prepare_servers([SERVER])
        return hybrid_files(HYBRID)
    except MachineError as error:
        lacks(f"{HYBRID.name} cannot run here: {error}")


@pytest.mark.server
def test_the_core_has_every_function_that_the_frontends_want(files: HybridFiles) -> None:
    core = next(server_files(get_release("24.10")).libraries.glob("libtritonserver-*.so"))
    has = dynamic_symbols(core, defined=True)
    for folder in files.paths[:2]:
        [binary] = folder.glob("triton*/_c/*.so")
        wants = {s for s in dynamic_symbols(binary, defined=False) if s.startswith("TRITONSERVER_")}
        assert wants
        assert wants - has == set(), binary.name


def dynamic_symbols(path: Path, *, defined: bool) -> set[str]:
    with path.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {s.name for s in symbols if (s["st_shndx"] != "SHN_UNDEF") is defined}


@pytest.mark.server
def test_a_hybrid_serves_and_leaves_nothing(files: HybridFiles, tmp_path: Path) -> None:
    result = trial("control", tmp_path / "t", requests=30)
    assert result.verdict is Verdict.SURVIVED, result.reason
    assert result.completed == 30
    assert result.versions["release"] == "frontend 26.09 on core 24.10"
    assert result.versions["tritonfrontend"] == "2.73.0"
    described = TrialFolder(tmp_path / "t").server.read_text()
    assert '"kind": "hybrid"' in described
    run = described.partition('"run": "')[2].partition('"')[0]
    assert run
    assert [path for path in SHM.iterdir() if run in path.name] == []


@pytest.mark.server
def test_the_frontend_of_2026_ends_of_cancelled_streams_as_it_is_known_to(
    files: HybridFiles, tmp_path: Path
) -> None:
    """Whatever it dies of is one of two known faults, and its stack tells which.

    One life in `make test`. With LONG it is lived again until the frontend itself has died: by hand
    8 of 8 trials, by the kit 2 of 3 on one day and 0 of 2 on a slower one, where the core's Python
    backend died first or the time was up.
    """

    def live(number: int) -> tuple[TrialResult, Diagnosis]:
        requests = 6000 if LONG else 600
        result = trial("grpc-stream-cancel-verbose", tmp_path / str(number), requests=requests)
        log = TrialFolder(tmp_path / str(number)).log_text() or ""
        return result, diagnose(log, believed_release=result.versions["release"])

    result, found = until(
        live,
        lambda life: not LONG or life[1].component == "grpc-frontend",
        chance=at_least(10, 13),
        known=lambda life: (
            life[0].verdict in (Verdict.CRASHED, Verdict.SURVIVED, Verdict.HUNG)
            and life[1].component in ("grpc-frontend", "python-backend", "libc-abort", "none")
        ),
        say=lambda life: f"{life[0].verdict} after {life[0].completed}: {life[0].reason}",
    )
    assert found.release_guess is None, "a hybrid is no release"
    if result.verdict is Verdict.CRASHED:
        assert result.signature is not None
        assert result.signature.signal in (6, 11)
        ids = ("grpc-stream-cancel-state-race", "bls-shm-lock-exception")
        assert found.matches[0].id in ids[: 1 if found.component == "grpc-frontend" else 2]


@pytest.mark.server
def test_the_frontend_of_2026_dies_where_a_model_goes_on_after_the_error_that_ended_a_stream(
    files: HybridFiles, tmp_path: Path
) -> None:
    """Recorded: 9 of 9 trials of the frontends of 26.07 to 26.09, after 30 to 275 requests."""

    def live(number: int) -> tuple[TrialResult, Diagnosis]:
        result = trial("grpc-stream-status", tmp_path / str(number), requests=2000)
        log = TrialFolder(tmp_path / str(number)).log_text() or ""
        return result, diagnose(log, believed_release=result.versions["release"])

    result, found = until(
        live,
        lambda life: life[0].verdict is Verdict.CRASHED,
        chance=at_least(9, 9),
        known=lambda life: life[0].verdict in (Verdict.CRASHED, Verdict.SURVIVED, Verdict.HUNG),
        say=lambda life: f"{life[0].verdict} after {life[0].completed}: {life[0].reason}",
    )
    assert found.died
    assert found.matches[0].id == "triton-grpc-error-mode"
    assert result.signature is not None


def trial(scenario: str, folder: Path, *, requests: int) -> TrialResult:
    study = StudySpec(
        name="t", servers=(SERVER,), scenarios=(scenario,), requests=requests, repeats=1
    )
    [spec] = plan(study)
    return in_a_process(replace(spec, ready_timeout_s=180.0), folder)


def in_a_process(spec: TrialSpec, folder: Path) -> TrialResult:
    """A trial takes the signals of its process for itself."""
    TrialFolder.create(folder, spec)
    command = [sys.executable, "-m", "kit.runner.trial", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        process.wait()
    result = TrialFolder(folder).result
    assert result is not None, errors
    return result


def test_every_hybrid_can_be_asked_whether_it_runs_here() -> None:
    for hybrid in load_hybrids().values():
        assert hybrid_lacks_here(hybrid) is None or isinstance(hybrid_lacks_here(hybrid), str)
