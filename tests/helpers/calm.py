"""Tries anew what a machine that stalls can spoil, and what wrong code always fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def in_a_calm_moment(
    look: Callable[[int], Seen], is_right: Callable[[Seen], bool], *, attempts: int = 3
) -> Seen:
    """What `look` saw when it first was right, or the last time; it gets its number from 0."""
    for number in range(attempts):
        seen = look(number)
        if is_right(seen):
            break
    return seen
