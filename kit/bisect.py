"""A line of releases and a way to try one in; every release at which a crash came or went out.

Ordinary bisection finds one flip and takes it for the only one. Here each release has a hidden
state, *dies* or *safe*; along the line it changes now and then (a Markov chain), and a trial
shows it imperfectly: a release that dies does not die every time. How often it does is not known
beforehand, and is learned from the trials themselves (kit.bisect_line). Each next trial goes where
it tells most about the whole line, until the likeliest line is likely enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kit.bisect_line import Assumptions, Count, Line
from kit.errors import SpecError

#: Trials in a row that say nothing (our own side failed), after which a release is left alone.
MOST_SILENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was seen of one release, and what it means."""

    release: str
    trials: int
    deaths: int
    dies: float  # probability that it is one that dies


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Between two neighbours of the line the crash came (or went)."""

    older: str
    newer: str
    came: bool  # False: it went
    probability: float  # that exactly this happened between the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """The likeliest line."""

    releases: tuple[Tried, ...]
    dies: tuple[bool, ...]  # the likeliest line as a whole
    probability: float  # of that line
    flips: tuple[Flip, ...]
    trials: int  # that told something
    detect: float  # chance that a trial of a release that dies does die, as the trials tell
    assume: Assumptions
    decided: bool  # False: the budget ended, or nothing more could be tried


def find_flips(
    releases: Sequence[str],
    run: Callable[[str], bool | None],
    *,
    confidence: float = 0.95,
    budget: int | None = None,
    assume: Assumptions | None = None,
    on_trial: Callable[[Bisection], None] | None = None,
) -> Bisection:
    """Try releases until the likeliest line has at least probability `confidence`.

    releases: oldest first. run(release): one trial; True = the server died, False = it lived,
    None = the trial says nothing. budget: most trials (None: 20 a release). on_trial is told the
    state after each trial that told something.

    Under `assume` the answer is wrong with probability 1 - confidence at most, on average over
    the lines that it believes possible. A lone release that differs from both neighbours is
    missed more easily than that, above all one that dies in fewer than half of its trials.

    Raises:
        SpecError: no releases, or one twice.
    """
    if not releases or len(set(releases)) != len(releases):
        raise SpecError(f"releases {', '.join(releases)}", "one or more, each once", "correct them")
    if not 0.5 < confidence < 1:
        raise SpecError(f"a confidence of {confidence}", "0.5 to 1", "0.95 is usual")
    assume = assume or Assumptions()
    counts = [Count() for _ in releases]
    most = 20 * len(releases) if budget is None else budget
    spent, told = 0, False
    while True:
        line = Line.of(assume, counts)
        found = _summary(releases, line, confidence)
        if on_trial and told:
            on_trial(found)
        open_ones = [i for i, count in enumerate(counts) if count.silent < MOST_SILENT]
        if found.decided or spent >= most or not open_ones:
            return found
        choice = _most_telling(line, open_ones)
        died = run(releases[choice])
        spent += 1
        count, told = counts[choice], died is not None
        if died is None:
            count.silent += 1
        else:
            count.trials, count.deaths = count.trials + 1, count.deaths + bool(died)
            count.silent = 0


def _most_telling(line: Line, candidates: Sequence[int]) -> int:
    """Where one trial is expected to tell most; among equals, farthest from what was tried."""
    told = line.told()
    tried = [i for i, count in enumerate(line.counts) if count.trials]

    def distance(i: int) -> int:
        ends = (i + 1, len(line.counts) - i)
        return min([abs(i - j) for j in tried] or ends)

    return max(candidates, key=lambda i: (round(float(told[i]), 9), distance(i)))


def _summary(releases: Sequence[str], line: Line, confidence: float) -> Bisection:
    marginals = line.marginals()
    dies, probability = line.likeliest()
    flips = [
        Flip(
            older=releases[i],
            newer=releases[i + 1],
            came=dies[i + 1],
            probability=line.pair(i, int(dies[i]), int(dies[i + 1])),
        )
        for i in range(len(releases) - 1)
        if dies[i] != dies[i + 1]
    ]
    tried = [
        Tried(release=name, trials=count.trials, deaths=count.deaths, dies=float(marginal))
        for name, count, marginal in zip(releases, line.counts, marginals, strict=True)
    ]
    return Bisection(
        releases=tuple(tried),
        dies=dies,
        probability=probability,
        flips=tuple(flips),
        trials=sum(count.trials for count in line.counts),
        detect=line.detect(),
        assume=line.assume,
        decided=probability >= confidence,
    )
