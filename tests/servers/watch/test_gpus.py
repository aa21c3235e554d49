"""GPU figures with a library in NVML's place, and with the real one on a machine without a GPU."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pynvml
import pytest
from matplotlib.figure import Figure

from kit.plots.queue import plot_gpu
from kit.servers.factory import watched_gpus
from kit.servers.watch.gpus import GpuWatch, nvml_library, xid_words
from kit.servers.watch.names import GPU_XID, NVML, TRITON_METRICS
from kit.servers.watch.sampler import Watcher
from kit.study.engines import parse_engine
from kit.study.folder import TrialFolder
from kit.study.plan import plan
from kit.study.spec import Endpoint, Engine, ServerKind, ServerSpec, StudySpec, TrialSpec, embedded

FIGURES = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes")


class FakeNvml:
    """Two GPUs, of which the second tells no power; names as nvidia-ml-py has them."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.xids = [79, 79]
        self.is_open = False
        self.registered: list[int] = []

    def nvmlInit(self) -> None:  # noqa: N802
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:  # noqa: N802
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=50 + handle)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=2 * 2**30, total=8 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        if handle:
            raise self.NVMLError("not supported")
        return 250_000  # milliwatts

    def nvmlEventSetCreate(self) -> object:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:  # noqa: N802
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:  # noqa: N802
        if not self.xids:
            raise self.NVMLError("timeout")
        return SimpleNamespace(eventData=self.xids.pop())

    def nvmlEventSetFree(self, events: object) -> None:  # noqa: N802
        assert events == "events"


def test_each_gpu_tells_its_figures_in_tritons_names_and_units() -> None:
    nvml = FakeNvml()
    watch = GpuWatch("0,GPU-1", library=nvml)
    rows = watch.read(t_ns=7)
    found = {(json.loads(row.labels)["gpu_uuid"], row.name): row.value for row in rows[:-2]}
    assert found["GPU-0", "nv_gpu_utilization"] == 0.5
    assert found["GPU-1", "nv_gpu_memory_used_bytes"] == 2 * 2**30
    assert found["GPU-0", "nv_gpu_power_usage"] == 250.0
    assert ("GPU-1", "nv_gpu_power_usage") not in found, "what it does not tell is not there"
    assert {(row.t_ns, row.source) for row in rows} == {(7, NVML)}
    assert [(row.name, row.value) for row in rows[-2:]] == [(GPU_XID, 79.0)] * 2
    assert GPU_XID not in [row.name for row in watch.read(t_ns=8)], "each error is told once"
    watch.close()
    watch.close()
    assert not nvml.is_open
    assert watch.read(t_ns=9) == []


def test_only_the_gpus_of_the_server_are_looked_at() -> None:
    nvml = FakeNvml()
    watch = GpuWatch("1", library=nvml)
    assert {row.labels for row in watch.read(t_ns=1) if row.labels} == {'{"gpu_uuid": "GPU-1"}'}
    assert nvml.registered == [1]


def test_the_real_library_fails_nothing_with_or_without_a_driver() -> None:
    watch = GpuWatch(library=nvml_library())
    rows = watch.read(t_ns=1)
    assert {row.source for row in rows} == ({NVML} if shutil.which("nvidia-smi") else set())
    watch.close()


def test_the_watcher_writes_them_into_the_trials_samples(tmp_path: Path) -> None:
    folder = TrialFolder.create(tmp_path / "t", _trial())
    nvml = FakeNvml()
    gpus = GpuWatch(library=nvml)
    watcher = Watcher(Endpoint(), folder, pid=None, interval_s=0.05, model="m", gpus=gpus)
    watcher.start()
    time.sleep(0.3)
    watcher.stop()
    assert watcher.fault is None
    assert not nvml.is_open
    assert {*FIGURES, GPU_XID} <= set(folder.samples()["name"].to_pylist())
    assert xid_words(gpus.xids) == "Meanwhile the GPU reported Xid 79."
    assert xid_words([]) == ""


def test_gpus_are_watched_where_the_server_has_some_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kit.servers.factory.nvml_library", FakeNvml)
    assert watched_gpus(_trial()) is None
    on_gpu = watched_gpus(_trial(parse_engine("vllm?gpus=1")))
    assert on_gpu is not None
    assert len({row.labels for row in on_gpu.read(t_ns=1) if row.labels}) == 1
    container = ServerSpec(kind=ServerKind.CONTAINER, release="25.10", gpus="all")
    assert watched_gpus(_trial(server=container)) is not None
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@gpu")
    assert watched_gpus(_trial(server=container)) is None, "they are on another machine"


def test_a_figure_takes_one_source_where_two_tell_the_same() -> None:
    rows = [
        {"trial_id": "a", "t_s": t, "name": name, "value": value, "labels": uuid, "source": source}
        for source, uuid in ((TRITON_METRICS, "{}"), (NVML, '{"gpu_uuid": "GPU-0"}'))
        for t in (0.0, 1.0)
        for name, value in zip(FIGURES, (0.5, 2.0, 8.0), strict=True)
    ]
    trials = pd.DataFrame({"trial_id": ["a"], "release": ["24.05"]})
    ax = plot_gpu(pd.DataFrame(rows), trials, Figure().subplots())
    assert len(ax.lines) == 2, "busy and memory, of one source"
    assert "25" in ax.get_title(loc="left") + ax.get_title()


def _trial(engine: Engine | None = None, server: ServerSpec | None = None) -> TrialSpec:
    servers: Any = embedded("24.05") if server is None else (server,)
    [trial] = plan(
        StudySpec(
            name="g",
            servers=servers,
            scenarios=("control",),
            engines=(engine or Engine(),),
            repeats=1,
        )
    )
    return trial
