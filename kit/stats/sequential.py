"""Simulates sequential tests: how often they are wrong, and how many trials they take.

The check of kit.study.sequential that does not trust its formulas: thousands of servers whose
truth is known are tested trial by trial. `kit dev error-rates` prints the table.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kit.study.sequential import (
    Decision,
    Observation,
    RequestTest,
    SequentialTest,
    TrialTest,
    decide,
)

#: Makes one trial of a synthetic server.
Server = Callable[[random.Random], Observation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What the test said of many servers that are all alike; shares of them, and mean trials."""

    crashes: float
    survives: float
    undecided: float
    mean_trials: float


def dies_with(probability: float) -> Server:
    """A server of which each life ends in a crash with this probability."""
    return lambda rng: Observation(crashed=rng.random() < probability, requests=200)


def dies_at_hazard(per_request: float, *, requests: int) -> Server:
    """A server whose every request kills with this hazard, tried with `requests` at most."""

    def trial(rng: random.Random) -> Observation:
        death = int(rng.expovariate(per_request)) if per_request else requests
        return Observation(crashed=death < requests, requests=min(death, requests))

    return trial


def simulate(
    test: SequentialTest, server: Server, *, servers: int, budget: int, seed: int = 0
) -> Outcomes:
    """Decide on that many independent servers of one kind."""
    rng = random.Random(seed)  # noqa: S311 - a simulation, no secret
    said: Counter[Decision] = Counter()
    trials = 0
    for _ in range(servers):
        found = decide(test, _life_after_life(server, rng), budget=budget)
        said[found.decision] += 1
        trials += found.trials
    return Outcomes(
        crashes=said[Decision.CRASHES] / servers,
        survives=said[Decision.SURVIVES] / servers,
        undecided=said[Decision.UNDECIDED] / servers,
        mean_trials=trials / servers,
    )


def _life_after_life(server: Server, rng: random.Random) -> Iterator[Observation]:
    while True:
        yield server(rng)


def error_table(servers: int = 20_000) -> str:
    """Of tests and truths: the share of `servers` servers each of which the test said what."""
    trial_test, request_test = TrialTest(), RequestTest()
    cases: list[tuple[str, SequentialTest, Server]] = [
        *(
            (f"a trial dies with {p}", trial_test, dies_with(p))
            for p in (0.0, trial_test.survives, 0.1, 0.25, trial_test.crashes, 0.9)
        ),
        *(
            (f"a request kills with {h:g}", request_test, dies_at_hazard(h, requests=1000))
            for h in (0.0, request_test.survives, 1e-4, request_test.crashes, 1e-2)
        ),
    ]
    lines = [
        f"{servers:,} servers a row; Wald bounds each error rate by 0.05 / 0.95 = 0.0526",
        f"{'truth':32}{'crashes':>9}{'survives':>10}{'undecided':>11}{'trials':>8}",
    ]
    for name, test, server in cases:
        found = simulate(test, server, servers=servers, budget=100)
        lines.append(
            f"{name:32}{found.crashes:9.4f}{found.survives:10.4f}"
            f"{found.undecided:11.4f}{found.mean_trials:8.2f}"
        )
    return "\n".join(lines) + "\n"
