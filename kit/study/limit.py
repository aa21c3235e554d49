"""What a search for a server's limit looks for: goals, and the loads that it may try."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from kit.errors import SpecError


class LoadKind(StrEnum):
    """What is raised until a goal breaks."""

    CONCURRENCY = "concurrency"  # closed loop: clients
    RATE = "rate"  # open loop: requests a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What has to hold, beside that the server lives. None: nothing is asked of it.

    A goal for a p95 holds if at most 5 % of what it is about are worse. A request that failed, or
    was open when the server died, is worse than any latency.
    """

    p95_ttft_ms: float | None = None  # time to first token, or to the first byte of one answer
    p95_itl_ms: float | None = None  # every gap between two tokens
    p95_e2e_ms: float | None = None  # whole answer; open loop: from when it was due
    failed: float | None = 0.01  # share of the requests
    kv: float | None = None  # p95 over time of the share of the KV cache in use

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            is_share = one.name in ("failed", "kv")
            if value is not None and not (value > 0 and (not is_share or value < 1)):
                raise SpecError(
                    f"{one.name} = {value}",
                    "a share between 0 and 1" if is_share else "milliseconds above 0",
                    f"give {one.name} such a number, or leave it out",
                )
        if all(getattr(self, one.name) is None for one in fields(self)):
            raise SpecError(
                "a limit without a goal",
                f"one or more of {', '.join(one.name for one in fields(self))}",
                "say what has to hold, such as p95_ttft_ms=500",
            )

    @property
    def words(self) -> str:
        """The goals in a phrase: "p95 TTFT ≤ 500 ms, failed ≤ 1 %"."""
        said = [
            phrase.format(value)
            for phrase, value in (
                ("p95 TTFT ≤ {:g} ms", self.p95_ttft_ms),
                ("p95 ITL ≤ {:g} ms", self.p95_itl_ms),
                ("p95 latency ≤ {:g} ms", self.p95_e2e_ms),
                ("failed ≤ {:g} %", None if self.failed is None else 100 * self.failed),
                ("p95 KV usage ≤ {:g} %", None if self.kv is None else 100 * self.kv),
            )
            if value is not None
        ]
        return ", ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSearch:
    """Of a study: raise the load until a goal breaks, and find where."""

    by: LoadKind = LoadKind.CONCURRENCY
    goals: Goals
    low: float = 1.0
    high: float = 1024.0
    within: float = 0.05  # of the limit, with CONFIDENCE
    most_trials: int = 12
    requests: int = 400  # judged, of a trial; a closed loop's trial has six rounds at least

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise SpecError(
                f"loads from {self.low:g} to {self.high:g}",
                "two numbers above 0, the smaller first",
                "correct low and high",
            )
        if not 0 < self.within < 1 or self.most_trials < 2 or self.requests < 20:
            raise SpecError(
                f"within = {self.within:g}, most_trials = {self.most_trials}, "
                f"requests = {self.requests}",
                "within between 0 and 1, 2 trials or more, 20 requests or more",
                "leave out what you have no reason to change",
            )
