"""What was found of a server's limit, in sentences, and the setting that is safe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from kit.errors import NotEnoughDataError
from kit.plots.limit import plot_limit
from kit.report.figures import WIDTH_IN, Drawing
from kit.stats.limit_study import DIED, GoalPoint, LimitFound, limit_of
from kit.study.folder import StudyFolder
from kit.study.limit import LoadKind
from kit.study.words import listing

_UNITS = {
    LoadKind.CONCURRENCY: ("concurrent client", "concurrent clients"),
    LoadKind.RATE: ("request a second", "requests a second"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSection:
    """What a report says of a limit."""

    headline: str
    advice: tuple[str, ...]
    drawing: Drawing


def limit_section(study: StudyFolder, note: str) -> LimitSection | None:
    """Of a study that looks for a limit; None: it does not, or a goal was not measured."""
    if study.spec.limit is None:
        return None
    try:
        found = limit_of(study)
    except NotEnoughDataError:
        return None
    if not found.points:
        return None
    return LimitSection(
        headline=limit_sentence(found),
        advice=(*limit_remarks(found), *limit_advice(found)),
        drawing=Drawing(
            name="limit",
            caption="What was measured, as a multiple of its goal, against load.",
            plot=partial(draw_limit, found),
            size_in=(WIDTH_IN, 4.4),
            note=note,
        ),
    )


def limit_sentence(found: LimitFound) -> str:
    """The answer: the limit with its interval, what broke first, and what that rests on."""
    search, estimate = found.search, found.estimate
    if not found.points:
        return "No trial has told anything yet."
    if estimate.is_below:
        said = (
            f"The goals ({search.goals.words}) hold at no load from {_load(found, search.low)} on"
        )
    elif estimate.is_above:
        said = f"The goals ({search.goals.words}) still hold at {_load(found, search.high)}"
    else:
        said = (
            f"The goals ({search.goals.words}) hold up to {_load(found, estimate.value)} "
            f"({_interval(found)} at 95 %)"
        )
    broke = ""
    if found.broke is not None:
        broke = f"; first to break, at {found.broke.point.load:g}: {found.broke.words}"
    trials = "1 trial" if found.trials == 1 else f"{found.trials} trials"
    return f"{said}{broke}. {trials}{'' if found.decided else ', not decided yet'}."


def limit_remarks(found: LimitFound) -> list[str]:
    """What else has to be known: deaths, a client at its own limit, what a trial was."""
    remarks = []
    if found.deaths:
        loads = ", ".join(f"{load:g}" for load in sorted(found.deaths))
        remarks.append(
            f"The server died in {len(found.deaths)} of {found.trials} trials, at {loads}. A crash "
            "that comes at every load is no limit: look at study.crashes first."
        )
    if found.client_busy:
        remarks.append(
            f"The load generator itself was at its limit in {found.client_busy} of "
            f"{found.trials} trials: the server may take more. Give processes=2 or more."
        )
    if waited := found.client_limited - found.client_busy:
        remarks.append(
            f"In {waited} of {found.trials} trials the load generator had to wait for a processor, "
            "though it had little to do: others used all of them, which may be the server itself. "
            "What it measured has that in it. Send from another machine, or stop what else runs "
            "here; more processes do not help."
        )
    if contradiction := _contradiction(found):
        remarks.append(contradiction)
    if found.search.by is LoadKind.RATE:
        remarks.append(
            f"A trial has {found.search.requests:,} requests: a queue that grows more slowly than "
            "they show is not seen. A longer trial (requests) finds it."
        )
    return remarks


def _contradiction(found: LimitFound) -> str:
    """Goals that held at a load where, or above which, they broke in another trial; "": none."""
    said = []
    for goal in dict.fromkeys(one.goal for one in found.points):
        own = [one for one in found.points if one.goal == goal]
        held = max((one.point.load for one in own if one.holds), default=0.0)
        broken = min((one for one in own if not one.holds), key=_load_of, default=None)
        if broken is not None and broken.point.load <= held:
            said.append(f"{broken.words} broke at {broken.point.load:g} and held at {held:g}")
    if not said:
        return ""
    return (
        f"Trials contradict each other: {listing(said)}. The interval allows for it; on a machine "
        "with nothing else to do it is narrower."
    )


def _load_of(one: GoalPoint) -> float:
    return one.point.load


def limit_advice(found: LimitFound) -> list[str]:
    """The setting that is safe, by what broke first; nothing where no limit was found."""
    estimate, by = found.estimate, found.search.by
    if not found.points or estimate.is_above:
        return []
    if estimate.is_below:
        return [
            "Lower what one request costs (shorter prompts and answers, a smaller model), or relax "
            "the goals: no setting of the queue helps at the lowest load."
        ]
    safe = estimate.low if estimate.low > 0 else estimate.value
    number = f"{math.floor(safe):g}" if by is LoadKind.CONCURRENCY else f"{safe:.3g}"
    advice = [
        f"Let at most {number} {_UNITS[by][1]} in, the lower end of the interval, and turn the "
        "rest away in front of the server (a proxy's limit), or start another instance."
    ]
    goal = None if found.broke is None else found.broke.goal
    clients = math.floor(safe) if by is LoadKind.CONCURRENCY else None
    if goal in ("p95_ttft_ms", "p95_e2e_ms") and clients and clients < (found.places or 0):
        advice.append(
            f"No request waits for a place: the engine takes {found.places} sequences at once, so "
            "a higher max_num_seqs changes nothing. Its processor or GPU is what is full: a faster "
            "one, shorter prompts or answers, or another instance."
        )
    elif goal in ("p95_ttft_ms", "p95_e2e_ms"):
        advice.append(
            "Requests wait before their first token. Triton: bound the queue (dynamic_batching "
            "default_queue_policy with max_queue_size and default_timeout_microseconds, timeout_"
            "action REJECT), and raise instance_group count where the processor or GPU has room; "
            "vLLM: raise max_num_seqs if KV usage is low."
        )
    elif goal == "p95_itl_ms":
        at = "" if clients is None else f" to {clients}"
        advice.append(
            f"Steps get too long with so many sequences. vLLM: lower max_num_seqs{at}, and "
            "max_num_batched_tokens so that prefills are cut smaller; more requests then wait, so "
            "watch TTFT."
        )
    elif goal == "kv":
        at = "" if clients is None else f" of {clients}"
        advice.append(
            f"The KV cache is full. vLLM: a max_num_seqs{at}, a smaller max_model_len or a higher "
            "gpu_memory_utilization; beyond it sequences are preempted and computed again."
        )
    elif goal == DIED:
        advice.append("Find out what it died of before you raise the load: study.crashes.")
    elif goal == "failed":
        advice.append("See why requests failed: study.requests, columns outcome and cause.")
    return advice


def draw_limit(found: LimitFound, ax: Axes) -> Axes:
    """The picture: goals and goodput against load, the limit marked."""
    goodput = pd.DataFrame(list(found.goodput), columns=["load", "good_per_s"])
    return plot_limit(
        found.table,
        ax,
        by=found.search.by.value,
        goodput=goodput,
        limit=found.estimate.value,
        low=found.estimate.low,
        high=found.estimate.high,
        title=_title(found),
    )


def _title(found: LimitFound) -> str:
    estimate = found.estimate
    if estimate.is_below:
        return f"No load from {found.search.low:g} on meets the goals"
    if estimate.is_above:
        return f"The goals hold at {_load(found, found.search.high)}, the highest tried"
    broke = f"; then {found.broke.words}" if found.broke else ""
    return f"The goals hold up to {_load(found, estimate.value)}{broke}"


def _load(found: LimitFound, load: float) -> str:
    one, many = _UNITS[found.search.by]
    return f"{_number(load)} {one if load == 1 else many}"


def _number(load: float) -> str:
    """Clients are whole; of a rate three digits are more than is known."""
    return f"{load:,.0f}" if load == round(load) else f"{load:.3g}"


def _interval(found: LimitFound) -> str:
    low, high = found.estimate.low, found.estimate.high
    first = "fewer" if low == 0 else _number(low)
    last = "more" if math.isinf(high) else _number(high)
    return f"{first} to {last}"
