"""Builds vLLM's engine arguments from `model.json` and config.pbtxt."""

from __future__ import annotations

import json
import os
from pathlib import Path

from settings import Settings

#: Parameter → the engine's argument; 0 leaves it to model.json, and else to vLLM.
_SIZES = {
    "blocks": "num_gpu_blocks_override",
    "block_size_tokens": "block_size",
    "max_sequences": "max_num_seqs",
    "max_model_tokens": "max_model_len",
}


def engine_arguments(settings: Settings, args: dict[str, str]) -> dict[str, object]:
    """Environment variables in the text values of model.json are filled in.

    Raises:
        ValueError: something that should be a JSON object or a number is none.
    """
    path = Path(args["model_repository"], args["model_version"], "model.json")
    arguments = {
        name: os.path.expandvars(value) if isinstance(value, str) else value
        for name, value in _object(path.read_text(encoding="utf-8"), "model.json").items()
    }
    arguments |= _object(settings.text("engine_arguments"), "engine_arguments")
    for parameter, argument in _SIZES.items():
        if (size := settings.whole(parameter)) > 0:
            arguments[argument] = size
    # Without this vLLM gathers no statistics at all; whether it logs them is `log_stats`.
    return arguments | {"disable_log_stats": False}


def _object(text: str, where: str) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds no JSON object")
    return value
