"""Two sources of one figure in, how far they agree out.

Two sources are never asked at the same moment, and the engine goes on in between. So they agree
where a value of the one lies within the values that the other had about that time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from kit.watch.names import KV_USAGE, Columns

#: vLLM's log rounds a percentage to one decimal.
ROUNDING: Final = 0.0006


def agreement(
    samples: Columns, one: str, other: str, *, within_s: float, name: str = KV_USAGE
) -> float | None:
    """Share of the samples of `one` that agree with `other`, 0-1; None: nothing to compare.

    samples: columns t_ns, source, name, value. A sample agrees if `other`, at most `within_s`
    before or after it, was not always lower and not always higher. A sample with nothing of
    `other` so near says nothing.
    """
    series: dict[str, list[tuple[int, float]]] = {one: [], other: []}
    columns = (samples[column] for column in ("t_ns", "source", "name", "value"))
    for t_ns, source, row_name, value in zip(*columns, strict=True):
        if str(row_name) == name and str(source) in series:
            series[str(source)].append((int(str(t_ns)), float(str(value))))
    reference = sorted(series[other])
    times = [t_ns for t_ns, _ in reference]
    verdicts = []
    for t_ns, value in series[one]:
        begin = bisect_left(times, t_ns - within_s * 1e9)
        end = bisect_right(times, t_ns + within_s * 1e9)
        near = [v for _, v in reference[begin:end]]
        if near:
            verdicts.append(min(near) - ROUNDING <= value <= max(near) + ROUNDING)
    return sum(verdicts) / len(verdicts) if verdicts else None
