"""Finds every release at which a crash came or went along the line of releases.

Ordinary bisection finds one flip and takes it for the only one. Here each release has a hidden
state, *dies* or *safe*; along the line it changes now and then (a Markov chain), and a trial
shows it imperfectly: a release that dies does not die every time. How often it does is not known
beforehand, and is learned from the trials themselves (kit.stats.bisect). Each next trial goes where
it tells most about the whole line, until the likeliest line is likely enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.errors import SpecError

Floats = NDArray[np.float64]
#: Values that the chance may have where it is not given. Small ones are believed sooner, as the
#: inverse square: a crash that comes seldom is the one that is easily taken for none. Simulated
#: lines are then wrong no more often than they say for every chance from 0.4 to 1; with one fixed
#: at 0.9 those of a crash that comes every other time were wrong in 78 % of the cases.
DETECTS = np.linspace(0.3, 0.99, 12)
BELIEFS = DETECTS**-2 / (DETECTS**-2).sum()
#: Lines that are likeliest for one value of the grid, of which the likeliest of all is taken.
_CANDIDATES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is believed before the first trial; probabilities."""

    flip: float = 0.25  # a release differs from the one before it
    detect: float | None = None  # a trial of a release that dies does die; None: learned
    false_alarm: float = 0.002  # a trial of a safe release dies nevertheless

    def __post_init__(self) -> None:
        lowest = DETECTS[0] if self.detect is None else self.detect
        if not (0 < self.flip <= 0.5 and 0 < self.false_alarm < lowest < 1):
            raise SpecError(
                f"flip {self.flip}, detect {self.detect}, false alarm {self.false_alarm}",
                "0 < flip <= 0.5 and 0 < false alarm < detect < 1",
                "nothing is certain before it was tried; use 0.999 for nearly always",
            )


@dataclass(slots=True)
class Count:
    """What was seen of one release so far."""

    trials: int = 0
    deaths: int = 0
    silent: int = 0  # in a row, at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The posterior of a line. Axes of the arrays: release, state, value of the grid."""

    assume: Assumptions
    counts: Sequence[Count]
    detects: Floats
    weights: Floats  # posterior of each value
    likelihood: Floats
    forward: Floats
    backward: Floats
    log_evidence: Floats

    @classmethod
    def of(cls, assume: Assumptions, counts: Sequence[Count]) -> Line:
        fixed = assume.detect is not None
        detects = np.array([assume.detect]) if fixed else DETECTS
        beliefs = np.ones(1) if fixed else BELIEFS
        deaths = np.array([[count.deaths] for count in counts])
        lives = np.array([[count.trials] for count in counts]) - deaths
        safe = np.full(detects.size, assume.false_alarm)
        likelihood = np.stack([p**deaths * (1 - p) ** lives for p in (safe, detects)], axis=1)
        step = _step(assume)
        forward, backward = np.empty_like(likelihood), np.ones_like(likelihood)
        log_evidence = np.zeros(detects.size)
        for i, seen in enumerate(likelihood):
            ahead = seen * (step.T @ forward[i - 1] if i else 0.5)
            log_evidence += np.log(ahead.sum(axis=0))
            forward[i] = ahead / ahead.sum(axis=0)
        for i in range(len(counts) - 2, -1, -1):
            behind = step @ (likelihood[i + 1] * backward[i + 1])
            backward[i] = behind / behind.sum(axis=0)
        weights = beliefs * np.exp(log_evidence - log_evidence.max())
        return cls(
            assume=assume,
            counts=counts,
            detects=detects,
            weights=weights / weights.sum(),
            likelihood=likelihood,
            forward=forward,
            backward=backward,
            log_evidence=log_evidence,
        )

    def detect(self) -> float:
        """The chance that a trial of a release that dies does die, on average."""
        return float(self.weights @ self.detects)

    def marginals(self) -> Floats:
        """Probability of every release that it dies."""
        return np.asarray(self._states()[:, 1, :] @ self.weights)

    def told(self) -> Floats:
        """Bits that one more trial of each release is expected to tell about its state.

        A trial depends on its own release only, so what it tells about the whole line is the
        mutual information between its outcome and that release's state.
        """
        joint = self._states() * self.weights
        dies = joint[:, 1, :].sum(axis=1)
        detected = joint[:, 1, :] @ self.detects / np.maximum(dies, 1e-300)
        death = dies * detected + (1 - dies) * self.assume.false_alarm
        noise = dies * _entropy(detected) + (1 - dies) * _entropy(
            np.full_like(dies, self.assume.false_alarm)
        )
        return np.asarray(_entropy(death) - noise)

    def likeliest(self) -> tuple[tuple[bool, ...], float]:
        """The likeliest line and its probability.

        For each value of the grid the likeliest is known exactly (Viterbi); of those of the
        likeliest values, the one that is likeliest over all of them.
        """
        best = np.argsort(-self.weights)[:_CANDIDATES]
        lines = dict.fromkeys(self._viterbi(value) for value in best)
        found = max(lines, key=self._probability)
        return found, self._probability(found)

    def pair(self, i: int, old: int, new: int) -> float:
        """Probability that release i is in state `old` and the next one in `new`."""
        ahead = self.likelihood[i + 1] * self.backward[i + 1]
        both = self.forward[i][:, None, :] * _step(self.assume)[:, :, None] * ahead[None, :, :]
        return float((both / both.sum(axis=(0, 1)))[old, new] @ self.weights)

    def _states(self) -> Floats:
        states = self.forward * self.backward
        return np.asarray(states / states.sum(axis=1, keepdims=True))

    def _probability(self, dies: tuple[bool, ...]) -> float:
        states = np.array(dies, int)
        steps = np.log(_step(self.assume)[states[:-1], states[1:]]).sum()
        seen = np.log(self.likelihood[np.arange(states.size), states, :]).sum(axis=0)
        return float(self.weights @ np.exp(np.log(0.5) + steps + seen - self.log_evidence))

    def _viterbi(self, value: int) -> tuple[bool, ...]:
        likelihood, step = np.log(self.likelihood[:, :, value]), np.log(_step(self.assume))
        best, came_from = likelihood[0], []
        for seen in likelihood[1:]:
            ways = best[:, None] + step
            came_from.append(ways.argmax(axis=0))
            best = ways.max(axis=0) + seen
        path = [int(best.argmax())]
        for row in reversed(came_from):
            path.append(int(row[path[-1]]))
        return tuple(state == 1 for state in reversed(path))


def _step(assume: Assumptions) -> Floats:
    """Probability of each state after each."""
    return np.array([[1 - assume.flip, assume.flip], [assume.flip, 1 - assume.flip]])


def _entropy(p: Floats) -> Floats:
    inner = np.clip(p, 1e-300, 1 - 1e-16)
    return np.asarray(-(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)))


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
