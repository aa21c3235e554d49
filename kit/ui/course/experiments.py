"""Small models that the course runs: interleavings of two clients, and a queue with one stall.

Each is exact or seeded, needs no server, and answers in well under a second. They are models, and
the course says so wherever it shows one.
"""

from __future__ import annotations

import heapq
from itertools import combinations

import numpy as np
import pandas as pd

from kit.errors import SpecError

#: What each of two clients does to one shared counter.
STEPS = ("read", "add", "write")


def interleavings() -> pd.DataFrame:
    """Every order in which two clients can each read, add one to, and write one counter.

    Columns: order ("A.read B.read …"), final (int, the counter at the end), lost (bool: one of
    the two additions is gone). 20 rows: the ways to choose A's three places out of six.

    Example:
        >>> int(interleavings()["lost"].sum())
        18
    """
    rows = []
    for places in combinations(range(2 * len(STEPS)), len(STEPS)):
        owners = ["A" if place in places else "B" for place in range(2 * len(STEPS))]
        final, order = _run(owners)
        rows.append({"order": order, "final": final, "lost": final < 2})
    return pd.DataFrame(rows)


def _run(owners: list[str]) -> tuple[int, str]:
    """The counter after the two clients took their steps in this order, and the order as text."""
    counter, done, seen, names = 0, {"A": 0, "B": 0}, {"A": 0, "B": 0}, []
    for owner in owners:
        step = STEPS[done[owner]]
        done[owner] += 1
        names.append(f"{owner}.{step}")
        if step == "read":
            seen[owner] = counter
        elif step == "add":
            seen[owner] += 1
        else:
            counter = seen[owner]
    return counter, " ".join(names)


def queue(
    *,
    clients: int | None = None,
    rate_per_s: float | None = None,
    service_ms: float = 10.0,
    stall_at_s: float = 5.0,
    stall_s: float = 2.0,
    duration_s: float = 20.0,
) -> pd.DataFrame:
    """Requests to a server that serves one at a time and once stands still for `stall_s`.

    Give `clients` (closed loop: each sends its next request when its last one ended) or
    `rate_per_s` (open loop: one is due every 1/rate seconds, whatever became of the others).

    Columns: due_s (when the plan wanted it sent), sent_s, end_s, latency_ms (end - sent),
    latency_from_due_ms (end - due). In a closed loop nothing is due before it is sent, so the
    two latencies are equal: that is how the stall is lost.

    Raises:
        SpecError: both or neither of the two are given.

    Example:
        >>> closed = queue(clients=1)
        >>> bool(closed["latency_ms"].max() > 2000)
        True
    """
    if (clients is None) == (rate_per_s is None):
        raise SpecError(
            f"clients={clients}, rate_per_s={rate_per_s}",
            "exactly one of the two",
            "clients makes a closed loop, rate_per_s an open one",
        )
    if rate_per_s is not None:
        due = np.arange(0, duration_s, 1 / rate_per_s)
        waiting = [(float(t), 0) for t in due]
    else:
        waiting = [(0.0, number) for number in range(clients or 0)]
    heapq.heapify(waiting)
    free_s, rows = 0.0, []
    while waiting:
        sent_s, client = heapq.heappop(waiting)
        end_s = _served(max(sent_s, free_s), service_ms / 1e3, stall_at_s, stall_s)
        free_s = end_s
        rows.append((sent_s, sent_s, end_s))
        if rate_per_s is None and end_s < duration_s:
            heapq.heappush(waiting, (end_s, client))
    frame = pd.DataFrame(rows, columns=["due_s", "sent_s", "end_s"])
    frame["latency_ms"] = (frame["end_s"] - frame["sent_s"]) * 1e3
    frame["latency_from_due_ms"] = (frame["end_s"] - frame["due_s"]) * 1e3
    return frame


def _served(start_s: float, service_s: float, stall_at_s: float, stall_s: float) -> float:
    """When a service that begins at `start_s` ends, with the stall in its way or not."""
    resume_s = stall_at_s + stall_s
    if stall_at_s <= start_s < resume_s:
        return resume_s + service_s
    end_s = start_s + service_s
    return end_s + stall_s if start_s < stall_at_s < end_s else end_s


def crash_iterations(chance: float, *, trials: int = 1000, seed: int = 0) -> pd.Series:
    """Requests completed before the crash, if each request crashes with `chance` by itself.

    chance: of one request, above 0 and at most 1. Returns `trials` whole numbers (0 = the first
    request crashed): the geometric distribution, which has no memory.

    Raises:
        SpecError: `chance` is not a chance.

    Example:
        >>> int(crash_iterations(1.0, trials=3).max())
        0
    """
    if not 0 < chance <= 1:
        raise SpecError(f"a chance of {chance}", "above 0 and at most 1", "give a share")
    draws = np.random.default_rng(seed).geometric(chance, trials) - 1
    return pd.Series(draws, name="crash_iteration")


def chance_to_notice(chance: float, trials: int, *, background: float = 0.02) -> float:
    """Power of "one death decides": the chance to see a death in `trials` of a server that dies
    with `chance` a trial, less what a healthy one would show with `background`.

    Example:
        >>> round(chance_to_notice(0.5, 3, background=0.0), 3)
        0.875
    """
    return (1 - (1 - chance) ** trials) - (1 - (1 - background) ** trials)


def open_at(requests: pd.DataFrame, *, step_s: float = 0.01) -> pd.DataFrame:
    """How many requests were open at each moment of one trial.

    requests: kit's requests frame of one trial; reads t_s and end_s (seconds from load start).
    Returns t_s and open (int), every `step_s` seconds from 0 to the last end.
    """
    done = requests.dropna(subset=["t_s", "end_s"])
    moments = np.arange(0, float(done["end_s"].max()), step_s)
    sent = np.searchsorted(np.sort(done["t_s"].to_numpy()), moments, side="right")
    ended = np.searchsorted(np.sort(done["end_s"].to_numpy()), moments, side="right")
    return pd.DataFrame({"t_s": moments, "open": sent - ended})
