"""One word for traffic: what it means, its unit and range, and how a workload shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kit.study.arguments import as_member, as_number, number_words
from kit.study.distribution import Distribution, as_distribution
from kit.study.workload import AnswerCheck, ArrivalKind, Client, Protocol, StreamErrors, Workload

#: One value of a grid. Lengths are Distributions once they are in a study.
GridValue = int | float | str | Distribution
Point = dict[str, GridValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficField:
    """One word for traffic: what it means, what may be given, and how a workload shows it."""

    name: str
    help: str  # one line
    expected: str  # the values that it takes, in words
    unit: str = ""  # "" = none
    short: str  # in a trial's name
    choices: tuple[str, ...] = ()  # of a word; empty: a number, a text or a distribution
    is_whole: bool = False
    is_text: bool = False  # any text; else one with commas is several values
    is_distribution: bool = False  # of which a number is the simplest
    as_value: Callable[[object], GridValue]  # what a person gave, checked
    of: Callable[[Workload], GridValue | None]  # None: the workload has none

    @property
    def label(self) -> str:
        """The head of a column or the name of an axis: "rate [requests/s]"."""
        name = self.name.removesuffix(f"_{self.unit}").replace("_", " ")
        return name if self.unit in ("", "share", name.split()[-1]) else f"{name} [{self.unit}]"


def number_field(
    name: str,
    short: str,
    help: str,
    of: Callable[[Workload], float | None],
    *,
    unit: str = "",
    low: float = 0,
    high: float | None = None,
    above: bool = False,
    whole: bool = False,
) -> TrafficField:
    return TrafficField(
        name=name,
        help=help,
        expected=number_words(low, high, above, whole),
        unit=unit,
        short=short,
        is_whole=whole,
        as_value=lambda value: as_number(name, value, low=low, high=high, above=above, whole=whole),
        of=of,
    )


def word_field(
    name: str,
    short: str,
    help: str,
    kind: type[Protocol]
    | type[ArrivalKind]
    | type[AnswerCheck]
    | type[Client]
    | type[StreamErrors],
    of: Callable[[Workload], str],
) -> TrafficField:
    choices = tuple(member.value for member in kind)
    return TrafficField(
        name=name,
        help=help,
        expected=f"one of {', '.join(choices)}",
        short=short,
        choices=choices,
        as_value=lambda value: as_member(name, value, kind).value,
        of=of,
    )


def lengths_field(
    name: str,
    short: str,
    help: str,
    of: Callable[[Workload], Distribution | None],
    *,
    unit: str,
    low: float,
) -> TrafficField:
    return TrafficField(
        name=name,
        help=help,
        expected='a number, or a distribution such as "16:64" or "normal(32,8)"',
        unit=unit,
        short=short,
        is_distribution=True,
        as_value=lambda value: as_distribution(name, value, low=low),
        of=of,
    )
