"""Parses the body of a /metrics answer; leaves out what cannot be read, and raises no error.

Servers die while they answer: a body may be torn, binary or far too large. Each line goes
through prometheus_client's parser by itself, so that a bad line costs itself and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

from kit.servers.watch.names import (
    TRITON_METRICS,
    UNWANTED_SUFFIXES,
    VLLM_METRICS,
    VLLM_NAMES,
    WANTED_PREFIXES,
    Sample,
)

#: A longer line is no metric: the parser's time grows with the square of a line's length.
MAX_LINE_CHARS = 4096
#: Triton with a hundred models exports about 3,000 lines.
MAX_LINES = 50_000

_VLLM_RANK = {name: rank for rank, name in enumerate(VLLM_NAMES)}


def parse_metrics(
    body: bytes,
    *,
    t_ns: int,
    source: str = VLLM_METRICS,
    models: Collection[str] | None = None,
) -> list[Sample]:
    """The wanted samples of one scrape, under the kit's names where it has one.

    source: whose port was asked. A body with any `nv_` metric is Triton's, whoever was asked;
    one without is not the other's, for it may be torn.
    models: keep only their samples (and those that name no model); None keeps all.
    A last line without its newline is torn and dropped: its number may be cut short.
    """
    lines = body.decode("utf-8", errors="replace").split("\n")[:-1]
    wanted = [line for line in lines[:MAX_LINES] if _is_wanted(line)]
    if any(line.startswith("nv_") for line in wanted):
        source = TRITON_METRICS
    best: dict[tuple[str, str], tuple[int, Sample]] = {}
    for line in wanted:
        for name, labels, value in _parse_line(line):
            if not math.isfinite(value) or not _is_of(labels, models):
                continue
            if name in VLLM_NAMES and value < 0:
                continue  # vLLM's way to say that a feature is off
            sample = Sample(
                t_ns=t_ns,
                source=source,
                name=VLLM_NAMES.get(name, name),
                value=value,
                labels=label_text(labels),
            )
            rank = _VLLM_RANK.get(name, 0)
            key = sample.name, sample.labels
            if key not in best or rank < best[key][0]:
                best[key] = rank, sample
    return [sample for _, sample in best.values()]


def label_text(labels: Mapping[str, str]) -> str:
    """Labels as one comparable text: a JSON object with sorted keys; "" for none."""
    return json.dumps(dict(sorted(labels.items())), ensure_ascii=False) if labels else ""


def _is_wanted(line: str) -> bool:
    if not line.startswith(WANTED_PREFIXES) or len(line) > MAX_LINE_CHARS:
        return False
    name = line[: min((i for i in (line.find("{"), line.find(" ")) if i > 0), default=0)]
    return bool(name) and not name.endswith(UNWANTED_SUFFIXES)


def _is_of(labels: Mapping[str, str], models: Collection[str] | None) -> bool:
    # Only Triton's label counts: vLLM's own "model_name" is a path or a name of its user's.
    return models is None or "model" not in labels or labels["model"] in models


def _parse_line(line: str) -> Iterator[tuple[str, dict[str, str], float]]:
    try:
        for family in text_string_to_metric_families(line):
            for sample in family.samples:
                yield sample.name, dict(sample.labels), float(sample.value)
    except (ValueError, IndexError, OverflowError):
        return
