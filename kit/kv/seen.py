"""Collects what each source reported about the KV cache of one trial."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kit.kv.expect import Footprint, usable_blocks
from kit.servers.watch.names import (
    ENGINE_STEPS,
    KV_SOURCES,
    KV_USAGE,
    PREEMPTIONS,
    RUNNING,
    STEP,
    WAITING,
    Columns,
)
from kit.study.spec import Engine

#: name -> value, of what one engine said at one moment
Moment = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Beyond this, a request that waits does so for the cache and not for a place or a step."""

    most_running: int  # as many run at a time, whatever the cache
    prompt_fraction: float  # of the cache, that the longest prompt takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one source told about the KV cache in one run; None = it did not tell."""

    source: str
    peak_fraction: float  # of the fullest engine
    mean_fraction: float
    preemptions: int | None  # of all engines
    waiting_share: float | None  # of the samples, those with requests waiting
    held_back_share: float | None = None  # and of those, with no room for one: KV-limited
    engine_peaks: tuple[tuple[str, float], ...] = ()  # where there are several: name, peak

    @property
    def limited(self) -> bool:
        """Requests waited for the cache, or lost their blocks to others."""
        return bool(self.preemptions) or bool(self.held_back_share)


def room(engine: Engine, one: Footprint, concurrency: int) -> Room:
    return Room(
        most_running=min(concurrency, engine.max_sequences),
        prompt_fraction=one.prompt_blocks[1] / usable_blocks(engine),
    )


def seen(samples: Columns, within: Room | None = None) -> list[Seen]:
    """One row a source of KV usage, from samples (columns t_ns, source, name, value, labels).

    Sources that disagree both have their row. What the log says of single steps is a source of
    its own. An empty list is "not exported".

    within: what tells a wait for the cache from one for the next step; without it the share of
    those is not known.
    """
    series: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    moments: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    names = ("t_ns", "source", "name", "value", "labels")
    for t_ns, source, name, value, labels in zip(*(samples[n] for n in names), strict=True):
        engine, is_step = _engine_of(str(labels or ""))
        which = ENGINE_STEPS if is_step else str(source)
        number = float(str(value))
        series[which][engine][str(name)].append(number)
        moments[which][engine, int(str(t_ns))][str(name)] = number
    return [
        _seen(source, series[source], moments[source].values(), within)
        for source in (*KV_SOURCES, ENGINE_STEPS)
        if any(KV_USAGE in values for values in series[source].values())
    ]


def _seen(
    source: str,
    engines: Mapping[str, Mapping[str, list[float]]],
    moments: Iterable[Moment],
    within: Room | None,
) -> Seen:
    usage = {name: values[KV_USAGE] for name, values in engines.items() if KV_USAGE in values}
    everything = [value for values in usage.values() for value in values]
    # A counter counts from its engine's start: its last value is its highest.
    preempted = [max(values[PREEMPTIONS]) for values in engines.values() if PREEMPTIONS in values]
    queues = [moment for moment in moments if WAITING in moment]
    held = [moment for moment in queues if within and _held_back(moment, within)]
    return Seen(
        source=source,
        peak_fraction=max(everything),
        mean_fraction=sum(everything) / len(everything),
        preemptions=int(sum(preempted)) if preempted else None,
        waiting_share=sum(m[WAITING] > 0 for m in queues) / len(queues) if queues else None,
        held_back_share=len(held) / len(queues) if queues and within else None,
        engine_peaks=tuple(sorted((name, max(values)) for name, values in usage.items()))
        if len(usage) > 1
        else (),
    )


def _held_back(moment: Moment, within: Room) -> bool:
    """Whether a request waited although a place was free, with no room for its prompt.

    One that comes in the middle of a step waits for the next, too, however empty the cache is.
    """
    return (
        moment[WAITING] > 0
        and moment.get(RUNNING, within.most_running) < within.most_running
        and 1.0 - moment.get(KV_USAGE, 0.0) < within.prompt_fraction
    )


@lru_cache(maxsize=4096)
def _engine_of(labels: str) -> tuple[str, bool]:
    """Which engine a row is about ("" = the only one), and whether about a single step."""
    found = labels_of(labels)
    return str(found.get("engine", "")), STEP in found


def labels_of(text: str) -> dict[str, Any]:
    """A sample's labels; {}: it has none, or a stranger's study has no labels there.

    >>> labels_of('{"engine": "0"}'), labels_of("[1"), labels_of("")
    ({'engine': '0'}, {}, {})
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
