"""Computes a value of a study once, and again only when the study's files have changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

from kit.study.folder import StudyFolder
from kit.study.recorded import open_study


class Copyable(Protocol):
    """A frame, a dictionary, a list."""

    def copy(self) -> Self: ...


T = TypeVar("T", bound=Copyable)

_KEPT: WeakKeyDictionary[StudyFolder, dict[str, tuple[Hashable, Any]]] = WeakKeyDictionary()


def computed_once(
    compute: Callable[[StudyFolder | Path], T],
) -> Callable[[StudyFolder | Path], T]:
    """`compute`, whose value is kept with a StudyFolder for as long as that object lives.

    Each caller gets a copy of its own. A study given by its path is opened and read anew.
    """

    @wraps(compute)
    def once(study: StudyFolder | Path) -> T:
        folder = open_study(study)
        kept = _KEPT.setdefault(folder, {})
        state = folder.state()  # before reading: what is written meanwhile makes it read again
        if compute.__name__ not in kept or kept[compute.__name__][0] != state:
            kept[compute.__name__] = state, compute(folder)
        value: T = kept[compute.__name__][1]
        return value.copy()

    return once
