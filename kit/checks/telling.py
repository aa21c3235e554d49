"""Checks what a server will tell of its KV cache and its GPU: from its metrics, or its release."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.servers.watch.names import KV_USAGE, NOT_EXPORTED, SOURCE_WORDS, Sample
from kit.study.words import listing

METRICS: Final = "metrics"
GPU: Final = "GPU telemetry"
#: From this release on the official backend can export counters of tokens; never KV usage.
COUNTERS_SINCE: Final = "24.08"
#: From this release on, whose vLLM has the V1 engine, its log does not tell KV usage either
#: (kit/servers/models/vllm/README.md).
SILENT_SINCE: Final = "25.10"
REMEDIES: Final = (
    "two remedies put it on the metrics port or into the log: kit/servers/models/vllm/README.md"
)
_WHY: Final = "without it nobody sees whether the cache was full when answers stopped"
_GPU_METRICS: Final = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage")


def told_by(samples: Collection[Sample], where: str | None, server: str) -> Iterator[Finding]:
    """What the metrics of a running server tell.

    where: host:port where they are; None: nowhere that was asked.
    """
    if where is None:
        yield Finding(
            topic=METRICS,
            severity=Severity.WARNS,
            found="none, neither at port 8002 nor at the server's own port",
            reason="KV usage, queues and GPU will be missing from the study",
            hint="name them with metrics_url, or start Triton with --allow-metrics=true",
            server=server,
        )
        return
    kv = {sample.source for sample in samples if sample.name == KV_USAGE}
    names = {sample.name for sample in samples}
    if kv:
        words = listing([SOURCE_WORDS.get(source, source) for source in sorted(kv)])
        yield Finding(
            topic=METRICS,
            severity=Severity.OK,
            found=f"at {where}, and KV usage is among them ({words})",
            server=server,
        )
    elif names:
        what = "vLLM's counters" if any(n.startswith("vllm:") for n in names) else "Triton's own"
        yield Finding(
            topic=METRICS,
            severity=Severity.WARNS,
            found=f"at {where} are {what}; KV usage is {NOT_EXPORTED}",
            reason=_WHY,
            hint=REMEDIES,
            server=server,
        )
    else:
        yield Finding(
            topic=METRICS,
            severity=Severity.WARNS,
            found=f"{where}/metrics answers, and there is no metric of Triton or vLLM in it",
            reason=_WHY,
            hint="name the right address with metrics_url",
            server=server,
        )
    yield from _gpu_told(names, where, server)


def _gpu_told(names: Collection[str], where: str, server: str) -> Iterator[Finding]:
    found = [name for name in _GPU_METRICS if name in names]
    if found:
        yield Finding(
            topic=GPU,
            severity=Severity.OK,
            found=f"{listing(found)} at {where}",
            server=server,
        )
    elif any(name.startswith("nv_") for name in names):
        yield Finding(
            topic=GPU,
            severity=Severity.NOTES,
            found=f"{NOT_EXPORTED} at {where}: the server has no GPU, or no DCGM to ask",
            hint="with a GPU: start Triton with --allow-gpu-metrics=true where DCGM is installed",
            server=server,
        )
    else:
        yield Finding(
            topic=GPU,
            severity=Severity.NOT_CHECKED,
            found="because only Triton's metrics have it",
            hint="nvidia-smi dmon on the server's machine shows it",
            server=server,
        )


def told_by_official(release: str | None, server: str) -> Finding:
    """What the official vLLM backend of a release tells of the KV cache."""
    if release is None:
        return Finding(
            topic=METRICS,
            severity=Severity.NOT_CHECKED,
            found="because the image's release is not known",
            hint="give the release as well: kit.container(release, image=...)",
            server=server,
        )
    counters = "counters of requests and tokens" if release >= COUNTERS_SINCE else "none of vLLM"
    if release >= SILENT_SINCE:
        return Finding(
            topic=METRICS,
            severity=Severity.WARNS,
            found=f"the official backend of {release} exports {counters}, and KV usage neither "
            "there nor in its log",
            reason=_WHY,
            hint=REMEDIES,
            server=server,
        )
    return Finding(
        topic=METRICS,
        severity=Severity.NOTES,
        found=f"the official backend of {release} exports {counters}; KV usage comes from vLLM's "
        "log, a line every few seconds",
        reason="peaks between two lines are not seen",
        hint=REMEDIES,
        server=server,
    )
