"""Simulated scheduler: continuous batching over a paged KV cache.

What vLLM V1's scheduler decides, without a model behind it: first come, first served
admission; a token budget and a sequence limit a step; chunked prefill; cache blocks that grow
with the sequence; preemption of the newest running sequence when blocks run out, by recompute,
back to the head of the waiting queue. Pure: no clock, no thread, no Triton.

One block is the null block that vLLM keeps back, so `blocks` of 32 has 31 to give, and usage is
a share of 31. A sequence's last token needs no place in the cache: nothing is computed from it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


class DoesNotFitError(ValueError):
    """A sequence that this engine can never finish."""


@dataclass(frozen=True)
class CacheConfig:
    """Sizes and limits of the engine; refuses what vLLM refuses at its start."""

    blocks: int = 512
    block_size_tokens: int = 16
    max_sequences: int = 32
    max_model_tokens: int = 2048
    max_batched_tokens: int = 2048
    watermark_fraction: float = 0.0  # of the blocks, kept free when a sequence is admitted

    def __post_init__(self) -> None:
        for name in ("block_size_tokens", "max_sequences", "max_model_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be 1 or more")
        if self.max_batched_tokens < 1:
            raise ValueError(f"max_batched_tokens = {self.max_batched_tokens}: 1 or more")
        if not 0.0 <= self.watermark_fraction < 1.0:
            raise ValueError(f"watermark_fraction = {self.watermark_fraction}: 0 to below 1")
        if self.blocks_for(self.max_model_tokens) > self.usable_blocks - self.watermark_blocks:
            raise ValueError(
                f"the KV cache of {self.blocks} blocks of {self.block_size_tokens} tokens, one of "
                f"them the null block, cannot hold one sequence of max_model_tokens = "
                f"{self.max_model_tokens}: raise blocks or lower max_model_tokens"
            )

    @property
    def usable_blocks(self) -> int:
        return self.blocks - 1

    @property
    def watermark_blocks(self) -> int:
        return int(self.watermark_fraction * self.usable_blocks)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens occupy."""
        return -(-tokens // self.block_size_tokens)


@dataclass(eq=False)
class Sequence:
    """One request in the engine: what it asks for and how far it is."""

    request_id: int
    prompt_tokens: int
    max_tokens: int
    output_tokens: int = 0  # generated so far; they survive a preemption
    computed_tokens: int = 0  # tokens whose keys and values are in the cache
    blocks: list[int] = field(default_factory=list)
    preemptions: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def finished(self) -> bool:
        return self.output_tokens >= self.max_tokens


class BlockPool:
    """The cache's blocks; block 0 is the null block and never handed out."""

    def __init__(self, blocks: int) -> None:
        self._free = deque(range(1, blocks))
        self._usable = blocks - 1

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the usable blocks that some sequence holds, 0 to 1."""
        return 1.0 - len(self._free) / self._usable

    def take(self, count: int) -> list[int]:
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        self._free.extend(reversed(blocks))


@dataclass(frozen=True)
class StepPlan:
    """What one step computes: tokens a sequence, in scheduling order."""

    scheduled: tuple[tuple[Sequence, int], ...]
    preempted: tuple[Sequence, ...]

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.scheduled)


class Scheduler:
    """Decides step by step; `schedule` then `complete`, with `add` and `abort` in between."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            DoesNotFitError: it would outgrow the model's context.
        """
        longest = self.config.max_model_tokens
        if sequence.prompt_tokens + sequence.max_tokens > longest:
            raise DoesNotFitError(
                f"the prompt ({sequence.prompt_tokens} tokens) and max_tokens "
                f"({sequence.max_tokens}) exceed max_model_tokens = {longest}"
            )
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def schedule(self) -> StepPlan:
        """The next step: running sequences first, then the waiting queue while there is room.

        Nobody is admitted in a step that had to preempt.
        """
        budget = self.config.max_batched_tokens
        scheduled: list[tuple[Sequence, int]] = []
        preempted: list[Sequence] = []
        # A victim is the last of `running`, so it is never one that this step already has.
        while len(scheduled) < len(self.running) and budget > 0:
            sequence = self.running[len(scheduled)]
            count = min(sequence.tokens - sequence.computed_tokens, budget)
            if not self._make_room(sequence, count, preempted):
                break
            scheduled.append((sequence, count))
            budget -= count
        while (
            self.waiting
            and not preempted
            and budget > 0
            and len(self.running) < self.config.max_sequences
        ):
            sequence = self.waiting[0]
            count = min(sequence.tokens, budget)
            if not self._grow(sequence, count, spare=self.config.watermark_blocks):
                break
            self.running.append(self.waiting.popleft())
            scheduled.append((sequence, count))
            budget -= count
        return StepPlan(tuple(scheduled), tuple(preempted))

    def complete(self, plan: StepPlan) -> list[Sequence]:
        """Book a computed step; the sequences that got a token from it, in scheduling order.

        A sequence gives a token once all its tokens are computed. Those that are finished have
        left the engine; those aborted meanwhile are left out.
        """
        got_token = []
        running = set(self.running)
        for sequence, count in plan.scheduled:
            if sequence not in running:
                continue
            sequence.computed_tokens += count
            if sequence.computed_tokens == sequence.tokens:
                sequence.output_tokens += 1
                got_token.append(sequence)
        for sequence in got_token:
            if sequence.finished:
                self.running.remove(sequence)
                self._release(sequence)
        return got_token

    def _make_room(self, sequence: Sequence, count: int, preempted: list[Sequence]) -> bool:
        """Grow a running sequence, preempting the newest ones; False if it had to go itself."""
        while not self._grow(sequence, count, spare=0):
            victim = self.running.pop()
            self._release(victim)
            victim.preemptions += 1
            self.preemptions += 1
            self.waiting.appendleft(victim)
            preempted.append(victim)
            if victim is sequence:
                return False
        return True

    def _grow(self, sequence: Sequence, count: int, *, spare: int) -> bool:
        """Give the sequence blocks for `count` more tokens, if `spare` others stay free."""
        needed = self.config.blocks_for(sequence.computed_tokens + count) - len(sequence.blocks)
        if needed > 0 and self.pool.free - spare < needed:
            return False
        if needed > 0:
            sequence.blocks += self.pool.take(needed)
        return True

    def _release(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks = []
        sequence.computed_tokens = 0
