"""Proposes simpler and smaller workloads for the shrinking to try next. Pure.

Simplifications take something out of the mix: a fault, a distribution, turns, steps. Sizes are
numbers of which less is smaller; each is looked for from below, since what is too small is
found out with the fewest trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from kit.load.traffic.draws import quantile, whole_quantile
from kit.study.spec import ArrivalKind, Arrivals, Distribution, DistributionKind, Fault, Workload
from kit.study.spec import fixed as fixed_at

#: A prompt set's own prompts are of many lengths; one of this many words stands for them.
TYPICAL_WORDS = 16
#: A step down, and how near to the largest size that failed the result has to come.
STRIDE, NEAR = 4, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A workload that is less than the one that it was made of, and in what."""

    what: str
    workload: Workload


def without_faults(workload: Workload) -> Iterator[Proposal]:
    """Without any fault, then, if there are several, without each."""
    if workload.faults:
        yield Proposal(what="no faults", workload=replace(workload, faults=()))
    if len(workload.faults) > 1:
        for fault in workload.faults:
            rest = tuple(other for other in workload.faults if other is not fault)
            what = f"without {fault.kind.value}"
            yield Proposal(what=what, workload=replace(workload, faults=rest))


def plain(workload: Workload) -> Iterator[Proposal]:
    """All simplifications at once, then one at a time; those that change something."""
    everything, words = workload, []
    for what, simplify in _SIMPLIFICATIONS:
        simpler = simplify(everything)
        if simpler != everything:
            everything = simpler
            words.append(what)
    if len(words) > 1:
        yield Proposal(what=", ".join(words), workload=everything)
    for what, simplify in _SIMPLIFICATIONS:
        simpler = simplify(workload)
        if simpler != workload:
            yield Proposal(what=what, workload=simpler)


def least(workload: Workload) -> Proposal:
    """Every size at its least, the number of requests left as it is."""
    smallest, words = workload, []
    for size in SIZES:
        if size.read(smallest) not in (None, size.least):
            smallest = size.put(smallest, size.least)
            words.append(size.say(size.least))
    return Proposal(what=", ".join(words), workload=smallest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A number of a workload. `read` gives None where the workload does not have it."""

    one: str  # what 1 of it is called
    many: str
    least: int
    read: Callable[[Workload], int | None]
    put: Callable[[Workload, int], Workload]

    def say(self, value: int) -> str:
        return f"{value} {self.one if value == 1 else self.many}"


def smaller(size: Size, high: int) -> Iterator[int]:
    """Sizes below `high` to try, until one of them will do: the least, then in strides."""
    value = size.least
    while value < high:
        yield value
        value = max(1, value * STRIDE)


def between(low: int, high: int) -> int | None:
    """A size between one that failed and one that will do; None: they are near enough."""
    if high - low <= 1 or high <= NEAR * low:
        return None
    root = math.isqrt(low * high)
    return min(max(root, low + 1), high - 1)


def clients(workload: Workload) -> int | None:
    arrivals = workload.arrivals
    return arrivals.concurrency if arrivals.kind is ArrivalKind.CLOSED else None


def with_clients(workload: Workload, count: int) -> Workload:
    return replace(workload, arrivals=replace(workload.arrivals, concurrency=count))


def say_requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def with_requests(workload: Workload, count: int) -> Workload:
    """`count` requests in all; clients that would send none are dropped."""
    shorter = replace(workload, requests=count)
    now = clients(shorter)
    return shorter if now is None else with_clients(shorter, min(now, count))


def _fixed(distribution: Distribution) -> Distribution:
    """The same length every time: the middle one."""
    if distribution == Distribution():
        return fixed_at(TYPICAL_WORDS)
    if distribution.kind is DistributionKind.FIXED:
        return distribution
    return fixed_at(whole_quantile(distribution, 0.5, 0))


def _fixed_fault(fault: Fault) -> Fault:
    deadline = fault.deadline_s
    if deadline is not None and deadline.kind is not DistributionKind.FIXED:
        deadline = fixed_at(round(quantile(deadline, 0.5), 6))
    return replace(
        fault, after=None if fault.after is None else _fixed(fault.after), deadline_s=deadline
    )


def _in_every_request(workload: Workload) -> Workload:
    if len(workload.faults) != 1:
        return workload
    return replace(workload, faults=(replace(workload.faults[0], fraction=1.0),))


def _closed(workload: Workload) -> Workload:
    arrivals = workload.arrivals
    return replace(workload, arrivals=Arrivals(concurrency=arrivals.concurrency or 16))


_SIMPLIFICATIONS: tuple[tuple[str, Callable[[Workload], Workload]], ...] = (
    ("a closed loop", _closed),
    ("one turn", lambda w: replace(w, turns=1)),
    ("no shared prefix", lambda w: replace(w, shared_prefix_tokens=0)),
    ("plain prompts", lambda w: replace(w, prompt_set=None)),
    ("lengths in words", lambda w: replace(w, tokenizer=None)),
    ("prompts of one length", lambda w: replace(w, prompt_tokens=_fixed(w.prompt_tokens))),
    ("answers of one length", lambda w: replace(w, output_tokens=_fixed(w.output_tokens))),
    ("no warm-up", lambda w: replace(w, warmup_requests=0)),
    ("one process", lambda w: replace(w, processes=1, load_hosts=None)),
    (
        "faults that are all alike",
        lambda w: replace(w, faults=tuple(map(_fixed_fault, w.faults))),
    ),
    ("the fault in every request", _in_every_request),
)


def _length(distribution: Distribution) -> int | None:
    """Of a fixed length; None for the others, which have to be made fixed first."""
    if distribution.kind is not DistributionKind.FIXED or distribution == Distribution():
        return None
    return round(distribution.mean)


def _leaves_after(workload: Workload) -> int | None:
    places = {f.after for f in workload.faults if f.after is not None}
    return _length(next(iter(places))) if len(places) == 1 else None


def _leave_after(workload: Workload, count: int) -> Workload:
    faults = tuple(
        f if f.after is None else replace(f, after=fixed_at(count)) for f in workload.faults
    )
    return replace(workload, faults=faults)


#: In the order in which they are made small: short answers make the trials that follow short.
SIZES: tuple[Size, ...] = (
    Size(
        one="token before the client leaves",
        many="tokens before the client leaves",
        least=1,
        read=_leaves_after,
        put=_leave_after,
    ),
    Size(
        one="token an answer",
        many="tokens an answer",
        least=1,
        read=lambda w: _length(w.output_tokens),
        put=lambda w, n: replace(w, output_tokens=fixed_at(n)),
    ),
    Size(
        one="token a prompt",
        many="tokens a prompt",
        least=1,
        read=lambda w: _length(w.prompt_tokens),
        put=lambda w, n: replace(w, prompt_tokens=fixed_at(n)),
    ),
    Size(
        one="turn",
        many="turns",
        least=1,
        read=lambda w: w.turns,
        put=lambda w, n: replace(w, turns=n),
    ),
    Size(
        one="token of shared prefix",
        many="tokens of shared prefix",
        least=0,
        read=lambda w: w.shared_prefix_tokens,
        put=lambda w, n: replace(w, shared_prefix_tokens=n),
    ),
    Size(one="client", many="clients", least=1, read=clients, put=with_clients),
)
