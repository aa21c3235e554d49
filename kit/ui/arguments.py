"""Arguments that a person gave, checked: an error names the argument and the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Final

from kit.errors import SpecError

#: The most that goes to a server that runs already on another machine, unless a person says more.
MOST_REQUESTS: Final = 10_000
MOST_MINUTES: Final = 10.0


def folder(argument: str, value: object) -> Path:
    """A path given as text or as a path.

    Raises:
        SpecError: it is neither.
    """
    if isinstance(value, str | PathLike) and str(value):
        return Path(value).expanduser()
    raise wrong(argument, value, 'a folder, such as "studies/mine"', "give its path")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name most like this one; None: none is like it."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def wrong(argument: str, value: object, expected: str, mend: str) -> SpecError:
    """An argument of the wrong kind, in the words of all such errors."""
    kind = type(value).__name__
    return SpecError(f"{argument}={value!r}, which is of type {kind}", expected, mend)
