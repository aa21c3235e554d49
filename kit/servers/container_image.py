"""Gets a container image onto the engine's machine: pulled with progress, and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kit.servers.container_engine import ContainerEngine, engine_for
from kit.servers.engine_errors import Asked, container_error, disk_full, wrong_architecture
from kit.servers.runs import register
from kit.study.releases import get_release
from kit.study.spec import ServerSpec

#: Layers lie on the disk as they come and unpacked, which is about twice as much again.
UNPACKED: Final = 3
#: Least download of an official vLLM image.
OFFICIAL_BYTES: Final = 8 * 10**9
OFFICIAL: Final = "nvcr.io/nvidia/tritonserver:"
_SAME: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_REPORT_BYTES: Final = 100 * 10**6

OnProgress = Callable[[str], None]


def image_of(server: ServerSpec) -> str:
    """The image's name: the one given, else the release's official one, with vLLM if it has it.

    Raises:
        UnknownReleaseError: no such release.
    """
    return server.image or get_release(server.release or "").image


def prepare_images(servers: Iterable[ServerSpec], on_progress: OnProgress | None = None) -> None:
    """Pull what the engines of these servers do not have, before a trial's clock runs.

    Raises:
        ContainerError: no engine, no image, no room.
    """
    for host, image in dict.fromkeys((server.host, image_of(server)) for server in servers):
        run = register()  # a tunnel to another machine's engine is the run's
        try:
            engine = engine_for(host, run)
            try:
                ensure_image(engine, image, on_progress)
            finally:
                engine.close()
        finally:
            run.forget()


def ensure_image(
    engine: ContainerEngine, image: str, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The image's description by the engine, pulled first if it is not there.

    Raises:
        ContainerError: it cannot be had, does not fit on the disk, or is for another processor.
    """
    import docker

    asked = Asked(image=image, engine=engine.address.url)
    client = engine.client()
    try:
        with engine.errors(asked):
            about = client.info()
            try:
                found = client.api.inspect_image(image)
            except docker.errors.ImageNotFound:
                _pull(client, image, _free_bytes(engine, about), asked, on_progress)
                found = client.api.inspect_image(image)
    finally:
        client.close()
    built, runs = (_SAME.get(name, name) for name in (found["Architecture"], about["Architecture"]))
    if built and runs and built != runs:
        raise wrong_architecture(f"it is for {built}, the engine's machine is {runs}", asked)
    return dict(found)


def image_here(engine: ContainerEngine, image: str) -> dict[str, Any] | None:
    """The image's description by the engine; None: it is not there. Nothing is pulled."""
    import docker

    client = engine.client()
    try:
        return dict(client.api.inspect_image(image))
    except docker.errors.ImageNotFound:
        return None
    finally:
        client.close()


def _pull(
    client: Any,
    image: str,
    free_bytes: int | None,
    asked: Asked,
    on_progress: OnProgress | None,
) -> None:
    if image.startswith(OFFICIAL) and free_bytes is not None and free_bytes < OFFICIAL_BYTES:
        raise disk_full(f"{free_bytes / 1e9:.0f} GB are free, before anything is pulled", asked)
    name, _, tag = image.rpartition(":")
    if not name or "/" in tag:
        name, tag = image, "latest"
    layers: dict[str, tuple[int, int]] = {}
    told = 0
    for event in client.api.pull(name, tag=tag, stream=True, decode=True):
        if "error" in event:
            raise container_error(str(event["error"]), asked)
        done, total = _progress(layers, event)
        if free_bytes is not None and total * UNPACKED > free_bytes:
            raise disk_full(
                f"it has {total / 1e9:.1f} GB to download, and {free_bytes / 1e9:.1f} GB are free",
                asked,
            )
        if on_progress and done - told >= _REPORT_BYTES:
            told = done
            on_progress(f"pulling {image}: {done / 1e9:.1f} of {total / 1e9:.1f} GB")


def _progress(layers: dict[str, tuple[int, int]], event: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes downloaded and to download over all layers, once this event is counted."""
    detail = event.get("progressDetail") or {}
    if event.get("status") == "Downloading" and detail.get("total"):
        layers[str(event.get("id"))] = int(detail.get("current", 0)), int(detail["total"])
    elif event.get("status") in ("Download complete", "Pull complete"):
        total = layers.get(str(event.get("id")), (0, 0))[1]
        layers[str(event.get("id"))] = total, total
    return sum(done for done, _ in layers.values()), sum(total for _, total in layers.values())


def _free_bytes(engine: ContainerEngine, about: Mapping[str, Any]) -> int | None:
    """Free space where the engine keeps images; None: on another machine, or not told."""
    root = Path(str(about.get("DockerRootDir") or ""))
    if not engine.is_local or not root.is_absolute():
        return None
    while not root.exists():
        root = root.parent
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
