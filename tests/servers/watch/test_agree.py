"""Agreement of two sources whose truth is known: the same curve, read at different moments."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kit.servers.watch.agree import agreement, by_chance
from kit.servers.watch.names import KV_USAGE


def sawtooth(t_s: float) -> float:
    """A cache that fills in steps of a block in a second, and empties."""
    return int(t_s % 1.0 * 10) / 10


def columns(
    one: Callable[[float], float], other: Callable[[float], float]
) -> dict[str, list[object]]:
    """Ten seconds of two sources: one read every 0.13 s, the other every 0.02 s."""
    rows = [(k * 0.13, "one", one(k * 0.13)) for k in range(77)]
    rows += [(k * 0.02, "other", other(k * 0.02)) for k in range(500)]
    return {
        "t_ns": [int(t * 1e9) for t, _, _ in rows],
        "source": [source for _, source, _ in rows],
        "name": [KV_USAGE] * len(rows),
        "value": [value for _, _, value in rows],
    }


def test_two_readings_of_one_curve_agree_and_shuffled_ones_hardly_do() -> None:
    samples = columns(sawtooth, sawtooth)

    assert agreement(samples, "one", "other", within_s=0.05) == 1.0
    chance = by_chance(samples, "one", "other", within_s=0.05)
    assert chance is not None
    assert chance < 0.4


@pytest.mark.parametrize(
    "wrong",
    [lambda _: 0.0, lambda _: 0.55, lambda t: sawtooth(-t), lambda t: sawtooth(t + 0.4)],
    ids=["zero", "a value between", "backwards", "late"],
)
def test_a_source_that_is_wrong_does_not_agree(wrong: Callable[[float], float]) -> None:
    share = agreement(columns(wrong, sawtooth), "one", "other", within_s=0.05)

    assert share is not None
    assert share < 0.4


def test_rounding_is_allowed_for() -> None:
    samples = columns(lambda t: sawtooth(t) + 0.0005, sawtooth)

    assert agreement(samples, "one", "other", within_s=0.05) == 1.0


def test_with_nothing_near_nothing_is_said() -> None:
    samples = {
        "t_ns": [0, 10**9],
        "source": ["one", "other"],
        "name": [KV_USAGE] * 2,
        "value": [0.5, 0.5],
    }

    assert agreement(samples, "one", "other", within_s=0.05) is None
    assert by_chance(samples, "one", "other", within_s=0.05) is None
    assert agreement(samples, "one", "other", within_s=1.0) == 1.0
