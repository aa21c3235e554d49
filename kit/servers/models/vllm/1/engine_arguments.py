"""Builds vLLM's engine arguments from `model.json` and config.pbtxt."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from settings import Settings

#: What lines of the kit's begin with.
MARK = "triton-crash-kit:"
#: The oldest vLLM has none of these, and does without: its cache is as large as its share of the
#: GPU's memory makes it.
_NEWER = {
    *("enforce_eager", "enable_prefix_caching", "kv_cache_memory_bytes"),
    "num_gpu_blocks_override",
}
#: Parameter → the engine's argument; 0 leaves it to model.json, and else to vLLM.
_SIZES = {
    "blocks": "num_gpu_blocks_override",
    "block_size_tokens": "block_size",
    "max_sequences": "max_num_seqs",
    "max_model_tokens": "max_model_len",
}


def engine_arguments(
    settings: Settings, args: dict[str, str], known: Collection[str]
) -> dict[str, object]:
    """Environment variables in the text values of model.json are filled in.

    A null of `engine_arguments` takes what model.json has of that name away. known: the arguments
    of this vLLM; what an old one lacks of model.json and the sizes is left out, which the log says.

    Raises:
        ValueError: something that should be a JSON object or a number is none.
    """
    path = Path(args["model_repository"], args["model_version"], "model.json")
    own = {
        name: os.path.expandvars(value) if isinstance(value, str) else value
        for name, value in _object(path.read_text(encoding="utf-8"), "model.json").items()
    }
    given = _object(settings.text("engine_arguments"), "engine_arguments")
    sizes = {argument: settings.whole(parameter) for parameter, argument in _SIZES.items()}
    sizes = {argument: size for argument, size in sizes.items() if size > 0}
    for name in sorted(_NEWER & {*own, *sizes} - {*known}):
        value = sizes.pop(name, own.pop(name, None))
        print(f"{MARK} this vLLM has no argument {name}; {value!r} is left out", flush=True)  # noqa: T201
    merged = own | given | sizes
    # Without this vLLM gathers no statistics at all; whether it logs them is `log_stats`.
    return {name: v for name, v in merged.items() if v is not None} | {"disable_log_stats": False}


def _object(text: str, where: str) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds no JSON object")
    return value
