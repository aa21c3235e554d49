"""Checks this machine for a vLLM on its GPUs, before anything of it is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.checks.gpu import vllm_gpu_findings
from kit.servers.bundle.progress import size
from kit.servers.gpu import gpus_here
from kit.servers.vllm_cuda import CudaPlan, free_bytes

#: Of vLLM, its PyTorch and CUDA: what was fetched, and unpacked beside it.
NEEDS_BYTES: Final = 20_000_000_000
DISK: Final = "disk"


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
