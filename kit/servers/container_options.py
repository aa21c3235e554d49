"""How a container is made: GPUs, memory, shared memory, limits and mounts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from kit.errors import SpecError
from kit.servers.vllm_repository import WEIGHTS
from kit.study.spec import ServerSpec

#: The Python backend takes 64 MB an instance, and tensor parallelism a good deal more.
SHM: Final = "1g"
#: Where a container finds models that were fetched before (HF_HOME).
HUB: Final = "/huggingface"
_SIZE: Final = re.compile(r"\d+[bkmg]?", re.IGNORECASE)
_ULIMIT: Final = re.compile(r"(?P<name>[a-z]+)=(?P<soft>-?\d+)(?::(?P<hard>-?\d+))?")


def creation(server: ServerSpec, weights: Path | None, *, is_local: bool) -> dict[str, Any]:
    """Arguments of the SDK's `containers.create`; weights: the model's folder on this
    machine. is_local: the engine is, too, so that folders can be mounted.

    Raises:
        SpecError: a size, limit or list of GPUs that says nothing.
    """
    import docker

    options: dict[str, Any] = {
        "init": True,  # as process 1 the server would outlive its own crash
        "shm_size": _size("shm", server.shm or SHM),
        "ulimits": [_ulimit(text) for text in server.ulimits],
        "mounts": [],
    }
    if server.memory:
        options["mem_limit"] = options["memswap_limit"] = _size("memory", server.memory)
    if server.gpus:
        options["device_requests"] = [_gpus(server.gpus)]
    if weights is not None and is_local:
        options["mounts"].append(docker.types.Mount(WEIGHTS, str(weights), "bind", read_only=True))
    hub = Path.home() / ".cache/huggingface"
    if server.model and weights is None and is_local and hub.is_dir():
        options["mounts"].append(docker.types.Mount(HUB, str(hub), "bind"))
    return options


def _gpus(text: str) -> Any:
    """For "all", or indexes or UUIDs with commas between."""
    import docker

    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z0-9:/.-]+", name) for name in names):
        raise SpecError(f"gpus = {text!r}", '"all", "0,1" or UUIDs', "correct gpus")
    if names == ["all"]:
        return docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])
    return docker.types.DeviceRequest(device_ids=names, capabilities=[["gpu"]])


def _size(name: str, text: str) -> str:
    if not _SIZE.fullmatch(text):
        raise SpecError(f"{name} = {text!r}", 'a size such as "512m" or "8g"', f"correct {name}")
    return text


def _ulimit(text: str) -> Any:
    import docker

    found = _ULIMIT.fullmatch(text)
    if found is None:
        raise SpecError(
            f"ulimits {text!r}", 'such as "memlock=-1" or "nofile=1024:4096"', "correct it"
        )
    soft = int(found["soft"])
    return docker.types.Ulimit(name=found["name"], soft=soft, hard=int(found["hard"] or soft))
