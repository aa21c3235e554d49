"""Claims about the end of the application: whoever ends it, nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from lacks import lacks

from kit.ui.app import voila_command

PATIENCE_S = 60.0


@pytest.fixture
def app(tmp_path: Path) -> Generator[subprocess.Popen[str], None, None]:
    """The application on a port of its own, as soon as it runs; none is left, whatever fails."""
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    (tmp_path / "t").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "kit.ui.app", "--port", "0", "--studies", str(tmp_path / "s")],
        env={**os.environ, **own, "TMPDIR": str(tmp_path / "t")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Open http://127.0.0.1:")
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def has_no_child(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(children, PATIENCE_S)
    return not alive


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_an_application_that_is_told_to_end_takes_its_server_and_its_files_with_it(
    name: str, app: subprocess.Popen[str], tmp_path: Path
) -> None:
    children = psutil.Process(app.pid).children()
    assert len(children) == 1
    time.sleep(0.1)
    app.send_signal(getattr(signal, name))
    assert app.wait(PATIENCE_S) == 128 + getattr(signal, name)
    assert has_no_child(children)
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.slow
def test_an_application_that_is_killed_takes_its_server_with_it(
    app: subprocess.Popen[str],
) -> None:
    if sys.platform != "linux":
        lacks("Linux, whose kernel ends a process with its parent (PR_SET_PDEATHSIG)")
    children = psutil.Process(app.pid).children()
    app.kill()
    app.wait(PATIENCE_S)
    assert has_no_child(children)


def test_the_files_of_its_kernels_lie_in_the_folder_that_is_removed(tmp_path: Path) -> None:
    words = voila_command(tmp_path / "x/n.ipynb", ip="127.0.0.1", port=1, token="t")
    assert f"--Voila.connection_dir_root={tmp_path / 'x'}" in words
