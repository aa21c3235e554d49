"""JSON of the kit's dataclasses: written with every field, read strictly.

A misspelt field in a spec is an error and never a default.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec

from kit.errors import SpecError
from kit.study.migrate import migrated

T = TypeVar("T")


def to_json(noun: object) -> bytes:
    """The noun as indented UTF-8 JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(noun), indent=2) + b"\n"


def plain(value: Any, *, infinite: str = "inf") -> Any:
    """A value, or dictionaries and lists of them, as JSON can have it.

    Numbers of numpy become Python's; what is not a number becomes None, what is infinite a text.

    >>> plain({"ms": math.inf, "low": -math.inf, "n": [1, math.nan]})
    {'ms': 'inf', 'low': '-inf', 'n': [1, None]}
    >>> plain(math.inf, infinite="never")
    'never'
    """
    if isinstance(value, dict):
        return {key: plain(inner, infinite=infinite) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, infinite=infinite) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else infinite if value > 0 else f"-{infinite}"
    return value


def from_json(data: bytes, noun: type[T]) -> T:
    """The noun that `data` describes.

    Raises:
        SpecError: not JSON, or not this noun.
    """
    try:
        raw = migrated(msgspec.json.decode(data), noun.__name__)
        read = msgspec.convert(raw, noun, strict=True)
        unknown = sorted(set(_unknown_keys(raw, msgspec.to_builtins(read))))
        _check_numbers(read, data)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SpecError(
            f"JSON that is not a {noun.__name__}: {error}",
            f"the fields of {noun.__name__}",
            "compare it with a spec.json that the kit wrote",
        ) from error
    if unknown:
        raise SpecError(
            f"a {noun.__name__} with unknown fields {', '.join(unknown)}",
            f"the fields of {noun.__name__}",
            "correct the names, or read it with the version of the kit that wrote it",
        )
    return read


#: Digits of the first number that does not fit into 64 bits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def _check_numbers(noun: object, data: bytes) -> None:
    """Refuse integers that no column of a frame can hold."""
    if _LONG_NUMBER.search(data):
        waiting = [msgspec.to_builtins(noun)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{len(str(value))} digits, where 64 bits hold 19 at most")


def _unknown_keys(given: object, understood: object, path: str = "") -> list[str]:
    """Paths of the keys in `given` that reading dropped (every field is written back)."""
    found: list[str] = []
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key not in understood:
                found.append(f"{path}{key}")
            elif isinstance(value, dict | list):  # mostly not: a map has 50,000 fields
                found += _unknown_keys(value, understood[key], f"{path}{key}.")
    elif isinstance(given, list) and isinstance(understood, list | tuple):
        for one, other in zip(given, understood, strict=False):
            if isinstance(one, dict | list):
                found += _unknown_keys(one, other, path)
    return found
