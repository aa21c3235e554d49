"""Computes the KV usage to expect of an engine under a traffic.

vLLM keeps one of its blocks back (the null block) and reports usage as a share of the others.
A sequence of p prompt and o output tokens grows from p to p + o - 1 tokens in the cache (from
its last token nothing is computed), one a step, and holds whole blocks. From that follow the
blocks it holds at its end and on average over its life, and so the cache that c of them need.

A request is admitted once its whole prompt fits, and blocks that are kept for nobody stay free:
where prompts are long, a cache can be too small and yet never full. So no more run at a time than
shortest prompts fit, and the peak is no higher than what those hold at their ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kit.load.traffic.draws import whole_quantile
from kit.study.spec import Distribution, DistributionKind, Engine

#: Lengths are taken at so many evenly spaced quantiles of their distributions.
QUANTILES: Final = 48
#: How far the need of many independent sequences climbs above its mean in a run, in standard
#: deviations. One sample in 700 of a normal distribution is higher: an upper estimate, right for
#: runs of some hundred requests and too high for shorter ones.
PEAK_SIGMAS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Blocks that one sequence of the traffic holds, over its life and over the traffic."""

    mean_blocks: float
    stdev_blocks: float
    peak_blocks: int  # of the longest sequence, at its end
    prompt_blocks: tuple[int, int]  # of the shortest and of the longest prompt
    longest_tokens: int  # prompt + output of the longest sequence
    varied: bool  # lengths differ, so sequences do not grow and end in step


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """KV usage at one concurrency. Fractions of the usable blocks, 0-1."""

    concurrency: int
    mean_fraction: float  # averaged over time, sequences at any age
    peak_fraction: float  # highest of the run
    need_fraction: float  # what the peak would be in a cache without end

    @property
    def limited(self) -> bool:
        """Whether the cache is too small for this traffic: requests wait or are preempted."""
        return self.need_fraction > 1.0


@lru_cache(maxsize=256)  # a study asks it of each of its cells, which share their lengths
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
        prompt_blocks=(_blocks(min(prompts), size), _blocks(max(prompts), size)),
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
    admitted = min(running, usable // one.prompt_blocks[0])
    peak = min(need, usable, admitted * one.peak_blocks)
    return Expectation(
        concurrency=concurrency,
        mean_fraction=min(mean, peak) / usable,
        peak_fraction=peak / usable,
        need_fraction=need / usable,
    )


def fits_up_to(engine: Engine, one: Footprint) -> int | None:
    """The highest concurrency that the cache holds without a wait or preemption; None = any.

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
