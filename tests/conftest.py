"""Marks the tests that need more than a moment: `make check` leaves them out, `make test` does not.

server: starts a real Triton; browser: drives a real browser; slow: takes more than a few seconds;
alone: measures time, so no other test may run beside it.
A file is marked here as a whole; a single test of another file carries its mark itself.

`make test` runs several tests at a time, in processes of their own (pytest-xdist). A test that is
marked `alone` waits until the others have ended, and they wait for it.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from real_engine import RealEngine

try:
    import fcntl
except ImportError:  # Windows: one test at a time
    fcntl = None  # type: ignore[assignment]

TESTS = Path(__file__).parent
LOCKS = "CRASH_KIT_TESTS_LOCKS"  # the folder that the processes of one run share
LAST_LINES = 30  # of a failure's text that are printed at once; all of it follows at the end
MARKS = {
    "alone": ("load/test_progress.py",),
    "server": (
        "crash/test_real_server.py",
        "load/test_real_server.py",
        "runner/test_loadtest.py",
        "runner/test_dask_server.py",
        "runner/test_limit_server.py",
        "runner/test_soak_server.py",
        "runner/test_trial.py",
        "servers/bundle/test_offline.py",
        "servers/models/test_server.py",
        "servers/test_embedded.py",
        "servers/test_paths.py",
        "servers/test_real_engine.py",
        "servers/watch/test_real_server.py",
        "servers/watch/test_vllm_remedies.py",
        "test_debian13.py",
        "ui/test_panel_browser.py",
        "vllm/test_real_vllm.py",
    ),
    "browser": ("ui/test_panel_browser.py",),
    "slow": (
        "kv/test_recorded.py",
        "load/test_bad_servers.py",
        "load/test_http_reference.py",
        "plots/test_kv.py",
        "plots/test_pictures.py",
        "plots/test_release_map.py",
        "report/test_page.py",
        "report/test_release_map.py",
        "servers/test_arm64.py",
        "servers/test_guard.py",
        "servers/test_real_proxy.py",
        "stats/test_factors_recorded.py",
        "stats/test_sequential.py",
        "study/test_recorded.py",
        "test_benchmarks.py",
        "test_platform.py",
        "test_pythons.py",
        "ui/test_notebooks.py",
    ),
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported now stays: looking through it for garbage costs a sixth of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:  # in the process that hands the tests out, too, which collects none
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        for mark, files in MARKS.items():
            if place in files:
                item.add_marker(mark)
    items.sort(key=_is_alone)  # together and last, so that the other process waits only once


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


class FailuresAtOnce:
    """Prints each failure when it happens: a run that is cut off has then said what failed."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)  # after the line of dots has its F
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})", red=True)
            terminal.write_line("\n".join(report.longreprtext.splitlines()[-LAST_LINES:]))


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In a shell's background; what tests start would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))
    if fcntl is not None and not hasattr(config, "workerinput"):  # not in a process of xdist's
        os.environ[LOCKS] = tempfile.mkdtemp(prefix="crash-kit-tests-")
        (Path(os.environ[LOCKS]) / "owner").write_text(str(os.getpid()))


def pytest_unconfigure(config: pytest.Config) -> None:
    if fcntl is not None and not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(LOCKS))
        if (folder / "engine.lock").exists():
            from real_engine import stop_shared_engine

            stop_shared_engine(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _close_figures() -> Generator[None, None, None]:
    """pyplot keeps every figure: one test's must not be counted by the next in its process."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@pytest.fixture(scope="session")
def real_engine() -> RealEngine:
    """A real container engine with images of two releases, shared by all tests of this run."""
    from lacks import lacks
    from real_engine import missing, shared_engine

    if (what := missing()) is not None:
        lacks(what)
    return shared_engine(Path(os.environ[LOCKS]))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # first: waiting does not count as the test's time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if fcntl is None:
        return (yield)
    folder = Path(os.environ[LOCKS])
    with (folder / "running").open("w") as running, (folder / "next").open("w") as turn:
        # Whoever waits holds the turn, so that nobody overtakes a test that wants to be alone.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(running, fcntl.LOCK_UN)
