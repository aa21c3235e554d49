"""Engine sizes and traffic in, the KV usage to expect out; and what a run's samples say about it.

vLLM keeps one of its blocks back (the null block) and reports usage as a share of the others.
A sequence of p prompt and o output tokens grows from p to p + o - 1 tokens in the cache (from
its last token nothing is computed), one a step, and holds whole blocks. From that follow the
blocks it holds at its end and on average over its life, and so the cache that c of them need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kit.load.draws import whole_quantile
from kit.records import Distribution, DistributionKind, Engine
from kit.watch.names import KV_SOURCES, KV_USAGE, NOT_EXPORTED, PREEMPTIONS, WAITING, Columns

#: Lengths are taken at so many evenly spaced quantiles of their distributions.
QUANTILES: Final = 48
#: How far the need of many independent sequences climbs above its mean in a run, in standard
#: deviations; one sample in 700 of a normal distribution is higher.
PEAK_SIGMAS: Final = 3.0
#: A measured peak this far from the expected one (of the cache) needs a reason.
EXPLAINED: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Blocks that one sequence of the traffic holds, over its life and over the traffic."""

    mean_blocks: float
    stdev_blocks: float
    peak_blocks: int  # of the longest sequence, at its end
    longest_tokens: int  # prompt + output of the longest sequence
    varied: bool  # lengths differ, so sequences do not grow and end in step


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """KV usage at one concurrency. Fractions of the usable blocks, 0-1."""

    concurrency: int
    mean_fraction: float  # averaged over time, sequences at any age
    peak_fraction: float  # highest of the run
    need_fraction: float  # what the peak would be in a cache without end; above 1 = preemptions

    @property
    def limited(self) -> bool:
        """Whether the cache is too small for this traffic."""
        return self.need_fraction > 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one source told about the KV cache in one run; None = it did not tell."""

    source: str
    peak_fraction: float
    mean_fraction: float
    preemptions: int | None
    waiting_share: float | None  # of the samples, those with requests waiting

    @property
    def limited(self) -> bool:
        """Requests waited for the cache, or lost their blocks to others."""
        return bool(self.preemptions) or bool(self.waiting_share and self.peak_fraction > 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One sentence for the reader of a run; a warning if the run suffers or would."""

    warning: bool
    text: str


def footprint(engine: Engine, prompt: Distribution, output: Distribution) -> Footprint:
    """What one sequence of this traffic holds in this engine's cache."""
    size = engine.block_size_tokens
    prompts, outputs = _lengths(prompt), _lengths(output)
    steps = blocks = squares = 0.0
    for p in prompts:
        for o in outputs:
            steps += o
            blocks += _sum_blocks(p + o - 1, size) - _sum_blocks(p - 1, size)
            squares += _sum_squares(p + o - 1, size) - _sum_squares(p - 1, size)
    mean = blocks / steps
    longest = max(prompts) + max(outputs)
    return Footprint(
        mean_blocks=mean,
        stdev_blocks=math.sqrt(max(0.0, squares / steps - mean * mean)),
        peak_blocks=_blocks(longest - 1, size),
        longest_tokens=longest,
        varied=len(set(prompts)) + len(set(outputs)) > 2,
    )


def expect(engine: Engine, one: Footprint, concurrency: int) -> Expectation:
    """KV usage with `concurrency` sequences of this footprint in flight all the time.

    Sequences of one length that start together stay in step, so they all end at their peak at
    once. Those of varied lengths spread over all ages, and their needs add up as independent
    ones do, at most to that.
    """
    running = min(concurrency, engine.max_sequences)
    mean, in_step = running * one.mean_blocks, running * one.peak_blocks
    spread = mean + PEAK_SIGMAS * math.sqrt(running) * one.stdev_blocks
    need = min(in_step, max(spread, one.peak_blocks)) if one.varied else in_step
    usable = usable_blocks(engine)
    return Expectation(
        concurrency=concurrency,
        mean_fraction=min(1.0, mean / usable),
        peak_fraction=min(1.0, need / usable),
        need_fraction=need / usable,
    )


def fits_up_to(engine: Engine, one: Footprint) -> int | None:
    """The highest concurrency that the cache holds without preemption; None = any.

    0: not even one sequence fits.
    """
    if not expect(engine, one, engine.max_sequences).limited:
        return None  # the scheduler's own limit comes first
    low, high = 0, engine.max_sequences
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if expect(engine, one, middle).limited else (middle, high)
    return low


def usable_blocks(engine: Engine) -> int:
    return max(1, engine.blocks - 1)


