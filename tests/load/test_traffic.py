"""Traffic: what is sent is decided by the workload and the request's number alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_helpers import workload

from kit.errors import SpecError
from kit.load.traffic import quantiles
from kit.load.traffic.draws import BLOCK, Purpose, quantile, uniform_array, uniforms, whole_quantile
from kit.load.traffic.prompts import Corpus, load_corpus
from kit.load.traffic.quantiles import inverse_normal, whole_quantiles
from kit.load.traffic.traffic import Traffic, continuation
from kit.study.spec import Distribution, DistributionKind, Fault, FaultKind, fixed

LENGTHS = Distribution(kind=DistributionKind.LOGNORMAL, mean=40, stdev=20, low=2, high=200)


def plans(seed: int, numbers: list[int]) -> list[tuple[object, ...]]:
    faults = (Fault(kind=FaultKind.DISCONNECT, fraction=0.3, after=fixed(3)),)
    traffic = Traffic(workload(seed=seed, prompt_tokens=LENGTHS, faults=faults, turns=2))
    return [traffic.call(number).plan for number in numbers]


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.permutations(range(40)), st.integers(0, 2**64))
def test_a_request_does_not_depend_on_the_order_in_which_requests_are_made(
    order: list[int], seed: int
) -> None:
    assert plans(seed, order) == [plans(seed, [number])[0] for number in order[:5]] + plans(
        seed, order[5:]
    )


def test_another_seed_is_other_traffic() -> None:
    assert not set(plans(1, list(range(50)))) & set(plans(2, list(range(50))))


def test_the_traffic_of_a_seed_stays_the_same_from_version_to_version() -> None:
    calls = [Traffic(workload(seed=7)).call(number) for number in (0, 1, 1_000_000)]
    digest = crc32(b"\n".join(call.prompt for call in calls))
    assert digest == GOLDEN, "recorded studies could no longer be replayed"


GOLDEN = 1892281732


@pytest.mark.parametrize(
    ("prompt_tokens", "output_tokens", "golden"),
    [
        (LENGTHS, Distribution(kind=DistributionKind.GEOMETRIC, mean=30), 3779769380),
        (
            Distribution(kind=DistributionKind.NORMAL, mean=50, stdev=15, low=1),
            Distribution(kind=DistributionKind.UNIFORM, low=2, high=60),
            2826277780,
        ),
    ],
)
def test_lengths_and_faults_of_a_seed_stay_the_same_too(
    prompt_tokens: Distribution, output_tokens: Distribution, golden: int
) -> None:
    after = Distribution(kind=DistributionKind.UNIFORM, low=1, high=9)
    deadline = Distribution(kind=DistributionKind.LOGNORMAL, mean=0.02, stdev=0.01)
    faults = (
        Fault(kind=FaultKind.DISCONNECT, fraction=0.2, after=after),
        Fault(kind=FaultKind.DEADLINE, fraction=0.1, deadline_s=deadline),
        Fault(kind=FaultKind.SLOW_READER, fraction=0.05),
    )
    load = workload(
        seed=11, prompt_tokens=prompt_tokens, output_tokens=output_tokens, faults=faults
    )
    traffic = Traffic(load)
    plans = [traffic.call(number).plan for number in range(3000)]
    assert crc32(repr(plans).encode()) == golden


LOW = st.integers(-5, 20) | st.sampled_from([2.5, 10.5])
HIGH = st.integers(20, 500) | st.just(30.5)
DISTRIBUTIONS = st.builds(
    Distribution,
    kind=st.sampled_from(
        [kind for kind in DistributionKind if kind is not DistributionKind.UNIFORM]
    ),
    mean=st.integers(-2, 300) | st.floats(0.1, 300.0),
    stdev=st.just(0.0) | st.floats(0.0, 300.0),
    low=st.none() | LOW,
    high=st.none() | HIGH,
) | st.builds(Distribution, kind=st.just(DistributionKind.UNIFORM), low=LOW, high=HIGH)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(DISTRIBUTIONS, st.integers(0, 2**64), st.integers(0, 1))
def test_a_block_of_lengths_is_what_each_length_is_alone(
    distribution: Distribution, seed: int, least: int
) -> None:
    draws = uniform_array(seed, Purpose.OUTPUT_TOKENS, 0)
    draws[:4] = 2.0**-53, 1e-13, 1 - 2.0**-53, 0.5
    alone = [whole_quantile(distribution, u, least) for u in draws.tolist()]
    assert whole_quantiles(distribution, draws, least) == alone


def test_a_length_next_to_where_it_changes_is_what_it_is_alone_whatever_the_last_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantiles, "inverse_normal", lambda u: inverse_normal(u) * (1 + 1e-13))
    distribution = Distribution(kind=DistributionKind.LOGNORMAL, mean=40, stdev=20)
    low, high = 0.5, 0.9
    for _ in range(60):  # where it goes from one length to the next, to the last bit
        middle = (low + high) / 2
        if whole_quantile(distribution, middle, 1) == whole_quantile(distribution, 0.5, 1):
            low = middle
        else:
            high = middle
    around = [low * (1 + step * 2.0**-52) for step in range(-20, 21)]
    alone = [whole_quantile(distribution, u, 1) for u in around]
    assert len(set(alone)) == 2
    assert whole_quantiles(distribution, np.array(around), 1) == alone


def test_the_inverse_normal_is_that_of_python() -> None:
    shares = np.concatenate([uniform_array(1, Purpose.GAP, 0), [1e-300, 1e-12, 1 - 1e-12]])
    expected = [statistics.NormalDist().inv_cdf(share) for share in shares.tolist()]
    assert inverse_normal(shares) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_prompt_begins_with_a_nonce_that_no_other_request_of_the_trial_has() -> None:
    traffic = Traffic(workload(seed=3))
    digits = {traffic.call(number).digits for number in range(5000)}
    assert len(digits) == 5000
    call = traffic.call(17)
    assert call.prompt.startswith(b"[n:%b] " % call.digits)
    assert len(call.prompt.split()) == call.prompt_tokens == 6


def test_words_that_json_must_escape_come_out_escaped_and_plain() -> None:
    corpus = Corpus(['say "hi" \\ now', "tab\u0001 ünïcode \U0001f600"])
    prompt, text = corpus.run(1, 6)
    assert (
        json.loads(b'"%b"' % prompt).encode()
        == text
        == '"hi" \\ now tab\x01 ünïcode \U0001f600'.encode()
    )


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 300))
def test_a_run_of_words_goes_round_at_the_end(start: int, length: int) -> None:
    words = [str(index) for index in range(41)]
    prompt, _ = Corpus([" ".join(words)]).run(start, length)
    assert prompt.decode().split() == [words[(start + i) % 41] for i in range(length)]


def test_a_later_turn_quotes_the_answers_before_it() -> None:
    traffic = Traffic(workload(turns=3))
    first, second, third = (traffic.call(number) for number in range(3))
    assert second.prompt.startswith(first.prompt + continuation(first.digits, 5) + b" ")
    assert third.prompt.startswith(second.prompt + continuation(second.digits, 5) + b" ")
    assert [call.conversation for call in (first, second, third, traffic.call(3))] == [0, 0, 0, 1]
    assert third.dialogue[0] == first.prompt
    assert len(third.dialogue) == 5
    assert third.prompt_tokens == len(third.text.split())


def test_an_answer_that_only_the_server_knew_is_quoted_as_it_came() -> None:
    traffic = Traffic(workload(turns=2))
    second = traffic.call(1, b' a \\"real\\" answer', traffic.call(0))
    assert b' a "real" answer ' in second.text
    assert b' a \\"real\\" answer ' in second.prompt


def test_a_shared_prefix_stands_before_the_nonce_and_the_engine_answers_by_crc() -> None:
    traffic = Traffic(workload(shared_prefix_tokens=10))
    one, other = traffic.call(0), traffic.call(1)
    prefix = b" ".join(one.text.split()[:10])
    assert other.text.startswith(prefix + b" [n:")
    assert one.digits == b"%08x" % crc32(one.text)
    assert one.prompt_tokens == 16


def test_lengths_follow_their_distribution() -> None:
    traffic = Traffic(workload(prompt_tokens=LENGTHS, output_tokens=LENGTHS))
    lengths = [traffic.call(number).output_tokens for number in range(4 * BLOCK)]
    assert statistics.fmean(lengths) == pytest.approx(40, rel=0.05)
    assert statistics.stdev(lengths) == pytest.approx(20, rel=0.1)
    assert 2 <= min(lengths) <= max(lengths) <= 200


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        (fixed(5), 5.0),
        (Distribution(kind=DistributionKind.UNIFORM, low=2, high=6), 4.0),
        (Distribution(kind=DistributionKind.NORMAL, mean=50, stdev=5), 50.0),
        (Distribution(kind=DistributionKind.GEOMETRIC, mean=8), 8.0),
    ],
)
def test_every_kind_of_distribution_has_its_mean(distribution: Distribution, mean: float) -> None:
    draws = uniforms(1, Purpose.GAP, 0) + uniforms(1, Purpose.GAP, 1)
    values = [quantile(distribution, u) for u in draws]
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.06)


def test_faults_fall_on_their_share_of_the_requests() -> None:
    faults = (
        Fault(kind=FaultKind.DISCONNECT, fraction=0.2, after=fixed(3)),
        Fault(kind=FaultKind.DEADLINE, fraction=0.1, deadline_s=fixed(0.02)),
    )
    traffic = Traffic(workload(faults=faults))
    kinds = [plan.kind for n in range(4000) if (plan := traffic.call(n).fault) is not None]
    assert kinds.count(FaultKind.DISCONNECT) == pytest.approx(800, rel=0.15)
    assert kinds.count(FaultKind.DEADLINE) == pytest.approx(400, rel=0.2)


def test_faults_on_more_than_all_requests_are_refused() -> None:
    with pytest.raises(SpecError, match="at most all"):
        Traffic(workload(faults=(Fault(kind=FaultKind.CANCEL), Fault(kind=FaultKind.DISCONNECT))))


def test_an_unknown_prompt_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="plain"):
        load_corpus("nowhere")


def test_a_prompt_set_without_a_prompt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n \n")
    with pytest.raises(SpecError, match="without a prompt"):
        load_corpus(str(path))
