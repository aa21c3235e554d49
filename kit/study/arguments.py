"""Checks values that a person gave: each error names the argument and the nearest valid name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from kit.errors import SpecError

E = TypeVar("E", bound=StrEnum)


def nearest(given: str, names: Iterable[str]) -> str:
    """A hint: "did you mean 'concurrency'?", or "choose one of them"."""
    near = difflib.get_close_matches(given, list(names), n=2, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "choose one of them"


def check_names(given: Iterable[str], known: Iterable[str], what: str = "argument") -> None:
    """Refuse a keyword that does not exist.

    Raises:
        SpecError: one of `given` is not among `known`; the nearest ones are named.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise SpecError(
                f"the {what} {name!r}, which does not exist",
                f"some of {', '.join(names)}",
                nearest(name, names),
            )


def as_member(argument: str, value: object, kind: type[E]) -> E:
    """The member of `kind` that `value` is or names.

    Raises:
        SpecError: it names none.
    """
    names = [member.value for member in kind]
    if isinstance(value, str) and value in names:
        return kind(value)
    raise SpecError(
        f"{argument} = {value!r}",
        f"one of {', '.join(names)}",
        nearest(str(value), names),
    )


def as_number(
    argument: str,
    value: object,
    *,
    low: float,
    high: float | None = None,
    above: bool = False,
    whole: bool = False,
) -> float:
    """`value` as a number from `low` (or above it) to `high`; "4" and numpy's numbers count.

    Raises:
        SpecError: it is no such number.
    """
    number = _number(value)
    inside = number is not None and (number > low if above else number >= low)
    if number is None or not inside or (high is not None and number > high):
        raise _no_number(argument, value, low, high, above, whole)
    if whole and number != int(number):
        raise _no_number(argument, value, low, high, above, whole)
    return int(number) if whole else float(number)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # numpy's scalars
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _no_number(
    argument: str, value: object, low: float, high: float | None, above: bool, whole: bool
) -> SpecError:
    expected = number_words(low, high, above, whole)
    return SpecError(f"{argument} = {value!r}", expected, f"give {argument} such a number")


def number_words(low: float, high: float | None, above: bool, whole: bool) -> str:
    """The range in words: "a whole number, 1 or more"."""
    kind = "a whole number" if whole else "a number"
    if high is not None:
        return f"{kind} from {low:g} to {high:g}"
    return f"{kind} above {low:g}" if above else f"{kind}, {low:g} or more"
