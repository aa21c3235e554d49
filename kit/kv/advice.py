"""Gives advice about the KV cache, before a run and after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final

from kit.kv.expect import Expectation, Footprint, expect, fits_up_to, footprint, usable_blocks
from kit.kv.seen import Seen, room, seen
from kit.servers.repository import served_models
from kit.servers.watch.names import NOT_EXPORTED, SOURCE_WORDS
from kit.study.engines import SIMULATED_MODEL, VLLM_MODEL
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.recorded import open_study
from kit.study.spec import ArrivalKind, Engine, TrialSpec
from kit.study.words import listing

#: A measured peak this far from the expected one (of the cache) needs a reason.
EXPLAINED: Final = 0.1
#: Models with an engine behind them; the others have no KV cache to speak of.
ENGINE_MODELS: Final = frozenset({SIMULATED_MODEL, VLLM_MODEL})


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAdvice:
    """One sentence for the reader of a run; a warning if the run suffers or would."""

    warning: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficAdvice:
    """What to know about the cache under one traffic, over the trials that had it."""

    scenario: str
    engine: Engine
    concurrency: int | None
    trials: int
    advice: tuple[CacheAdvice, ...]


def advise(
    engine: Engine,
    one: Footprint,
    concurrency: int,
    measured: Iterable[Seen] | None,
    *,
    cut_short: bool = False,
) -> list[CacheAdvice]:
    """What to know about the KV cache of a run, warnings first.

    measured: None: not run yet; empty: nothing was exported. cut_short: the server died or
    answers were ended on purpose, so that a peak below the expected one says nothing.
    """
    expected = expect(engine, one, concurrency)
    rows = [*_foreseen(engine, one, expected)]
    if measured is not None:
        rows += _found(expected, list(measured), cut_short)
    return _warnings_first(rows)


def expected_advice(spec: TrialSpec, *, is_engine_known: bool = False) -> list[CacheAdvice]:
    """What to expect of the cache before a trial is run, warnings first; []: nothing can be told.

    is_engine_known: the trial's engine is what is behind a server that is not the kit's.
    """
    if not _is_foreseeable(spec, is_engine_known):
        return []
    return advise(spec.engine, _footprint(spec), _clients(spec), None)


def trial_advice(trial: TrialFolder) -> list[CacheAdvice]:
    """Of one trial; nothing of one without an engine, or that says nothing about its server."""
    return list(_traffic_advice([trial]))


def study_advice(study: StudyFolder | Path) -> list[TrafficAdvice]:
    """One row a traffic (scenario, engine, concurrency), as the trials first had it."""

    def traffic(trial: TrialFolder) -> tuple[str, Engine, int | None]:
        return trial.spec.scenario, trial.spec.engine, trial.spec.workload.arrivals.concurrency

    trials = open_study(study).trials()
    order = list(dict.fromkeys(map(traffic, trials)))
    trials.sort(key=lambda trial: order.index(traffic(trial)))
    rows = []
    for (scenario, engine, concurrency), alike in groupby(trials, traffic):
        group = list(alike)
        advice = tuple(_traffic_advice(group))
        if advice:
            rows.append(
                TrafficAdvice(
                    scenario=scenario,
                    engine=engine,
                    concurrency=concurrency,
                    trials=len(group),
                    advice=advice,
                )
            )
    return rows


def _traffic_advice(trials: Sequence[TrialFolder]) -> list[CacheAdvice]:
    """Of trials with one traffic: of those whose servers lived, if any did."""
    told = [trial for trial in trials if _says_something(trial)]
    lived = [trial for trial in told if not _died(trial)]
    chosen = lived or told
    if not chosen:
        return []
    spec = chosen[0].spec
    known = spec.engine.has_known_cache
    within = room(spec.engine, _footprint(spec), _clients(spec)) if known else None
    found = [seen(trial.samples(), within) for trial in chosen]
    measured = _fullest(found)
    cut_short = not lived or bool(spec.workload.faults)
    silent = sum(not rows for rows in found)
    rows = []
    if measured and silent:
        text = f"KV usage is {NOT_EXPORTED} in {silent} of {len(found)} trials."
        rows.append(CacheAdvice(warning=True, text=text))
    if _is_foreseeable(spec):
        one = _footprint(spec)
        rows += advise(spec.engine, one, _clients(spec), measured, cut_short=cut_short)
    else:
        rows += _found(None, measured, cut_short)
    return _warnings_first(rows)


def _says_something(trial: TrialFolder) -> bool:
    result = trial.result
    return result is not None and result.verdict.is_counted and _has_engine(trial.spec)


def _has_engine(spec: TrialSpec) -> bool:
    """True if the model has an engine behind it, as one that is not the kit's own always has."""
    return spec.server.model is not None or _calls_an_engine(spec.model)


