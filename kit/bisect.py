"""A line of releases and a way to try one in; every release at which a crash came or went out.

Ordinary bisection finds one flip and takes it for the only one. Here each release has a hidden
state, *dies* or *safe*; along the line it changes now and then (a Markov chain), and a trial
shows it imperfectly (a release that dies does not die every time). Each next trial goes where it
tells most about the whole line, until the likeliest line is likely enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kit.errors import SpecError

#: Trials in a row that say nothing (our own side failed), after which a release is left alone.
MOST_SILENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is believed before the first trial; probabilities."""

    flip: float = 0.15  # a release differs from the one before it
    detect: float = 0.9  # a trial of a release that dies does die
    false_alarm: float = 0.002  # a trial of a safe release dies nevertheless

    def __post_init__(self) -> None:
        if not (0 < self.flip <= 0.5 and 0 < self.false_alarm < self.detect < 1):
            raise SpecError(
                f"flip {self.flip}, detect {self.detect}, false alarm {self.false_alarm}",
                "0 < flip <= 0.5 and 0 < false alarm < detect < 1",
                "nothing is certain before it was tried; use 0.999 for nearly always",
            )


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
    trials: int
    decided: bool  # False: the budget ended, or nothing more could be tried


@dataclass(slots=True)
class _Count:
    trials: int = 0
    deaths: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """The posterior of a line: forward-backward over two states, 0 safe and 1 dies."""

    assume: Assumptions
    counts: Sequence[_Count]
    likelihood: list[tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        seen = [
            tuple(
                math.exp(c.deaths * math.log(p) + (c.trials - c.deaths) * math.log1p(-p))
                for p in (self.assume.false_alarm, self.assume.detect)
            )
            for c in self.counts
        ]
        object.__setattr__(self, "likelihood", seen)

    def step(self, old: int, new: int) -> float:
        return self.assume.flip if old != new else 1 - self.assume.flip

    def forward(self) -> list[tuple[float, float]]:
        """P(state, all that was seen up to here), each scaled to sum to 1."""
        rows = [_scaled(0.5 * self.likelihood[0][0], 0.5 * self.likelihood[0][1])]
        for like in self.likelihood[1:]:
            a, b = (sum(rows[-1][o] * self.step(o, n) for o in (0, 1)) * like[n] for n in (0, 1))
            rows.append(_scaled(a, b))
        return rows

    def backward(self) -> list[tuple[float, float]]:
        rows = [(1.0, 1.0)]
        for like in reversed(self.likelihood[1:]):
            a, b = (sum(self.step(o, n) * like[n] * rows[-1][n] for n in (0, 1)) for o in (0, 1))
            rows.append(_scaled(a, b))
        return rows[::-1]

    def marginals(self) -> list[float]:
        """Probability of every release that it dies."""
        pairs = zip(self.forward(), self.backward(), strict=True)
        return [_scaled(f[0] * b[0], f[1] * b[1])[1] for f, b in pairs]

    def likeliest(self) -> tuple[tuple[bool, ...], float]:
        """The likeliest line (Viterbi) and its probability."""
        best = [math.log(0.5) + math.log(p) for p in self.likelihood[0]]
        total = [math.log(0.5) + math.log(p) for p in self.likelihood[0]]
        came_from = []
        for like in self.likelihood[1:]:
            ways = [[(best[o] + math.log(self.step(o, n)), o) for o in (0, 1)] for n in (0, 1)]
            came_from.append([max(way)[1] for way in ways])
            best = [max(way)[0] + math.log(like[n]) for n, way in enumerate(ways)]
            total = [
                math.log(like[n])
                + _log_sum(
                    total[0] + math.log(self.step(0, n)), total[1] + math.log(self.step(1, n))
                )
                for n in (0, 1)
            ]
        state = int(best[1] > best[0])
        path = [state]
        for row in reversed(came_from):
            state = row[state]
            path.append(state)
        return tuple(s == 1 for s in reversed(path)), math.exp(max(best) - _log_sum(*total))

    def pair(self, i: int, old: int, new: int) -> float:
        """Probability that release i is in state `old` and the next one in `new`."""
        f, b, like = self.forward()[i], self.backward()[i + 1], self.likelihood[i + 1]
        weight = {(o, n): f[o] * self.step(o, n) * like[n] * b[n] for o in (0, 1) for n in (0, 1)}
        return weight[old, new] / sum(weight.values())


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
    state after each trial.

    Under `assume` the answer is wrong with probability 1 - confidence at most. A lone release
    that differs from both neighbours is missed more easily than that where it was never tried:
    raise `flip`, or the confidence, to have such ones tried too.

    Raises:
        SpecError: no releases, or one twice.
    """
    if not releases or len(set(releases)) != len(releases):
        raise SpecError(f"releases {', '.join(releases)}", "one or more, each once", "correct them")
    if not 0.5 < confidence < 1:
        raise SpecError(f"a confidence of {confidence}", "0.5 to 1", "0.95 is usual")
    assume = assume or Assumptions()
    counts = [_Count() for _ in releases]
    most = 20 * len(releases) if budget is None else budget
    spent = 0
    while True:
        line = _Line(assume, counts)
        found = _summary(releases, line, spent, confidence)
        if on_trial and spent:
            on_trial(found)
        open_ones = [i for i, count in enumerate(counts) if count.silent < MOST_SILENT]
        if found.decided or spent >= most or not open_ones:
            return found
        choice = _most_telling(line, open_ones)
        died = run(releases[choice])
        spent += 1
        count = counts[choice]
        if died is None:
            count.silent += 1
        else:
            count.trials, count.deaths = count.trials + 1, count.deaths + bool(died)
            count.silent = 0


def _most_telling(line: _Line, candidates: Sequence[int]) -> int:
    """Where one trial is expected to tell most; among equals, farthest from what was tried.

    A trial depends on its own release only, so what it tells about the whole line is the mutual
    information between its outcome and that release's state.
    """
    marginals = line.marginals()
    tried = [i for i, count in enumerate(line.counts) if count.trials]

    def distance(i: int) -> int:
        ends = (i + 1, len(line.counts) - i)
        return min([abs(i - j) for j in tried] or ends)

    return max(candidates, key=lambda i: (round(_told(line.assume, marginals[i]), 9), distance(i)))


def _told(assume: Assumptions, dies: float) -> float:
    death = dies * assume.detect + (1 - dies) * assume.false_alarm
    noise = dies * _entropy(assume.detect) + (1 - dies) * _entropy(assume.false_alarm)
    return _entropy(death) - noise


def _summary(releases: Sequence[str], line: _Line, spent: int, confidence: float) -> Bisection:
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
        Tried(release=name, trials=count.trials, deaths=count.deaths, dies=marginal)
        for name, count, marginal in zip(releases, line.counts, marginals, strict=True)
    ]
    return Bisection(
        releases=tuple(tried),
        dies=dies,
        probability=probability,
        flips=tuple(flips),
        trials=spent,
        decided=probability >= confidence,
    )


def _scaled(a: float, b: float) -> tuple[float, float]:
    return a / (a + b), b / (a + b)


def _log_sum(a: float, b: float) -> float:
    high = max(a, b)
    return high + math.log(math.exp(a - high) + math.exp(b - high))


def _entropy(p: float) -> float:
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)
