"""What is asked inside a running container: its GPUs, the server's memory map, its versions."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final

from kit.servers.engine_errors import Asked, no_gpu

#: Prints the memory map of the server inside the container.
_MAPS: Final = (
    'for d in /proc/[0-9]*; do read -r name < "$d/comm" 2>/dev/null;'
    ' if [ "$name" = tritonserver ]; then cat "$d/maps"; exit; fi; done; exit 1'
)
_VERSIONS: Final = """\
import json, platform
from importlib import metadata
found = {"server-python": platform.python_version()}
try:
    found["vllm"] = metadata.version("vllm")
except metadata.PackageNotFoundError:
    pass
print(json.dumps(found))
"""


def execute(container: Any, command: list[str]) -> tuple[int, bytes]:
    """Run a command in the container: its exit code and what it printed; 1 if it could not."""
    import docker
    import requests

    try:
        done = container.exec_run(command, demux=True)
    except (docker.errors.DockerException, requests.RequestException) as error:
        return 1, str(error).encode()
    return int(done.exit_code or 0), b"".join(part or b"" for part in done.output)


def check_gpus(container: Any, asked: Asked) -> None:
    """podman says nothing when it drops a request for GPUs, so the container is asked.

    Raises:
        ContainerError: there is none inside.
    """
    code, said = execute(container, ["nvidia-smi", "-L"])
    if code != 0 or b"GPU" not in said:
        raise no_gpu(said.decode(errors="replace") or f"nvidia-smi: {code}", asked)


def memory_map(container: Any, pid: int | None) -> bytes:
    """The server's memory map, without which a crash's addresses mean nothing; b"": not known.

    pid: of the server, where it is a process of this machine.
    """
    if pid is not None:
        with contextlib.suppress(OSError):
            if maps := Path(f"/proc/{pid}/maps").read_bytes():
                return maps
    code, maps = execute(container, ["sh", "-c", _MAPS])
    return maps if code == 0 else b""


def versions_inside(container: Any) -> dict[str, str]:
    """Versions of Python and vLLM as the image itself has them; {}: it has no Python."""
    code, said = execute(container, ["python3", "-c", _VERSIONS])
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        if code == 0:
            return {str(name): str(version) for name, version in json.loads(said).items()}
    return {}
