"""Checks the GPUs of this machine for a container that asks for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.servers.gpu import Gpu

GPU: Final = "GPU"
DRIVER: Final = "driver"
#: Images from this release on have no code for older GPUs.
LEAST_CAPABILITY: Final = {"25.03": (7, 5)}
#: The oldest driver that runs a CUDA of that major version (NVIDIA's table of minor-version
#: compatibility).
LEAST_DRIVER: Final = {11: 450, 12: 525, 13: 580}
#: With a larger share of its memory in use, a GPU serves somebody else already.
_BUSY_FRACTION: Final = 0.1


def gpu_findings(
    asked: str,
    gpus: Sequence[Gpu] | str,
    *,
    release: str | None,
    environment: Mapping[str, str],
    server: str,
) -> Iterator[Finding]:
    """Whether these GPUs suit the image.

    asked: "all", or indexes or UUIDs. environment: of the image; {}: it is not known yet.
    """
    if isinstance(gpus, str):
        yield Finding(
            topic=GPU,
            severity=Severity.WARNS,
            found=f"gpus={asked!r} is asked for, and {gpus}",
            reason="docker will refuse the container; podman drops the request in silence",
            hint="install NVIDIA's driver and container toolkit, or leave out gpus",
            server=server,
        )
        return
    names = [name.strip() for name in asked.split(",")]
    chosen = [g for g in gpus if names == ["all"] or g.index in names or g.uuid in names]
    if not chosen:
        yield Finding(
            topic=GPU,
            severity=Severity.BLOCKS,
            found=f"gpus={asked!r} names none of {', '.join(g.index for g in gpus)}",
            hint="nvidia-smi -L lists them",
            server=server,
        )
    for gpu in chosen:
        yield from _one(gpu, release, server)
    if chosen:
        yield _driver(chosen[0].driver, environment.get("CUDA_VERSION"), server)


def _one(gpu: Gpu, release: str | None, server: str) -> Iterator[Finding]:
    since, least = next(iter(LEAST_CAPABILITY.items()))
    what = f"{gpu.index}: {gpu.name}"
    if gpu.capability is None:
        yield Finding(
            topic=GPU,
            severity=Severity.NOT_CHECKED,
            found=f"because nvidia-smi does not tell the compute capability of {what}",
            server=server,
        )
    elif release is not None and release >= since and gpu.capability < least:
        yield Finding(
            topic=GPU,
            severity=Severity.WARNS,
            found=f"{what} has compute capability {_dotted(gpu.capability)}",
            reason=f"images from {since} on want {_dotted(least)} or more",
            hint="choose an earlier release or a newer GPU",
            server=server,
        )
    else:
        found = f"{what}, compute capability {_dotted(gpu.capability)}"
        yield Finding(topic=GPU, severity=Severity.OK, found=found, server=server)
    if gpu.memory_mib and gpu.used_mib and gpu.used_mib / gpu.memory_mib > _BUSY_FRACTION:
        yield Finding(
            topic=GPU,
            severity=Severity.WARNS,
            found=f"{gpu.used_mib:,.0f} of {gpu.memory_mib:,.0f} MiB of {what} are in use",
            reason="vLLM takes a fixed share of all memory and fails where it is not free",
            hint="end what uses it (nvidia-smi names it), or lower gpu_memory_utilization",
            server=server,
        )


def _driver(driver: str, cuda: str | None, server: str) -> Finding:
    if cuda is None:
        return Finding(
            topic=DRIVER,
            severity=Severity.NOT_CHECKED,
            found=f"because the image does not tell its CUDA version yet; the driver is {driver}",
            hint="pull the image first, then it tells",
            server=server,
        )
    least = LEAST_DRIVER.get(_major(cuda))
    if least is not None and _major(driver) < least:
        return Finding(
            topic=DRIVER,
            severity=Severity.WARNS,
            found=f"driver {driver}, and the image has CUDA {cuda}",
            reason=f"CUDA {_major(cuda)} wants a driver from {least} on",
            hint="install a newer driver, or choose an earlier release",
            server=server,
        )
    return Finding(
        topic=DRIVER,
        severity=Severity.OK if least is not None else Severity.NOTES,
        found=f"driver {driver} for an image with CUDA {cuda}",
        server=server,
    )


def _major(version: str) -> int:
    found = re.match(r"[0-9]{1,6}(?![^.])", version)
    return int(found[0]) if found else 0


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
