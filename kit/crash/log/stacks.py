"""Joins frames into whole stacks, and tells which stacks are torn.

Two threads that crash at once print into each other, some log viewers put the newest line
first, and pasted logs begin or end in the middle: all that is still read. Frames whose numbers
fit none of these belong to no stack: a shuffled log must not look like a crash that it is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from kit.study.result import Frame

#: A stack deeper than this is endless recursion, more threads than this no crash.
DEEPEST = 512
MOST_AT_ONCE = 64
#: So few frames may be in order by chance.
_FEW_IN_A_ROW = 3
_FEW_WITH_GAPS = 5
_FEW_OF_A_WHOLE = 6


@dataclass(slots=True)
class Stack:
    """Frames from the innermost outward, and the lines they were read from."""

    frames: list[Frame] = field(default_factory=list)
    first_line: int = 0
    last_line: int = 0
    complete: bool = True  # it begins with frame 0 and misses none up to its last


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    frame: Frame
    line: int
    quoted: bool = False  # words of a sentence stand before it
    origin: str = ""  # the process that printed it, as the line has it
    marked: bool = False


def assemble(
    entries: Sequence[Entry], headers: Sequence[int] = (), *, elided: bool = False
) -> list[Stack] | None:
    """The stacks that numbered frames make up; None when the order of their lines is lost.

    headers: lines at which a crash was announced. Frames that make no sense together may be
    those of several crashes, one behind the other. elided: whoever pasted them left some out, and
    wrote so.
    """
    whole = _dealt(entries)
    if whole is None:
        whole = _cut(entries, elided=elided) or _cut_before_whole(entries)
    if whole is not None:
        return whole
    if len(origins := dict.fromkeys(entry.origin for entry in entries)) > 1:
        each = [assemble([e for e in entries if e.origin == origin]) for origin in origins]
        found = [stacks for stacks in each if stacks is not None]
        return [stack for stacks in found for stack in stacks] if found else None
    made: list[Stack] = []
    for group in _between(entries, headers):
        stacks = _dealt(group)
        if stacks is None:
            return None
        made += stacks
    return made


def _between(entries: Sequence[Entry], headers: Sequence[int]) -> list[list[Entry]]:
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(bisect_left(headers, entry.line), []).append(entry)
    return list(groups.values())


def _dealt(entries: Sequence[Entry]) -> list[Stack] | None:
    """Whole stacks, printed downward or upward."""
    for order in (entries, entries[::-1]):
        stacks = _interleaved(order)
        if stacks is not None:
            return sorted(stacks, key=lambda stack: stack.first_line)
    return None


def in_sequence(entries: Iterable[Entry], *, innermost_last: bool) -> Stack:
    """One stack of frames that their printer does not number."""
    found = list(entries)
    lines = [entry.line for entry in found]
    ordered = found[::-1] if innermost_last else found
    return Stack(
        frames=[replace(entry.frame, index=i) for i, entry in enumerate(ordered)],
        first_line=min(lines),
        last_line=max(lines),
    )


def _interleaved(entries: Sequence[Entry]) -> list[Stack] | None:
    """Deal frames out to stacks that each await their next number; None if one fits nowhere."""
    stacks: list[Stack] = []
    for entry in entries:
        if entry.index == 0:
            if len(stacks) == MOST_AT_ONCE:
                return stacks
            stacks.append(Stack(first_line=entry.line, last_line=entry.line))
            home: Stack | None = stacks[-1]
        else:
            home = next((s for s in reversed(stacks) if len(s.frames) == entry.index), None)
        if home is None:
            return None
        home.frames.append(entry.frame)
        home.first_line = min(home.first_line, entry.line)
        home.last_line = max(home.last_line, entry.line)
    return stacks


def _cut_before_whole(entries: Sequence[Entry]) -> list[Stack] | None:
    """The end of a stack, then whole ones: the paste began within a crash of two stacks."""
    first = next((at for at, entry in enumerate(entries) if entry.index == 0), 0)
    end, rest = _cut(entries[:first], elided=False), _dealt(entries[first:])
    if not end or not rest or any(len(stack.frames) < _FEW_OF_A_WHOLE for stack in rest):
        return None
    return [*end, *rest]


def _cut(entries: Sequence[Entry], *, elided: bool) -> list[Stack] | None:
    """A stack whose beginning or middle is missing, which its rising numbers still show."""
    steps = [b.index - a.index for a, b in pairwise(entries)]
    in_a_row = all(step == 1 for step in steps) and len(entries) >= _FEW_IN_A_ROW
    with_gaps = all(step >= 1 for step in steps) and len(entries) >= _FEW_WITH_GAPS
    left_out = elided and len(entries) > 1 and all(step >= 1 for step in steps)
    if not (in_a_row or with_gaps or left_out):
        return None
    return [
        Stack(
            frames=[entry.frame for entry in entries],
            first_line=entries[0].line,
            last_line=entries[-1].line,
            complete=False,
        )
    ]
