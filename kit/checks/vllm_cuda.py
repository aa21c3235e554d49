"""Checks this machine for a vLLM on its GPUs: before anything is fetched, and before a study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.checks.gpu import vllm_gpu_findings
from kit.servers.bundle.progress import size
from kit.servers.gpu import gpus_here
from kit.servers.vllm_cuda import CudaPlan, free_bytes, installed_for
from kit.study.spec import Engine

#: Of vLLM, its PyTorch and CUDA: what was fetched, and unpacked beside it.
NEEDS_BYTES: Final = 20_000_000_000
DISK: Final = "disk"


def engine_findings(engines: Iterable[Engine], server: str) -> Iterator[Finding]:
    """Whether this machine's GPUs suit the vLLMs of these engines, as they are installed here."""
    gpus = gpus_here()
    asked = dict.fromkeys((engine.gpus, installed_for(engine.version)) for engine in engines)
    for names, cuda in asked:
        yield from vllm_gpu_findings(names, gpus, cuda=cuda, server=server)


def cuda_findings(plan: CudaPlan) -> Iterator[Finding]:
    """GPU, compute capability, driver, free memory and disk, for the CUDA that the plan names."""
    name = f"vLLM {plan.version}"
    yield from vllm_gpu_findings(None, gpus_here(), cuda=plan.cuda, server=name)
    free = free_bytes()
    is_enough = free >= NEEDS_BYTES
    yield Finding(
        topic=DISK,
        severity=Severity.OK if is_enough else Severity.BLOCKS,
        found=f"{size(free)} free where the cache is",
        reason="" if is_enough else f"up to {size(NEEDS_BYTES)} are needed on the way",
        hint="" if is_enough else "free space, or set TRITON_CRASH_KIT_CACHE to another disk",
        server=name,
    )
