"""Trials over releases x engines x concurrencies in, "is it vLLM, or is it Triton?" out."""

from __future__ import annotations

from kit.records import Engine, EngineKind, StudySpec

#: Two releases that the racing cancellation check takes down, and between them one that stands.
RELEASES = ("23.10", "24.05", "24.10")
VLLM_VERSIONS = ("0.27.1", "0.32.0")


def factor_study() -> StudySpec:
    """The experiment: real vLLM in two versions, and no vLLM at all, in three Triton releases.

    The racing check and its control, each with the same traffic in every cell.
    """
    sizes = {"blocks": 32, "block_size_tokens": 32, "max_model_tokens": 512}
    real = (
        Engine(kind=EngineKind.VLLM_CPU, version=version, **sizes) for version in VLLM_VERSIONS
    )
    return StudySpec(
        name="vllm-or-triton",
        releases=RELEASES,
        scenarios=("control", "cancel-race"),
        engines=(*real, Engine(**sizes)),
        concurrencies=(1, 4, 16),
        requests=64,
        repeats=2,
    )
