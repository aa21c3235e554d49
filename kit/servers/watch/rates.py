"""Computes tokens per second from counters of two scrapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kit.servers.watch.names import RATE_OF, Sample


class CounterRates:
    """Remembers each counter's last value. A source that tells the rate itself is left its own."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], Sample] = {}

    def read(self, scrape: Iterable[Sample]) -> list[Sample]:
        """The rates since the scrape before; none of a counter that is new or began anew."""
        samples = list(scrape)
        told = {sample.name for sample in samples}
        rates = []
        for sample in samples:
            rate = RATE_OF.get(sample.name)
            if rate is None or rate in told:
                continue
            key = sample.source, sample.name, sample.labels
            before = self._last.get(key)
            self._last[key] = sample
            if before is None or sample.t_ns <= before.t_ns or sample.value < before.value:
                continue
            seconds = (sample.t_ns - before.t_ns) / 1e9
            value = (sample.value - before.value) / seconds
            rates.append(replace(sample, name=rate, value=value))
        return rates