@lru_cache(maxsize=64)
def _calls_an_engine(model: str) -> bool:
    """Whether one of the kit's models has an engine, or calls one that has."""
    return not ENGINE_MODELS.isdisjoint(served_models(model))


def _died(trial: TrialFolder) -> bool:
    return trial.result is not None and trial.result.verdict.is_death


def _fullest(trials: Iterable[list[Seen]]) -> list[Seen]:
    """Of each source what it told where the cache was under the most pressure."""
    worst: dict[str, Seen] = {}
    for row in (row for rows in trials for row in rows):
        known = worst.get(row.source)
        if known is None or _pressure(row) > _pressure(known):
            worst[row.source] = row
    return list(worst.values())


def _pressure(row: Seen) -> tuple[bool, float, int]:
    return row.limited, row.peak_fraction, row.preemptions or 0


def _is_foreseeable(spec: TrialSpec, is_engine_known: bool = False) -> bool:
    """Closed loop, and every prompt as long as its distribution says."""
    load = spec.workload
    return (
        load.arrivals.kind is ArrivalKind.CLOSED
        and load.turns == 1
        and load.trace is None
        and not load.shared_prefix_tokens
        and (is_engine_known or spec.server.model is None)  # of another, its size is not known
        and spec.engine.has_known_cache
        and _has_engine(spec)
    )


def _clients(spec: TrialSpec) -> int:
    return spec.workload.arrivals.concurrency or spec.engine.max_sequences


def _footprint(spec: TrialSpec) -> Footprint:
    return footprint(spec.engine, spec.workload.prompt_tokens, spec.workload.output_tokens)


def _warnings_first(rows: Iterable[CacheAdvice]) -> list[CacheAdvice]:
    return sorted(rows, key=lambda advice: not advice.warning)


def _foreseen(engine: Engine, one: Footprint, expected: Expectation) -> Iterator[CacheAdvice]:
    usable, size = usable_blocks(engine), engine.block_size_tokens
    fits, clients = fits_up_to(engine, one), expected.concurrency
    if one.longest_tokens > engine.max_model_tokens:
        yield CacheAdvice(
            warning=True,
            text=f"Sequences of up to {one.longest_tokens} tokens exceed the engine's "
            f"{engine.max_model_tokens}; it refuses them.",
        )
    if expected.limited:
        running = min(clients, engine.max_sequences)
        enough = math.ceil(expected.need_fraction * usable) + 1
        left = (
            f" Whole prompts fill {expected.peak_fraction:.0%} of it; the rest is too small for "
            "one more."
            if expected.peak_fraction < 1.0
            else ""
        )
        yield CacheAdvice(
            warning=True,
            text=f"At concurrency {clients} this traffic needs {expected.need_fraction:.0%} of "
            f"the KV cache ({usable} usable blocks of {size} tokens): requests will wait for it, "
            f"or be preempted and computed again.{left} {fits} fit at a time; {enough} blocks "
            f"hold {running}.",
        )
    else:
        until = "however many run" if fits is None else f"up to concurrency {fits}"
        yield CacheAdvice(
            warning=False,
            text=f"At concurrency {clients} the KV cache should be {expected.peak_fraction:.0%} "
            f"full at most and {expected.mean_fraction:.0%} on average; it does not fill {until}.",
        )


def _found(
    expected: Expectation | None, measured: list[Seen], cut_short: bool
) -> Iterator[CacheAdvice]:
    if not measured:
        yield CacheAdvice(
            warning=True,
            text=f"KV usage is {NOT_EXPORTED} by this server; "
            "kit/servers/models/vllm/README.md has two remedies.",
        )
    for one in measured:
        who = SOURCE_WORDS[one.source]
        yield CacheAdvice(
            warning=False,
            text=f"{who}: measured peak {one.peak_fraction:.0%}{_engines(one)}"
            + (f", expected {expected.peak_fraction:.0%}." if expected else "."),
        )
        off = one.peak_fraction - expected.peak_fraction if expected else 0.0
        if off > EXPLAINED or (off < -EXPLAINED and not cut_short):
            cause = (
                "prompts have more tokens than assumed, or other traffic shares the engine"
                if off > 0
                else "answers ended early, prefixes are shared between prompts, or the samples are "
                "too far apart to catch the peak"
            )
            yield CacheAdvice(warning=True, text=f"{who}: that is off by {off:+.0%}: {cause}.")
        if one.limited:
            signs = [
                f"{one.preemptions} preemptions" if one.preemptions else "",
                f"no room for a waiting request in {one.held_back_share:.0%} of the samples"
                if one.held_back_share
                else "",
            ]
            yield CacheAdvice(
                warning=True,
                text=f"This run was limited by the KV cache ({who}: "
                f"{' and '.join(filter(None, signs))}); its latencies include that.",
            )


def _engines(one: Seen) -> str:
    if not one.engine_peaks:
        return ""
    return f" ({listing([f'engine {name} {peak:.0%}' for name, peak in one.engine_peaks])})"
