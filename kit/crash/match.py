"""Ranks the catalog's entries by how well they fit a crash, and says why."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kit.crash.catalog import Crash, ReleaseRange, Sign
from kit.crash.component import Component
from kit.crash.stack.site import exact_symbol, plain_module, short_name
from kit.study.result import Frame

#: How much of its score an entry keeps when the release is not known, or is not one of its own.
_UNKNOWN_RELEASE = 0.9
_OTHER_RELEASE = 0.3
#: Below this a likeness is chance.
_LEAST = 0.1
_MOST = 0.99
#: From here on a match is worth its advice; below it is only named.
GOOD_MATCH = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A catalog entry that fits a crash."""

    id: str
    score: float  # 0 to 1; says how well it fits, not how probable it is
    why: str
    title: str
    links: tuple[str, ...]
    precise: bool  # by a function or by words; False: by the component alone, a mere candidate
    affected: tuple[ReleaseRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of a crash that is to be matched."""

    signal: int | None
    frames: tuple[Frame, ...]  # from the fault outward
    component: Component
    releases: tuple[str, ...]  # that can have printed it; empty = unknown
    said: Mapping[str, int]  # watched words that the log has -> line of the first


def watched(crashes: Iterable[Crash]) -> dict[str, tuple[str, re.Pattern[str] | None]]:
    """What to look for in every line: key -> literal, and a pattern for its line."""
    return {
        _key(sign): (sign.says, re.compile(sign.like) if sign.like else None)
        for crash in crashes
        for sign in crash.signs
        if sign.says
    }


def rank(case: Case, crashes: Mapping[str, Crash]) -> list[Match]:
    """The entries that fit, best first; of equals the one that fewer releases have."""
    found: list[tuple[float, bool, int, Match]] = []
    specific = False
    for crash in crashes.values():
        shown = [(sign, why) for sign in crash.signs if (why := _shows(sign, case))]
        if not shown:
            continue
        missed = 1.0
        for sign, _ in shown:
            missed *= 1 - sign.weight
        factor, release_why = _by_release(crash, case.releases)
        score = round(min((1 - missed) * factor, _MOST), 2)
        precise = any(_is_precise(sign) for sign, _ in shown)
        specific = specific or (precise and score >= GOOD_MATCH)
        if score >= _LEAST:
            reasons = [*dict.fromkeys(why for _, why in shown), release_why]
            reasons.append(crash.seen_on(case.releases))
            if not precise:
                reasons.insert(0, "only the component fits")
            match = Match(
                id=crash.id,
                score=score,
                why="; ".join(reason for reason in reasons if reason),
                title=crash.title,
                links=crash.links,
                precise=precise,
                affected=crash.affected.ranges,
            )
            found.append((score, precise, _breadth(crash), match))
    ranked = sorted(found, key=lambda row: (-row[0], row[2]))
    # a likeness by component alone says nothing beside one by functions or words
    return [match for _, precise, _, match in ranked if precise or not specific]


def best_of(matches: Sequence[Match]) -> list[Match]:
    """The matches that name a crash: the best one, and those that fit as well. Empty: unknown.

    A likeness by component alone names none, however good it is.
    """
    good = [match for match in matches if match.precise and match.score >= GOOD_MATCH]
    return [match for match in good if match.score == good[0].score]


def _is_precise(sign: Sign) -> bool:
    return bool(sign.stack or sign.calls or sign.says)


def _breadth(crash: Crash) -> int:
    """Months that the entry's ranges span; open ends count long."""
    months = 0
    for span in crash.affected.ranges:
        first, last = _month(span.start or "21.01"), _month(span.end or "30.01")
        months += last - first + 1
    return months


def _month(release: str) -> int:
    year, _, month = release.partition(".")
    return int(year) * 12 + int(month)


def _by_release(crash: Crash, releases: Sequence[str]) -> tuple[float, str | None]:
    if crash.affected.open_ended:
        return 1.0 if releases else _UNKNOWN_RELEASE, None
    known = crash.affected.labelled
    if not releases:
        return _UNKNOWN_RELEASE, f"known in {known}, this release is not known"
    name = " or ".join(releases)
    if any(crash.hits(release) for release in releases):
        return 1.0, f"{name} has it: {known}"
    return _OTHER_RELEASE, f"but {name} is not known to have it: {known}"


def _shows(sign: Sign, case: Case) -> str | None:
    """Why this sign is there; None when a condition does not hold."""
    if sign.signal and case.signal not in (*sign.signal, None):
        return None  # a stack that was pasted without its first line may be of any signal
    reasons: list[str] = []
    if sign.stack:
        if not _stack_fits(sign.stack, case.frames):
            return None
        first, _, module = sign.stack[0].partition("@")
        by = sign.stack[1].partition("@")[2] if len(sign.stack) > 1 else None
        reasons.append(f"the fault is in {first or module}" + (f", called by {by}" if by else ""))
    if sign.calls:
        name = _call_that_fits(sign.calls, case.frames)
        if name is None:
            return None
        reasons.append(f"{name} is on the stack")
    if sign.part:
        if case.component is not sign.part or not case.frames:
            return None
        reasons.append(f"the stack is in the {sign.part.value}")
    if sign.says:
        line = case.said.get(_key(sign))
        if line is None:
            return None
        reasons.append(f'line {line} says "{sign.says}"')
    return " and ".join(reasons)


def _stack_fits(wanted: Sequence[str], frames: Sequence[Frame]) -> bool:
    if len(frames) < len(wanted):
        return False
    for text, frame in zip(wanted, frames, strict=False):
        symbol, _, module = text.partition("@")
        if module and plain_module(frame.module) not in (module, None):
            return False
        if module and frame.module is None and not symbol:
            return False
        if symbol and not _named(frame, symbol):
            return False
    return True


def _named(frame: Frame, symbol: str) -> bool:
    name = exact_symbol(frame)
    return name is not None and short_name(name).lstrip("_") == symbol.lstrip("_")


def _call_that_fits(pattern: str, frames: Collection[Frame]) -> str | None:
    compiled = _compiled(pattern)
    for frame in frames:
        name = exact_symbol(frame)
        if name and compiled.search(name):
            return short_name(name)
    return None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _key(sign: Sign) -> str:
    return f"{sign.says}\n{sign.like or ''}"
