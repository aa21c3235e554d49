"""Random lengths and times of the traffic: plain frozen data, and the short text for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from kit.errors import SpecError
from kit.study.arguments import as_member, as_number


class DistributionKind(StrEnum):
    FIXED = "fixed"  # always `mean`
    UNIFORM = "uniform"  # low..high, both included
    NORMAL = "normal"  # mean, stdev; clipped to low..high
    LOGNORMAL = "lognormal"  # mean and stdev of the values themselves; clipped to low..high
    GEOMETRIC = "geometric"  # mean; clipped to low..high


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A random length or time; which numbers it needs depends on `kind`."""

    kind: DistributionKind = DistributionKind.FIXED
    mean: float = 0.0
    stdev: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind is DistributionKind.UNIFORM and (self.low is None or self.high is None):
            raise SpecError(
                f"a uniform distribution with low={self.low}, high={self.high}",
                "both bounds",
                "give low and high",
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise SpecError(
                f"a distribution from {self.low} to {self.high}",
                "low <= high",
                "swap the bounds",
            )

    def __str__(self) -> str:
        """As `as_distribution` reads it: "32", "uniform(16,64)"."""
        if self.kind is DistributionKind.FIXED:
            return f"{self.mean:g}"
        if self.kind is DistributionKind.UNIFORM:
            return f"uniform({self.low:g},{self.high:g})"
        numbers = [f"{self.mean:g}"]
        if self.kind is not DistributionKind.GEOMETRIC:
            numbers.append(f"{self.stdev:g}")
        bounds = [f"{n}={v:g}" for n in ("low", "high") if (v := getattr(self, n)) is not None]
        return f"{self.kind}({','.join(numbers + bounds)})"


def fixed(value: float) -> Distribution:
    """The distribution that always gives `value`."""
    return Distribution(kind=DistributionKind.FIXED, mean=value)


def uniform(low: float, high: float) -> Distribution:
    """Every value from `low` to `high` equally often, both included."""
    return Distribution(kind=DistributionKind.UNIFORM, low=low, high=high)


#: How many plain numbers the text of a distribution has, by its kind.
_NUMBERS = {
    DistributionKind.FIXED: ("mean",),
    DistributionKind.UNIFORM: ("low", "high"),
    DistributionKind.NORMAL: ("mean", "stdev"),
    DistributionKind.LOGNORMAL: ("mean", "stdev"),
    DistributionKind.GEOMETRIC: ("mean",),
}
_CALL = re.compile(r"(?P<kind>[a-z]+)\((?P<numbers>[^()]*)\)")
_RANGE = re.compile(r"(?P<low>[\d.]+):(?P<high>[\d.]+)")


def as_distribution(argument: str, value: object, *, low: float = 0.0) -> Distribution:
    """A distribution, a number (always that), or text: "32", "16:64", "uniform(16,64)",
    "normal(32,8)", "lognormal(64,32,high=512)", "geometric(32)".

    Raises:
        SpecError: it is none of these, or goes below `low`.
    """
    found = value
    if isinstance(value, str):
        text = value.replace(" ", "")
        if span := _RANGE.fullmatch(text):
            found = _distribution(argument, value, "uniform", [span["low"], span["high"]])
        elif call := _CALL.fullmatch(text):
            found = _distribution(argument, value, call["kind"], call["numbers"].split(","))
    if not isinstance(found, Distribution):
        return fixed(as_number(argument, found, low=low))
    least = found.mean if found.kind is DistributionKind.FIXED else found.low
    if least is not None and least < low:
        raise SpecError(f"{argument} = {found}", f"{low:g} or more", "raise its lower bound")
    return found


def _distribution(argument: str, text: str, kind: str, words: list[str]) -> Distribution:
    member = as_member(argument, kind, DistributionKind)
    names = list(_NUMBERS[member])
    given: dict[str, float] = {}
    for word in words:
        name, is_named, number = word.rpartition("=")
        if not is_named:
            name = names.pop(0) if names else ""
        if name not in ("mean", "stdev", "low", "high") or name in given:
            names = ["too many"]
            break
        given[name] = as_number(argument, number, low=0.0)
    if names:
        raise SpecError(
            f"{argument} = {text!r}",
            f"{member}({', '.join(_NUMBERS[member])}), with low= and high= if you like",
            "give these numbers",
        )
    return Distribution(kind=member, **given)
