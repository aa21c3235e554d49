"""The simulated engine's scheduler: what vLLM V1 decides, with nobody waiting for it."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.study.paths import MODELS

sys.path.insert(0, str(MODELS / "simulated" / "1"))
from kv_scheduler import (
    BlockPool,
    CacheConfig,
    DoesNotFitError,
    Scheduler,
    Sequence,
    StepPlan,
)


def config(**changes: float) -> CacheConfig:
    small = {
        "blocks": 33,
        "block_size_tokens": 4,
        "max_sequences": 8,
        "max_model_tokens": 64,
        "max_batched_tokens": 64,
    }
    return CacheConfig(**{**small, **changes})  # type: ignore[arg-type]


def run(scheduler: Scheduler, steps: int = 10_000) -> list[list[tuple[int, int]]]:
    """Step until nothing is left; the (request, token index) that each step gave."""
    given_out = []
    while scheduler.has_work:
        assert len(given_out) < steps, "the scheduler does not come to an end"
        got = scheduler.complete(scheduler.schedule())
        given_out.append([(s.request_id, s.output_tokens - 1) for s in got])
    return given_out


def test_a_prompt_is_computed_in_one_step_that_gives_the_first_token() -> None:
    scheduler = Scheduler(config())
    scheduler.add(Sequence(0, prompt_tokens=10, max_tokens=3))
    plan = scheduler.schedule()
    assert [count for _, count in plan.scheduled] == [10]
    assert [s.output_tokens for s in scheduler.complete(plan)] == [1]
    plan = scheduler.schedule()
    assert [count for _, count in plan.scheduled] == [1]


def test_blocks_grow_with_the_sequence_and_the_last_token_needs_none() -> None:
    scheduler = Scheduler(config())
    sequence = Sequence(0, prompt_tokens=4, max_tokens=5)
    scheduler.add(sequence)
    held = []
    while scheduler.has_work:
        plan = scheduler.schedule()
        held.append(len(sequence.blocks))
        scheduler.complete(plan)
    # Computed after each step: 4, 5, 6, 7, 8 of the 9 tokens, in blocks of 4.
    assert held == [1, 2, 2, 2, 2]


def test_usage_is_a_share_of_the_blocks_without_the_null_block() -> None:
    # Real vLLM with 32 blocks of 32 and 64-token answers showed 9.7, 38.7 and 77.4 %: 3 blocks
    # a sequence, of 31.
    for running, expected in ((1, 3 / 31), (4, 12 / 31), (8, 24 / 31)):
        cache = config(
            blocks=32, block_size_tokens=32, max_model_tokens=512, max_batched_tokens=512
        )
        scheduler = Scheduler(cache)
        for number in range(running):
            scheduler.add(Sequence(number, prompt_tokens=16, max_tokens=64))
        peak = 0.0
        while scheduler.has_work:
            plan = scheduler.schedule()
            peak = max(peak, scheduler.pool.usage)
            scheduler.complete(plan)
        assert peak == pytest.approx(expected)


def test_no_more_sequences_run_than_allowed() -> None:
    scheduler = Scheduler(config(max_sequences=2))
    for number in range(5):
        scheduler.add(Sequence(number, prompt_tokens=2, max_tokens=2))
    scheduler.schedule()
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 3)


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    scheduler = Scheduler(config(max_batched_tokens=16))
    scheduler.add(Sequence(0, prompt_tokens=40, max_tokens=1))
    counts = []
    while scheduler.has_work:
        plan = scheduler.schedule()
        counts.append(plan.tokens)
        scheduler.complete(plan)
    assert counts == [16, 16, 8]


def test_when_blocks_run_out_the_newest_sequence_goes_back_to_the_head_of_the_queue() -> None:
    scheduler = Scheduler(config(blocks=17, max_sequences=3))  # 16 usable blocks of 4 tokens
    old, new, third = (Sequence(n, prompt_tokens=31, max_tokens=8) for n in range(3))
    for sequence in (old, new, third):
        scheduler.add(sequence)
    scheduler.complete(scheduler.schedule())
    assert (scheduler.running, list(scheduler.waiting)) == ([old, new], [third])
    plan = StepPlan((), ())
    while not plan.preempted:
        plan = scheduler.schedule()
        scheduler.complete(plan)
    assert plan.preempted == (new,)
    assert [s for s, _ in plan.scheduled] == [old]  # nobody is admitted in that step
    assert list(scheduler.waiting) == [new, third]
    assert (new.blocks, new.computed_tokens, new.preemptions) == ([], 0, 1)
    assert scheduler.preemptions == 1
    kept = new.output_tokens
    assert kept > 0
    while new not in scheduler.running:
        plan = scheduler.schedule()
        scheduler.complete(plan)
    # All is computed again, what it had generated as well, and it goes on from there.
    assert dict(plan.scheduled)[new] == new.prompt_tokens + kept
    assert new.output_tokens == kept + 1


def test_the_watermark_keeps_blocks_free_when_a_sequence_is_admitted() -> None:
    def admitted(fraction: float) -> int:
        cache = config(blocks=41, max_batched_tokens=640, watermark_fraction=fraction)
        scheduler = Scheduler(cache)
        for number in range(8):
            scheduler.add(Sequence(number, prompt_tokens=20, max_tokens=1))  # 5 blocks each
        scheduler.schedule()
        return len(scheduler.running)

    assert admitted(0.0) == 8
    assert admitted(0.2) == 6  # 30 of 40 blocks; a seventh would leave 5, not 8


def test_aborting_frees_the_blocks_wherever_the_sequence_is() -> None:
    scheduler = Scheduler(config(max_sequences=1))
    running, waiting = Sequence(0, 10, 5), Sequence(1, 10, 5)
    scheduler.add(running)
    scheduler.add(waiting)
    plan = scheduler.schedule()
    scheduler.abort(running)
    assert scheduler.complete(plan) == []  # its step is computed, but nobody wants the token
    scheduler.abort(waiting)
    scheduler.abort(running)  # once more: it is just not there
    assert not scheduler.has_work
    assert scheduler.pool.usage == 0.0


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    scheduler = Scheduler(config())
    scheduler.add(Sequence(0, prompt_tokens=60, max_tokens=4))
    with pytest.raises(DoesNotFitError, match="max_model_tokens = 64"):
        scheduler.add(Sequence(1, prompt_tokens=60, max_tokens=5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blocks": 16}, "cannot hold one sequence"),
        ({"blocks": 17, "watermark_fraction": 0.5}, "cannot hold one sequence"),
        ({"block_size_tokens": 0}, "block_size_tokens"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"max_batched_tokens": 0}, "max_batched_tokens"),
        ({"watermark_fraction": 1.0}, "watermark_fraction"),
    ],
)
def test_an_engine_that_could_not_serve_is_refused(changes: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(**changes)


def test_the_pool_never_gives_the_null_block() -> None:
    pool = BlockPool(5)
    blocks = pool.take(4)
    assert sorted(blocks) == [1, 2, 3, 4]
    assert (pool.free, pool.usage) == (0, 1.0)
    pool.give_back(blocks)
    assert pool.usage == 0.0


lengths = st.tuples(st.integers(1, 40), st.integers(1, 24))


@st.composite
def engines(draw: st.DrawFn) -> CacheConfig:
    return config(
        blocks=draw(st.integers(20, 60)),
        max_sequences=draw(st.integers(1, 8)),
        max_batched_tokens=draw(st.sampled_from([8, 32, 64, 256])),
        watermark_fraction=draw(st.sampled_from([0.0, 0.05])),
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    cache=engines(),
    arrivals=st.lists(st.tuples(st.integers(0, 30), lengths), min_size=1, max_size=24),
    aborts=st.dictionaries(st.integers(0, 23), st.integers(0, 60), max_size=4),
)
def test_whatever_comes_blocks_are_never_shared_lost_or_invented(
    cache: CacheConfig, arrivals: list[tuple[int, tuple[int, int]]], aborts: dict[int, int]
) -> None:
    scheduler = Scheduler(cache)
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    sequences = [Sequence(n, *shape) for n, (_, shape) in enumerate(arrivals)]
    tokens: dict[int, list[int]] = {s.request_id: [] for s in sequences}
    first_admitted: list[int] = []
    step, arrived = 0, 0
    while arrived < len(sequences) or scheduler.has_work:
        while arrived < len(sequences) and arrivals[arrived][0] <= step:
            scheduler.add(sequences[arrived])
            arrived += 1
        for number, at in aborts.items():
            if at == step and number < arrived:
                scheduler.abort(sequences[number])
        plan = scheduler.schedule()
        for sequence in scheduler.running:
            if sequence.request_id not in first_admitted:
                first_admitted.append(sequence.request_id)
        _check_step(scheduler, plan)
        for sequence in scheduler.complete(plan):
            tokens[sequence.request_id].append(sequence.output_tokens - 1)
        step += 1
        assert step < 20_000, "the scheduler does not come to an end"
    assert scheduler.pool.usage == 0.0
    assert all(not sequence.blocks for sequence in sequences)
    assert first_admitted == sorted(first_admitted)  # first come, first served
    for sequence in sequences:
        got = tokens[sequence.request_id]
        assert got == list(range(len(got)))  # preempted or not: in order, none twice
        if sequence.request_id not in aborts:
            assert len(got) == sequence.max_tokens


def _check_step(scheduler: Scheduler, plan: StepPlan) -> None:
    cache, pool = scheduler.config, scheduler.pool
    held = [block for sequence in scheduler.running for block in sequence.blocks]
    assert len(held) == len(set(held))
    assert 0 not in held
    assert len(held) + pool.free == cache.usable_blocks
    assert 0.0 <= pool.usage <= 1.0
    assert len(scheduler.running) <= cache.max_sequences
    assert plan.tokens <= cache.max_batched_tokens
    assert plan.scheduled or not scheduler.running
    for sequence, count in plan.scheduled:
        assert count >= 1
        room = len(sequence.blocks) * cache.block_size_tokens
        assert sequence.computed_tokens + count <= room
    assert all(not sequence.blocks for sequence in scheduler.waiting)
