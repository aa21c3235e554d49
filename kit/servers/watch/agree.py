"""Measures how far two sources of one figure agree, and how far by chance.

Two sources are never asked at the same moment, and the engine goes on in between. So they agree
where a value of the one is among the values that the other had about that time.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from kit.servers.watch.names import KV_USAGE, Columns

#: vLLM's log rounds a percentage to one decimal.
ROUNDING: Final = 0.0006
#: How often values are dealt anew to see what chance does.
DEALS: Final = 20

#: (t_ns, value), by time
Series = Sequence[tuple[int, float]]


def agreement(
    samples: Columns, one: str, other: str, *, within_s: float, name: str = KV_USAGE
) -> float | None:
    """Share of the samples of `one` that agree with `other`, 0-1; None: nothing to compare.

    samples: columns t_ns, source, name, value. A sample agrees if `other` had that very value at
    most `within_s` before or after it: values between two of its own do not count, else any
    would do beside a cache that fills and empties. A sample with nothing of `other` so near
    says nothing.
    """
    near = _near(*_two(samples, one, other, name), within_s)
    return _share([value for value, _ in near], [others for _, others in near])


def by_chance(
    samples: Columns, one: str, other: str, *, within_s: float, name: str = KV_USAGE
) -> float | None:
    """The same share if the values of `one` stood at its times in any order.

    An agreement that is not well above this shows that both have the same values and not that
    they have them at the same time.
    """
    near = _near(*_two(samples, one, other, name), within_s)
    values, others = [value for value, _ in near], [o for _, o in near]
    deal = random.Random(0)  # noqa: S311  the same deals in every run
    shares = [_share(deal.sample(values, len(values)), others) for _ in range(DEALS)]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _two(samples: Columns, one: str, other: str, name: str) -> tuple[Series, Series]:
    series: dict[str, list[tuple[int, float]]] = {one: [], other: []}
    columns = (samples[column] for column in ("t_ns", "source", "name", "value"))
    for t_ns, source, row_name, value in zip(*columns, strict=True):
        if str(row_name) == name and str(source) in series:
            series[str(source)].append((int(str(t_ns)), float(str(value))))
    return series[one], sorted(series[other])


def _near(one: Series, other: Series, within_s: float) -> list[tuple[float, list[float]]]:
    """Each value of `one` that has values of `other` near it, with those."""
    times = [t_ns for t_ns, _ in other]
    pairs = []
    for t_ns, value in one:
        begin = bisect_left(times, t_ns - within_s * 1e9)
        end = bisect_right(times, t_ns + within_s * 1e9)
        if begin < end:
            pairs.append((value, [v for _, v in other[begin:end]]))
    return pairs


def _share(values: Sequence[float], others: Sequence[Sequence[float]]) -> float | None:
    agree = [
        any(abs(value - other) <= ROUNDING for other in near)
        for value, near in zip(values, others, strict=True)
    ]
    return sum(agree) / len(agree) if agree else None
