"""What a soak is to show: how seldom the server crashes, and what else must not go wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kit.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakClaim:
    """ "Less than one crash in `one_in` requests", and a share of requests that may fail."""

    one_in: int = 1000
    confidence: float = 0.95
    failed: float = 0.01

    def __post_init__(self) -> None:
        if self.one_in < 2 or not 0 < self.confidence < 1 or not 0 <= self.failed < 1:
            raise SpecError(
                f"one_in = {self.one_in}, confidence = {self.confidence}, failed = {self.failed}",
                "one_in 2 or more, confidence between 0 and 1, failed from 0 to below 1",
                "correct them: one_in=1000 with confidence=0.95 is usual",
            )

    @property
    def requests(self) -> int:
        """How many requests without a crash it takes: exact, ln(1 - confidence) / ln(1 - 1/N).

        For large N it is the "rule of three", 3 N (Hanley and Lippman-Hand 1983).

        >>> SoakClaim(one_in=1000).requests
        2995
        """
        return math.ceil(math.log(1 - self.confidence) / math.log1p(-1 / self.one_in) - 1e-9)

    def supported(self, requests: int) -> int:
        """The largest N of "less than one crash in N" that so many requests without one allow.

        0: none, too few.

        >>> SoakClaim().supported(2995), SoakClaim().supported(2994), SoakClaim().supported(1)
        (1000, 999, 0)
        """
        if requests < 1:
            return 0
        share = 1 - (1 - self.confidence) ** (1 / requests)
        found = math.floor(1 / share + 1e-9)
        return found if found >= 2 else 0

    @property
    def words(self) -> str:
        return f"less than one crash in {self.one_in:,} requests at {100 * self.confidence:g} %"
