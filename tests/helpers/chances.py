"""How many server lives a test against a real race needs, so that a right kit seldom fails it.

A race kills most lives of a server and not all. Such a test states the endings that the fault is
known to have and the chance that one life shows the one that is looked for; lives are then tried
one after the other, until one does or so many have not that it is no chance any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from scipy import stats

from kit.study.paths import RECORDED
from kit.study.recorded import open_study

#: A right kit fails such a test less often than once in so many runs.
ONCE_IN = 1000

Life = TypeVar("Life")


def at_least(deaths: int, trials: int) -> float:
    """The chance of a death, at its least by what was seen: Clopper-Pearson, one-sided, 95 %."""
    return float(stats.beta.ppf(0.05, deaths, trials - deaths + 1)) if deaths else 0.0


def recorded_chance(
    release: str, scenario: str, *, studies: Iterable[str] = ("release_map", "first_light")
) -> float:
    """The least chance that a trial of this cell dies, by the recorded studies that have it."""
    died = [
        trial.result.verdict.is_death
        for name in studies
        for trial in open_study(RECORDED / name).trials()
        if (trial.spec.release, trial.spec.scenario) == (release, scenario)
        and trial.result is not None
        and trial.result.verdict.is_counted
    ]
    return at_least(sum(died), len(died))


def lives_for(chance: float) -> int:
    """So many lives all miss an ending of this chance less often than once in ONCE_IN runs."""
    return math.ceil(math.log(1 / ONCE_IN) / math.log(1 - chance))


def until(
    live: Callable[[int], Life],
    shows: Callable[[Life], bool],
    *,
    chance: float,
    known: Callable[[Life], bool],
    say: Callable[[Life], object] = repr,
) -> Life:
    """The first life that shows the ending that is looked for; `live` gets its number from 0.

    known: whether a life ended in one of the ways that the fault is known for; another ending
    fails at once and is not tried away.
    """
    endings = []
    for number in range(lives_for(chance)):
        life = live(number)
        endings.append(say(life))
        assert known(life), f"life {number} ended as the fault never does: {endings[-1]}"
        if shows(life):
            return life
    raise AssertionError(
        f"none of {len(endings)} lives showed it, at a chance of {chance:.2f} each: {endings}"
    )
