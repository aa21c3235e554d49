"""Claims about commands that the machine gives too little: named errors, no tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from kit.ui import cli
from kit.ui.commands import catalogs
from kit.ui.process_limits import LEAST_FILES, lacking


def limited(setting: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process with a limit, "NOFILE = 25": soft and hard."""
    name, number = setting.split(" = ")
    code = (
        "import resource, sys; from kit.ui.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_{name}, ({number}, {number})); "
        f"sys.exit(main({list(words)!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "says"), [("NOFILE = 25", "25 open files"), ("AS = 600_000_000", "600 MB of")]
)
def test_a_limit_that_no_command_can_work_with_is_named(setting: str, says: str) -> None:
    done = limited(setting, "scenarios")
    assert done.returncode == 1
    assert says in done.stderr
    assert "hint: raise it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_soft_limit_of_files_is_raised_where_that_is_allowed() -> None:
    code = (
        "import resource; from kit.ui.process_limits import check_limits; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (25, 5000)); check_limits(); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(LEAST_FILES), "5000"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"), "/data/x: No space left"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (MemoryError(), "no memory is left"),
    ],
)
def test_what_the_machine_refuses_is_a_named_error_of_every_command(
    error: OSError | MemoryError,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: Namespace) -> int:
        raise error

    monkeypatch.setattr(catalogs, "scenarios", refuse)
    assert cli.main(["scenarios"]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "hint: " in said


def test_an_error_without_words_is_named_all_the_same(tmp_path: Path) -> None:
    assert lacking(OSError()).given == "OSError"
    assert str(tmp_path) in lacking(OSError(1, "no", str(tmp_path))).given


def test_under_a_limit_of_files_sizes_no_compiled_module_is_written(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(f"TEXT = {'x' * 100_000!r}\n")
    code = (
        "import resource, sys; from kit.ui.process_limits import check_limits; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); check_limits(); "
        f"sys.path.insert(0, {str(tmp_path)!r}); import large"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):  # the second one would read what the first wrote short
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_without_its_standard_files_ends_in_order(closed: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("Segmentation fault\n")
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {closed}', "-", sys.executable, "-m", "kit", "diagnose", log],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_while_the_command_line_is_loaded_ends_it_without_a_traceback(
    tmp_path: Path,
) -> None:
    (tmp_path / "argparse.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-m", "kit", "scenarios"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.slow
def test_an_interrupt_after_the_last_word_ends_it_without_a_traceback() -> None:
    code = (
        "import atexit, os, signal, sys, threading; sys.argv = ['kit', 'scenarios']; "
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); "
        "from kit.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