def seen(samples: Columns) -> list[Seen]:
    """One row a source of KV usage, from a trial's samples (columns t_ns, source, name, value).

    Sources that disagree both have their row. An empty list is "not exported".
    """
    values: dict[tuple[str, str], list[float]] = {}
    rows = zip(samples["source"], samples["name"], samples["value"], strict=True)
    for source, name, value in rows:
        values.setdefault((str(source), str(name)), []).append(float(str(value)))
    found = []
    for source in KV_SOURCES:
        usage = values.get((source, KV_USAGE))
        if usage:
            waiting = values.get((source, WAITING))
            preempted = values.get((source, PREEMPTIONS))
            found.append(
                Seen(
                    source=source,
                    peak_fraction=max(usage),
                    mean_fraction=sum(usage) / len(usage),
                    preemptions=int(max(preempted)) if preempted else None,
                    waiting_share=sum(w > 0 for w in waiting) / len(waiting) if waiting else None,
                )
            )
    return found


def advise(
    engine: Engine, one: Footprint, concurrency: int, measured: Iterable[Seen] | None
) -> list[Advice]:
    """What to know about the KV cache of a run, warnings first; measured=None: not run yet."""
    expected = expect(engine, one, concurrency)
    rows = [*_foreseen(engine, one, expected)]
    if measured is not None:
        rows += _found(expected, list(measured))
    return sorted(rows, key=lambda advice: not advice.warning)


def _foreseen(engine: Engine, one: Footprint, expected: Expectation) -> Iterator[Advice]:
    usable, size = usable_blocks(engine), engine.block_size_tokens
    fits, clients = fits_up_to(engine, one), expected.concurrency
    if one.longest_tokens > engine.max_model_tokens:
        yield Advice(
            warning=True,
            text=f"Sequences of up to {one.longest_tokens} tokens exceed the engine's "
            f"{engine.max_model_tokens}; it refuses them.",
        )
    if expected.limited:
        running = min(clients, engine.max_sequences)
        enough = math.ceil(expected.need_fraction * usable) + 1
        yield Advice(
            warning=True,
            text=f"At concurrency {clients} this traffic needs {expected.need_fraction:.0%} of "
            f"the KV cache ({usable} usable blocks of {size} tokens): sequences will be "
            f"preempted and computed again. {fits} fit at a time; {enough} blocks hold "
            f"{running}.",
        )
    else:
        until = "however many run" if fits is None else f"up to concurrency {fits}"
        yield Advice(
            warning=False,
            text=f"At concurrency {clients} the KV cache should be {expected.peak_fraction:.0%} "
            f"full at most and {expected.mean_fraction:.0%} on average; it does not fill {until}.",
        )


def _found(expected: Expectation, measured: list[Seen]) -> Iterator[Advice]:
    if not measured:
        yield Advice(
            warning=True,
            text=f"KV usage is {NOT_EXPORTED} by this server; kit/models/vllm/README.md has two "
            "remedies.",
        )
    for one in measured:
        off = one.peak_fraction - expected.peak_fraction
        yield Advice(
            warning=False,
            text=f"{one.source}: measured peak {one.peak_fraction:.0%}, expected "
            f"{expected.peak_fraction:.0%}.",
        )
        if abs(off) > EXPLAINED:
            cause = (
                "prompts have more tokens than assumed, or other traffic shares the engine"
                if off > 0
                else "answers ended early, prefixes are shared between prompts, or the samples are "
                "too far apart to catch the peak"
            )
            yield Advice(warning=True, text=f"{one.source}: that is off by {off:+.0%}: {cause}.")
        if one.limited:
            signs = [
                f"{one.preemptions} preemptions" if one.preemptions else "",
                f"requests waiting in {one.waiting_share:.0%} of the samples"
                if one.waiting_share
                else "",
            ]
            yield Advice(
                warning=True,
                text=f"This run was limited by the KV cache ({one.source}: "
                f"{' and '.join(filter(None, signs))}); its latencies include that.",
            )


def _lengths(distribution: Distribution) -> list[int]:
    if distribution.kind is DistributionKind.FIXED:
        return [whole_quantile(distribution, 0.5, 1)]
    return [whole_quantile(distribution, (i + 0.5) / QUANTILES, 1) for i in range(QUANTILES)]


def _blocks(tokens: int, size: int) -> int:
    return -(-tokens // size)


def _sum_blocks(tokens: int, size: int) -> int:
    """Blocks for 1 token, plus blocks for 2, … up to `tokens`."""
    whole, rest = divmod(tokens, size)
    return size * whole * (whole + 1) // 2 + rest * (whole + 1)


def _sum_squares(tokens: int, size: int) -> int:
    whole, rest = divmod(tokens, size)
    return size * whole * (whole + 1) * (2 * whole + 1) // 6 + rest * (whole + 1) ** 2
