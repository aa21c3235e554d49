"""Checks that the KV cache holds the traffic, where the cache is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.kv.advice import CacheAdvice, expected_advice
from kit.load.traffic.draws import whole_quantile
from kit.study.distribution import Distribution
from kit.study.spec import OWN_WORKLOAD, Engine, TrialSpec

TOPIC: Final = "KV cache"
NOT_FORESEEN: Final = (
    "because how much an open loop, a conversation or a shared prefix holds depends on the "
    "server's speed"
)


def cache_findings(
    trials: Sequence[TrialSpec], server: str, *, engine: Engine | None = None, unknown: str = ""
) -> Iterator[Finding]:
    """What to expect of the KV cache under each traffic.

    engine: what is behind the server, if it told its size; None: the kit's own, as each trial
    has it. unknown: said where the size is not known.
    """
    said: dict[str, CacheAdvice] = {}
    for trial in trials:
        about = "" if trial.scenario == OWN_WORKLOAD else f"{trial.scenario}: "
        known = trial if engine is None else _with_engine(trial, engine)
        for row in expected_advice(known, is_engine_known=engine is not None):
            said.setdefault(about + row.text, row)
    for text, row in said.items():
        yield Finding(
            topic=TOPIC,
            severity=Severity.WARNS if row.warning else Severity.OK,
            found=text.removesuffix("."),
            hint="give it a larger cache, fewer clients or shorter requests" if row.warning else "",
            server=server,
        )
    if not said:
        yield Finding(
            topic=TOPIC,
            severity=Severity.NOT_CHECKED,
            found=unknown or NOT_FORESEEN,
            hint="`study.plot_kv()` shows afterwards how full it was",
            server=server,
        )


def _with_engine(trial: TrialSpec, engine: Engine) -> TrialSpec:
    """The trial on an engine of this cache, in which as many run at a time as clients send."""
    clients = trial.workload.concurrency or engine.max_sequences
    return replace(trial, engine=replace(engine, max_sequences=clients))


def length_findings(trials: Sequence[TrialSpec], limit: object, server: str) -> Iterator[Finding]:
    """A warning where prompt and answer together can exceed the `limit` of the engine, in tokens;
    nothing if that is no number."""
    if not isinstance(limit, int) or isinstance(limit, bool):
        return
    loads = [trial.workload for trial in trials]
    longest = max(_longest(load.prompt_tokens) + _longest(load.output_tokens) for load in loads)
    if longest > limit:
        yield Finding(
            topic=TOPIC,
            severity=Severity.WARNS,
            found=f"sequences of up to {longest:,} tokens, and the engine takes {limit:,}",
            reason="it refuses the longer ones",
            hint="send shorter prompts, ask for shorter answers, or raise max_model_len",
            server=server,
        )


def _longest(tokens: Distribution) -> int:
    """The most tokens of a distribution; of one without an end, what one draw in 100 exceeds."""
    return whole_quantile(tokens, 0.99, 1) if tokens.high is None else int(tokens.high)
