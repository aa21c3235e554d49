"""An interpreter is asked once what it is, for as long as its file is the same."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from kit.servers import python_probe
from kit.servers.python_probe import PythonFacts, ask

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started, with an empty cache."""
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    seen: list[list[str]] = []
    run = python_probe.subprocess.run

    def counted(command: list[str], **how: object) -> object:
        seen.append(command)
        return run(command, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(python_probe.subprocess, "run", counted)
    return seen


def test_the_second_answer_is_remembered(starts: list[list[str]]) -> None:
    python = Path(sys.executable)
    first = ask(python)
    assert first is not None
    assert first.version == VERSION
    assert ask(python) == first
    assert len(starts) == 1


def test_a_file_that_has_changed_is_asked_anew(starts: list[list[str]], tmp_path: Path) -> None:
    python = Path(shutil.copy(os.path.realpath(sys.executable), tmp_path / "python"))
    ask(python)
    os.utime(python, ns=(1, 1))
    ask(python)
    assert len(starts) == 2


def test_a_script_and_an_environment_may_change_and_are_always_asked(
    starts: list[list[str]], tmp_path: Path
) -> None:
    script = tmp_path / "python3"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    for _ in range(2):
        assert ask(script) is not None
        assert ask(Path(sys.executable), with_packages=True) is not None
    assert len(starts) == 4


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"x": 1}'])
def test_a_damaged_memory_is_written_anew(
    starts: list[list[str]], tmp_path: Path, text: bytes
) -> None:
    python = Path(sys.executable)
    ask(python)
    (tmp_path / "cache" / "pythons.json").write_bytes(text)
    assert ask(python) == ask(python)
    assert len(starts) == 2


def test_an_answer_is_of_use_where_the_cache_cannot_be_written(
    starts: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert ask(Path(sys.executable)) is not None


def test_a_library_that_was_installed_since_is_found(tmp_path: Path) -> None:
    name = f"libpython{VERSION}.so.1.0"
    facts = PythonFacts(
        version=VERSION, prefix="/usr", library=name, folders=[str(tmp_path)], packages=[]
    )
    assert facts.libpython() is None
    (tmp_path / name).touch()
    assert facts.libpython() == tmp_path / name
