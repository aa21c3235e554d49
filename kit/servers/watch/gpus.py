"""Reads what this machine's GPUs do from NVIDIA's management library (NVML), a tick at a time.

Triton puts the same figures on its metrics port where it finds DCGM, which wheels do not bring; the
names are Triton's, so that what reads them need not know who told. Xid errors, by which the driver
says that a GPU faulted, come as NVML's events.

Not run here for want of a GPU: tests put a library of their own in NVML's place.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any, Final

from kit.servers.watch.names import GPU_XID, NVML, Sample

_XID_EVENT: Final = 0x8  # nvmlEventTypeXidCriticalError
#: Events that are read at one tick, at most.
_MOST_EVENTS: Final = 100


class GpuWatch:
    """The GPUs of this machine, or those of `only`.

    only: indexes or UUIDs with commas between, "all" or None: every one. What a GPU does not tell
    has no sample; a library that is not there, or fails, gives none at all.

    Example:
        >>> watch = GpuWatch(library=None)
        >>> watch.read(t_ns=1)
        []
    """

    def __init__(self, only: str | None = None, *, library: Any | None = None) -> None:
        self._nvml: Any = library
        self.xids: list[int] = []  # numbers of the errors so far
        self._gpus: list[tuple[Any, str]] = []  # handle and labels
        self._events: Any = None
        if library is None:
            return
        try:
            library.nvmlInit()
        except library.NVMLError:
            self._nvml = None
            return
        with contextlib.suppress(library.NVMLError):
            self._open(library, None if only in (None, "all") else only)

    def _open(self, nvml: Any, only: str | None) -> None:
        wanted = None if only is None else {name.strip() for name in only.split(",")}
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            if wanted is None or str(index) in wanted or uuid in wanted:
                self._gpus.append((handle, json.dumps({"gpu_uuid": uuid})))
        with contextlib.suppress(nvml.NVMLError):  # a driver, or a card, without events
            events = nvml.nvmlEventSetCreate()
            for handle, _ in self._gpus:
                nvml.nvmlDeviceRegisterEvents(handle, _XID_EVENT, events)
            self._events = events

    def read(self, *, t_ns: int) -> list[Sample]:
        """What the GPUs do now: utilisation, memory, power, and the Xid errors since the last."""
        nvml = self._nvml
        if nvml is None:
            return []
        rows = []
        for handle, labels in self._gpus:
            for name, value in _figures(nvml, handle):
                row = Sample(t_ns=t_ns, source=NVML, name=name, value=value, labels=labels)
                rows.append(row)
        return rows + self._xids(t_ns)

    def _xids(self, t_ns: int) -> list[Sample]:
        found: list[Sample] = []
        nvml = self._nvml
        while self._events is not None and len(found) < _MOST_EVENTS:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # no event within 0 ms
                break
            self.xids.append(int(event.eventData))
            value = float(self.xids[-1])
            found.append(Sample(t_ns=t_ns, source=NVML, name=GPU_XID, value=value))
        return found

    def close(self) -> None:
        """Let go of the library; harmless when called again."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                if self._events is not None:
                    nvml.nvmlEventSetFree(self._events)
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def nvml_library() -> Any | None:
    """NVIDIA's Python module for NVML; None: it is not installed.

    Whether there is a driver shows only when it is used.
    """
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _figures(nvml: Any, handle: Any) -> Iterable[tuple[str, float]]:
    """Each figure that this GPU tells; units as of Triton's metrics: shares, bytes, watts."""
    with contextlib.suppress(nvml.NVMLError):
        yield "nv_gpu_utilization", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with contextlib.suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        yield "nv_gpu_memory_used_bytes", float(memory.used)
        yield "nv_gpu_memory_total_bytes", float(memory.total)
    with contextlib.suppress(nvml.NVMLError):
        yield "nv_gpu_power_usage", nvml.nvmlDeviceGetPowerUsage(handle) / 1000


def _text(given: str | bytes) -> str:
    return given.decode(errors="replace") if isinstance(given, bytes) else given


def xid_words(xids: Iterable[int]) -> str:
    """A sentence about Xid errors; "": there was none.

    >>> xid_words([79, 79, 13])
    'Meanwhile the GPU reported Xid 79, 13.'
    """
    found = ", ".join(map(str, dict.fromkeys(xids)))
    return f"Meanwhile the GPU reported Xid {found}." if found else ""
