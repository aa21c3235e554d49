"""A growing server log → what the engine says in it, as samples; every vLLM format since 0.2.1.

A log is written by several processes at once: lines carry prefixes, come in pieces, run into
each other. So each message is searched for anywhere in a line, and a message that is not whole
is no message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from kit.servers.watch.metrics_text import label_text
from kit.servers.watch.names import (
    DEFERRED,
    ENGINE_LOG,
    GENERATION_RATE,
    KV_BLOCKS,
    KV_CACHE_TOKENS,
    KV_SWAP_BLOCKS,
    KV_SWAP_USAGE,
    KV_USAGE,
    LOG_MARKS,
    MAX_CONCURRENCY,
    PREEMPTIONS,
    PREFIX_HITS,
    PROMPT_RATE,
    RUNNING,
    STEP,
    SWAPPED,
    VIA,
    WAITING,
    Sample,
)

# Every repetition is bounded and begins where a word does, so that the time for a line grows with
# its length and never with its square: what a server writes between its messages is not ours.
_DIGITS: Final = r"\d{1,12}"
_NUMBER: Final = r"\d{1,12}(?:\.\d{1,12})?"
_COUNT: Final = r"\d{1,12}(?:,\d{3}){0,5}"
_DEVICE: Final = r"(?<!\w)(?P<device>\w{1,16})"
_GAP: Final = r"(?:(?!Avg prompt|Iteration\()[^\n]){0,300}?"  # never into the next message

#: The statistics line. V0: "Swapped", "Pending" and two KV figures, the second of the CPU swap
#: space; V1: "Waiting", one KV figure labelled with the device, parts that may be missing.
_STATS: Final = re.compile(
    rf"(?:Engine (?P<engine>{_DIGITS}): |(?<!\d)(?P<engines>{_DIGITS}) Engines Aggregated: )?"
    rf"Avg prompt throughput: (?P<prompt>{_NUMBER}) tokens/s, "
    rf"Avg generation throughput: (?P<generation>{_NUMBER}) tokens/s, "
    rf"Running: (?P<running>{_DIGITS}) reqs?, "
    rf"(?:Swapped: (?P<swapped>{_DIGITS}) reqs?, )?"
    rf"(?:Pending|Waiting): (?P<waiting>{_DIGITS}) reqs?"
    rf"(?:, Deferred: (?P<deferred>{_DIGITS}) reqs?)?"
    rf"(?:, KV fetch: {_GAP})?"
    rf"(?:, Preemptions: (?P<preemptions>{_DIGITS}))?"
    rf", {_DEVICE} KV cache usage: (?P<kv>{_NUMBER})%"
    rf"(?:, CPU KV cache usage: (?P<swap>{_NUMBER})%)?"
    rf"(?:, Prefix cache hit rate: (?P<hits>{_NUMBER})%)?"
)
#: V0 tells prefix hits in a line of their own.
_V0_HITS: Final = re.compile(rf"Prefix cache hit rate: GPU: (?P<hits>{_NUMBER})%")
#: One engine step (enable_logging_iteration_details).
_STEP: Final = re.compile(
    rf"(?:Engine (?P<engine>{_DIGITS}): )?Iteration\((?P<step>{_DIGITS})\): {_GAP}"
    rf"{_DEVICE} KV cache usage: (?P<kv>{_NUMBER})%"
)
#: V0 only, the first and then every fiftieth preemption.
_PREEMPTED: Final = re.compile(
    r"Sequence group \S{1,64} is preempted by PreemptionMode\.(?P<mode>RECOMPUTE|SWAP) mode "
    r"because there is not enough KV cache space\.[^\n]{0,300}?"
    rf"total_(?:num_)?cumulative_preemption(?:_cnt)?=(?P<total>{_DIGITS})"
)
_BLOCKS: Final = re.compile(
    rf"# {_DEVICE} blocks: (?P<blocks>{_COUNT})"
    rf"(?:, # (?:CPU|cpu) blocks: (?P<swap>{_COUNT}))?"
)
_TOKENS: Final = re.compile(rf"{_DEVICE} KV cache size: (?P<tokens>{_COUNT}) tokens")
_CONCURRENCY: Final = re.compile(
    rf"Maximum concurrency for (?P<tokens>{_COUNT}) tokens per request: (?P<times>{_NUMBER})x"
)

#: A line without any of these has nothing to tell; most lines of a log are passed over here.
_MARKS: Final = (
    "KV cache",
    "Prefix cache hit rate",
    " blocks: ",
    "Maximum concurrency for ",
    "cumulative_preemption",
    *LOG_MARKS,
)
#: A longer line is no engine's message, and is passed over.
MAX_LINE_CHARS: Final = 8192


class EngineLog:
    """Reads lines in order and remembers what later lines need.

    V1 counts preemptions from one statistics line to the next; the kit's figure is the sum since
    the start. The marks of the kit's remedies say through which of them later lines came.
    """

    def __init__(self) -> None:
        self._preempted: dict[str, int] = {}
        self._via: set[str] = set()

    def read_line(self, line: str, *, t_ns: int) -> list[Sample]:
        """The samples of one line, with or without its newline; none for most lines."""
        if len(line) > MAX_LINE_CHARS or not any(mark in line for mark in _MARKS):
            return []
        self._via |= {via for mark, via in LOG_MARKS.items() if mark in line}
        return [
            Sample(t_ns=t_ns, source=ENGINE_LOG, name=name, value=value, labels=label_text(labels))
            for name, value, labels in self._messages(line)
        ]

    def _messages(self, line: str) -> Iterator[tuple[str, float, dict[str, str]]]:
        for found in _STATS.finditer(line):
            yield from self._stats(found.groupdict())
        for found in _STEP.finditer(line):
            labels = _labels(found.groupdict()) | {STEP: found["step"]}
            yield KV_USAGE, float(found["kv"]) / 100, labels
        for found in _V0_HITS.finditer(line):
            yield PREFIX_HITS, float(found["hits"]) / 100, {}
        for found in _PREEMPTED.finditer(line):
            yield PREEMPTIONS, float(found["total"]), {"mode": found["mode"].lower()}
        for found in _BLOCKS.finditer(line):
            yield KV_BLOCKS, _count(found["blocks"]), _labels(found.groupdict())
            if found["swap"] is not None:
                yield KV_SWAP_BLOCKS, _count(found["swap"]), {}
        for found in _TOKENS.finditer(line):
            yield KV_CACHE_TOKENS, _count(found["tokens"]), _labels(found.groupdict())
        for found in _CONCURRENCY.finditer(line):
            tokens = found["tokens"].replace(",", "")
            yield MAX_CONCURRENCY, float(found["times"]), {"tokens_per_request": tokens}

    def _stats(
        self, found: Mapping[str, str | None]
    ) -> Iterator[tuple[str, float, dict[str, str]]]:
        labels = _labels(found)
        if self._via:
            labels[VIA] = ", ".join(sorted(self._via))
        counts = (
            (PROMPT_RATE, "prompt", 1),
            (GENERATION_RATE, "generation", 1),
            (RUNNING, "running", 1),
            (SWAPPED, "swapped", 1),
            (WAITING, "waiting", 1),
            (DEFERRED, "deferred", 1),
            (KV_USAGE, "kv", 100),
            (KV_SWAP_USAGE, "swap", 100),
            (PREFIX_HITS, "hits", 100),
        )
        for name, group, divisor in counts:
            if (text := found[group]) is not None:
                yield name, float(text) / divisor, labels
        if (preempted := found["preemptions"]) is not None:
            engine = labels.get("engine", "")
            self._preempted[engine] = self._preempted.get(engine, 0) + int(preempted)
            yield PREEMPTIONS, float(self._preempted[engine]), labels


def _labels(found: Mapping[str, str | None]) -> dict[str, str]:
    """Which engine and device a message is about; a single engine without a number is none."""
    labels = {"device": device.upper()} if (device := found.get("device")) else {}
    if (engine := found.get("engine")) is not None:
        labels["engine"] = engine
    if (engines := found.get("engines")) is not None:
        labels["engines"] = engines
    return labels


def _count(text: str) -> float:
    return float(text.replace(",", ""))
