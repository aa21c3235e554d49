"""Says before a run what is sent of which traffic file, and what the engine is sure to refuse."""

from __future__ import annotations

from collections.abc import Iterable

from kit.study.spec import ArrivalKind, EngineKind, ServerKind, TrialSpec
from kit.study.tokenizer_file import pinned_tokenizer
from kit.study.traces.pinned import pinned


def trace_notes(trials: Iterable[TrialSpec]) -> list[str]:
    """A sentence for each traffic file and what is made of it, each once."""
    said: dict[str, None] = {}
    for trial in trials:
        if trial.workload.trace is not None:
            said |= dict.fromkeys(_notes(trial, trial.workload.trace))
    return list(said)


def _notes(trial: TrialSpec, trace: str) -> list[str]:
    load, file = trial.workload, pinned(trace)
    arrivals = load.arrivals
    asked = "for a time" if load.requests is None else f"{load.requests:,} of them"
    if load.requests == file.requests:
        asked = "all of them"
    if arrivals.kind is ArrivalKind.TRACE:
        when = "at their own times"
        if arrivals.trace_speed != 1.0:
            when = f"{arrivals.trace_speed:g} times as fast"
    else:
        when = "by clients" if load.is_closed_loop else f"at {load.rate:g} a second"
    lengths = ""
    if arrivals.trace_lengths != 1.0:
        lengths = f", lengths times {arrivals.trace_lengths:g}"
    by = "a word stands for a token"
    if load.tokenizer is not None:
        by = f"tokens by {pinned_tokenizer(load.tokenizer).label}"
    notes = [f"{file.about}; {asked}, {when}{lengths}; {by}"]
    longest = round(file.longest_tokens * arrivals.trace_lengths)
    most = trial.engine.max_model_tokens
    is_known = trial.engine.kind is EngineKind.SIMULATED
    fitting = 0.9 * arrivals.trace_lengths * most / max(1, longest)
    if is_known and trial.server.kind is not ServerKind.ATTACHED and longest > most:
        notes.append(
            f"{file.label}: its longest request has {longest:,} tokens, and the engine takes "
            f"{most:,}: what is longer will be refused; trace_lengths={fitting:.2g} "
            "makes all of them fit"
        )
    return notes
