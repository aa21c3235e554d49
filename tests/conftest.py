"""Marks the tests that need more than a moment: `make check` leaves them out, `make test` does not.

server: starts a real Triton; browser: drives a real browser; slow: takes more than a few seconds.
A file is marked here as a whole; a single test of another file carries its mark itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARKS = {
    "server": (
        "crash/test_real_server.py",
        "load/test_real_server.py",
        "runner/test_loadtest.py",
        "runner/test_trial.py",
        "servers/models/test_server.py",
        "servers/test_embedded.py",
        "servers/test_paths.py",
        "servers/watch/test_real_server.py",
        "servers/watch/test_vllm_remedies.py",
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
        "servers/test_guard.py",
        "stats/test_factors_recorded.py",
        "stats/test_sequential.py",
        "study/test_recorded.py",
        "test_benchmarks.py",
        "ui/test_notebooks.py",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        for mark, files in MARKS.items():
            if place in files:
                item.add_marker(mark)
