"""Stands for vLLM 0.3.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class SamplingParams:
    """Of what vLLM takes, what the kit sends."""

    max_tokens: int = 16
    ignore_eos: bool = False
    min_tokens: int = 0
    temperature: float = 1.0
    extra: Any = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError("temperature must be non-negative")
