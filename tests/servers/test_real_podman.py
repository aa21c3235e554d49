"""The container path against podman's socket, which speaks Docker's API a little otherwise."""

from __future__ import annotations

import signal
from pathlib import Path

import podman_trials
import pytest
from lacks import lacks


@pytest.mark.slow
def test_a_crash_a_gpu_that_podman_drops_and_an_image_that_is_not_there(tmp_path: Path) -> None:
    if (what := podman_trials.missing()) is not None:
        lacks(what)
    locks = Path("/dev/shm/libpod_lock")
    there = locks.exists()  # of a podman that this machine's owner runs
    told = podman_trials.run_trials(tmp_path)
    assert locks.exists() == there, "podman's locks stay"
    assert told["verdict"] == "crashed"
    assert told["signature"].startswith(signal.Signals.SIGSEGV.name)
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in told["signature"]
    assert "the container got none" in told["gpus"]
    assert "podman drops the request" in told["gpus"]
    assert "localhost/none/such:1 is not on the engine's machine" in told["no image"]
    assert told["left"] == []
