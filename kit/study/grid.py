"""The words for traffic that a study can vary: one table for Python, command line, panel and plots.

`FIELDS` says of each word what it means, its unit and its range. A study's grid maps such words
to values; `with_traffic` makes the workload of one point of it, `value_of` reads a word back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final
from zlib import crc32

from kit.errors import SpecError
from kit.study.arguments import as_member, as_number, check_names, number_words
from kit.study.distribution import Distribution, DistributionKind, as_distribution
from kit.study.workload import (
    AnswerCheck,
    ArrivalKind,
    FaultKind,
    Protocol,
    Workload,
)

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


def _number(
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


def _word(
    name: str,
    short: str,
    help: str,
    kind: type[Protocol] | type[ArrivalKind] | type[AnswerCheck],
    of: Callable[[Workload], str],
    without: tuple[str, ...] = (),
) -> TrafficField:
    choices = tuple(member.value for member in kind if member.value not in without)
    return TrafficField(
        name=name,
        help=help,
        expected=f"one of {', '.join(choices)}",
        short=short,
        choices=choices,
        as_value=lambda value: as_member(name, value, kind).value,
        of=of,
    )


def _lengths(
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


def _deadline(workload: Workload) -> Distribution | None:
    faults = [f for f in workload.faults if f.kind is FaultKind.DEADLINE]
    return faults[0].deadline_s if faults else None


def _text(value: object) -> str:
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise SpecError(
            f"prompt_set = {value!r}",
            "the name of a file in data/prompts, or a file's path",
            "give it as text",
        )
    return str(value)


#: In this order a trial's name tells them, and the first one varies slowest.
FIELDS: Final[dict[str, TrafficField]] = {
    row.name: row
    for row in (
        _number(
            "concurrency",
            "c",
            "clients that each send when their last request ended; with rate: most in flight",
            lambda w: w.concurrency,
            unit="clients",
            low=1,
            whole=True,
        ),
        _number(
            "rate",
            "rate",
            "requests a second, whatever comes back (open loop)",
            lambda w: w.rate,
            unit="requests/s",
            above=True,
        ),
        _word(
            "arrivals",
            "arr",
            "when requests are sent: by clients (closed) or at a rate",
            ArrivalKind,
            lambda w: w.arrivals.kind.value,
            without=(ArrivalKind.TRACE.value,),
        ),
        _number(
            "burstiness_cv",
            "cv",
            "coefficient of variation of the gaps between gamma arrivals",
            lambda w: w.arrivals.burstiness_cv if w.arrivals.kind is ArrivalKind.GAMMA else None,
            above=True,
        ),
        _word("protocol", "proto", "how requests travel", Protocol, lambda w: w.protocol.value),
        _lengths(
            "prompt_tokens",
            "in",
            "length of the prompts",
            lambda w: w.prompt_tokens,
            unit="tokens",
            low=1,
        ),
        _lengths(
            "output_tokens",
            "out",
            "length of the answers that are asked for",
            lambda w: w.output_tokens,
            unit="tokens",
            low=1,
        ),
        _number(
            "shared_prefix_tokens",
            "prefix",
            "length of the beginning that all prompts share",
            lambda w: w.shared_prefix_tokens,
            unit="tokens",
            whole=True,
        ),
        _number(
            "turns",
            "turns",
            "turns of a conversation, each with the earlier ones in its prompt",
            lambda w: w.turns,
            unit="turns",
            low=1,
            whole=True,
        ),
        TrafficField(
            name="prompt_set",
            help="where prompts come from",
            expected="the name of a file in data/prompts, or a file's path",
            short="set",
            is_text=True,
            as_value=_text,
            of=lambda w: w.prompt_set,
        ),
        _number(
            "disconnect",
            "disc",
            "share of the requests whose client closes the connection in mid-answer",
            lambda w: w.share(FaultKind.DISCONNECT),
            unit="share",
            high=1,
        ),
        _number(
            "cancel",
            "canc",
            "share of the requests that their client cancels in mid-answer",
            lambda w: w.share(FaultKind.CANCEL),
            unit="share",
            high=1,
        ),
        _lengths(
            "deadline_s",
            "deadline",
            "client deadline after which a request is given up",
            _deadline,
            unit="s",
            low=0,
        ),
        _number(
            "requests",
            "n",
            "requests of a trial, at most",
            lambda w: w.requests,
            unit="requests",
            low=1,
            whole=True,
        ),
        _number(
            "duration_s",
            "for",
            "a trial sends for so long, at most",
            lambda w: w.duration_s,
            unit="s",
            above=True,
        ),
        _number(
            "warmup_requests",
            "warm",
            "requests sent first and left out of latency",
            lambda w: w.warmup_requests,
            unit="requests",
            whole=True,
        ),
        _number(
            "timeout_s",
            "timeout",
            "how long a client waits for a whole answer",
            lambda w: w.timeout_s,
            unit="s",
            above=True,
        ),
        _number(
            "max_errors",
            "errors",
            "a trial stops after so many requests that failed",
            lambda w: w.max_errors,
            unit="requests",
            low=1,
            whole=True,
        ),
        _word(
            "answer_check",
            "check",
            "what an answer must hold: all of it, the prompt, or nothing",
            AnswerCheck,
            lambda w: w.answer_check.value,
        ),
        _number(
            "processes",
            "procs",
            "processes that send",
            lambda w: w.processes,
            unit="processes",
            low=1,
            whole=True,
        ),
    )
}


#: Fields that are columns of frames and tell cells apart. The others say when a trial ends: the
#: same traffic, watched for longer.
COLUMNS: Final = tuple(name for name in FIELDS if name not in ("requests", "duration_s"))


def as_grid(given: Mapping[str, object]) -> dict[str, tuple[GridValue, ...]]:
    """Words with one value or several each, checked, each value once, in the order of FIELDS.

    Raises:
        SpecError: no such word, a value out of its range, no value at all, or closed and open
            loop in one study.
    """
    check_names(given, FIELDS, "traffic field")
    grid = {}
    for name, row in FIELDS.items():
        if name in given:
            values = _distinct(map(row.as_value, several(given[name], row.is_text)))
            if not values:
                raise SpecError(f"{name} without a value", row.expected, f"give {name} a value")
            grid[name] = values
    kinds = grid.get("arrivals", ())
    if ArrivalKind.CLOSED.value in kinds and (len(kinds) > 1 or "rate" in grid):
        raise SpecError(
            "closed and open loop in one study",
            "either concurrency (closed loop) or rate (open loop): their latencies are no "
            "comparison",
            "leave out arrivals='closed' or rate, or make two studies",
        )
    return grid


def _distinct(values: Iterable[GridValue]) -> tuple[GridValue, ...]:
    return tuple(dict.fromkeys(values))


def several(value: object, is_text: bool = False) -> list[object]:
    """One value as a list of it; text such as "1,16" as its parts, unless it stands for itself."""
    if isinstance(value, str) and not is_text:
        return [part for part in re.split(r"[\s,;]+(?![^()]*\))", value) if part]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return list(value)
    return [value]


def points(grid: Mapping[str, tuple[GridValue, ...]]) -> Iterable[Point]:
    """Every combination of a grid's values, the first word varying slowest."""
    names = [name for name in FIELDS if name in grid]
    for values in product(*(grid[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def with_traffic(workload: Workload, point: Mapping[str, GridValue]) -> Workload:
    """The workload with the values of one point of a grid.

    Raises:
        SpecError: they do not go together.

    Example:
        >>> with_traffic(Workload(), {"rate": 5.0, "output_tokens": fixed(64)}).rate
        5.0
    """
    return workload.changed(**point)


def value_of(name: str, workload: Workload) -> int | float | str | None:
    """What a workload says for a word: a number, a text, or None if it has none.

    A distribution that always gives the same number is that number.
    """
    value = FIELDS[name].of(workload)
    return None if value is None else number_of(value)


def number_of(value: GridValue) -> int | float | str:
    """The value as a frame holds it: a distribution is its one number, or its text."""
    if isinstance(value, Distribution):
        return value.mean if value.kind is DistributionKind.FIXED else str(value)
    return value


def tag_of(name: str, value: GridValue) -> str:
    """A value as it stands in a trial's name, and so in a folder's: "rate5", "out16-64"."""
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    if isinstance(value, str) and value not in FIELDS[name].choices and plain != text:
        plain = f"{plain[-24:].strip('-.')}-{crc32(text.encode()) & 0xFFFF:04x}"
    return FIELDS[name].short + plain
