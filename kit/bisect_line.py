"""Counts of deaths along a line of releases in, what they make likely of the whole line out.

A hidden Markov chain of two states, 0 safe and 1 dies, followed forward and backward. The chance
that a trial of a release that dies does die is one number for the line, since it is one crash; it
is not known, so everything is computed for each value of a grid, and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
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
