"""Compares deaths and latency of two releases, and says which is worse.

Or of two engines, concurrencies, protocols or studies. Only like is compared with like: one
comparison for each traffic that both had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.hazard import hazard_ratios
from kit.stats.intervals import Interval, rate_ratio
from kit.stats.latency import count_requests, quantile_ratio
from kit.stats.summary import crash_table
from kit.stats.survival import log_rank, log_rank_exact, median_survival, survival_table
from kit.study.grid import COLUMNS
from kit.study.releases import in_order
from kit.study.words import listing

#: What must be the same on both sides, unless it is what is compared: these, and every other field
#: of the traffic that a study varied.
LIKE = tuple(dict.fromkeys(("study", "scenario", "release", "engine", *COLUMNS)))
#: Below this chance, if both sides were alike, one is called worse.
SURE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What was seen of one of the two."""

    name: str
    trials: int
    died: int
    requests: int  # that the servers faced
    half_died_by: float | None  # requests; None: fewer than half died
    answered: int  # requests of the latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sides under the same traffic; ratios are of the first over the second."""

    traffic: str
    first: Side
    second: Side
    crash_rate: Interval | None  # crashes a request; None: none died
    log_rank_p: float | None  # chance if both died alike, exact; None: none died
    median_latency: Interval | None  # None: too few requests, or never answered on both sides


def compare(
    trials: pd.DataFrame,
    requests: pd.DataFrame,
    *,
    by: str = "release",
    levels: Sequence[str] = (),
) -> list[Comparison]:
    """One comparison for each traffic that both levels of `by` had, in the order of the trials.

    trials, requests: kit.stats.frames, with a column "study" if they are of several. levels: the
        two to compare; not needed where there are just two.

    Raises:
        SpecError: not two levels, or one that is not there.
        NotEnoughDataError: they have no traffic in common.
    """
    counted = trials[trials["counted"]]
    first, second = two_levels(counted, by, levels)
    own = requests[requests["trial_id"].isin(counted["trial_id"])]
    like = _like(counted, by)
    found = []
    for key, group in counted.groupby(like, sort=False, observed=True, dropna=False):
        sides = [group[group[by].astype(str) == name] for name in (first, second)]
        if all(len(side) for side in sides):
            seen = [_requests_of(own, side, by) for side in sides]
            varying = [v for c, v in zip(like, key, strict=True) if counted[c].nunique() > 1]
            traffic = " ".join(map(str, varying)) or str(group["scenario"].iloc[0])
            found.append(_comparison(traffic, by, (first, second), sides, seen))
    if not found:
        raise NotEnoughDataError(
            f"no traffic that both {first} and {second} had",
            "the same scenario, engine and concurrency on both sides",
            f"run one of them with what the other had, or compare others than by {by}",
        )
    return found


def two_levels(trials: pd.DataFrame, by: str, levels: Sequence[str]) -> tuple[str, str]:
    """The two levels of `by`, releases the newer one first.

    Raises:
        SpecError: not two, or one that is not there.
    """
    there = [str(level) for level in trials[by].dropna().unique()]
    there = in_order(there)[::-1] if by == "release" else there
    chosen = list(levels) or there
    if len(chosen) != 2 or not set(chosen) <= set(there):
        raise SpecError(
            f"{by} {', '.join(chosen) or 'none'}",
            f"two of {', '.join(there)}",
            f"choose two with --level, or another column than {by}",
        )
    return chosen[0], chosen[1]


def worse_of(found: Comparison) -> tuple[Side, Side] | None:
    """Which side dies more, and the other one; None: that is not sure.

    Server lives decide, by the log-rank test. One life a side (two soaks) tells that test nothing:
    there the crashes a request decide, by their interval.
    """
    a, b, rate = found.first, found.second, found.crash_rate
    if rate is None or found.log_rank_p is None:
        return None
    sure = found.log_rank_p < SURE
    if a.trials == b.trials == 1:
        sure = rate.low > 1 or rate.high < 1
    return ((a, b) if rate.value > 1 else (b, a)) if sure else None


def sentence(found: Comparison) -> str:
    """Which is worse under one traffic, how much, how surely, and what users waited for."""
    a, b = found.first, found.second
    tally = f"{a.died} of {a.trials} servers died against {b.died} of {b.trials}"
    if found.crash_rate is None or found.log_rank_p is None:
        said = f"neither {a.name} nor {b.name} died ({a.trials} and {b.trials} servers)"
    else:
        rate, p = found.crash_rate, f"log-rank p = {found.log_rank_p:.2g}"
        if a.trials == b.trials == 1:
            p = f"one life each, of {a.requests:,} and {b.requests:,} requests"
        worse = worse_of(found)
        how = (
            f"{worse[0].name} is worse than {worse[1].name}"
            if worse is not None
            else f"{a.name} and {b.name} cannot be told apart"
        )
        said = f"{how}: {tally} ({p}), {_times(rate)} as many crashes a request"
        halves = [f"half of {s.name} by {s.half_died_by:,.0f}" for s in (a, b) if s.half_died_by]
        said += f"; died, in requests: {' and '.join(halves)}" if halves else ""
    return f"{found.traffic}: {said}; {_latency(found)}."


def headline(found: Sequence[Comparison]) -> str:
    """Who dies more, where that is sure; else that nothing tells them apart."""
    names = (found[0].first.name, found[0].second.name)
    worse: dict[str, list[str]] = {}
    for one in found:
        if (pair := worse_of(one)) is not None:
            worse.setdefault(pair[0].name, []).append(one.traffic)
    if len(worse) == 1:
        [(name, where)] = worse.items()
        other = next(n for n in names if n != name)
        few = f"{len(where)} of {len(found)} kinds of traffic" if len(where) > 2 else listing(where)
        under = f" under {'all traffic' if len(where) == len(found) > 1 else few}"
        return f"{name} dies more than {other}{under}"
    if worse:
        parts = [f"{name} under {listing(where)}" for name, where in worse.items()]
        return f"Each dies more somewhere: {listing(parts)}"
    died = sum(one.first.died + one.second.died for one in found)
    of = sum(one.first.trials + one.second.trials for one in found)
    if not died:
        return f"Neither {names[0]} nor {names[1]} died in {of} trials"
    whole = "under this traffic" if len(found) == 1 else "under any one traffic"
    return f"{names[0]} and {names[1]} cannot be told apart {whole}"


def on_one_side(
    trials: pd.DataFrame, *, by: str = "release", levels: Sequence[str] = ()
) -> dict[str, list[str]]:
    """What only one of the two had, by its name: traffic that compare() leaves out.

    Raises:
        SpecError: as compare.
    """
    kinds, like = _kinds(trials, by, levels)
    both = pd.DataFrame([key for own in kinds.values() for key in own], columns=like)
    shown = [at for at, name in enumerate(like) if both[name].nunique() > 1]
    shown = shown or [like.index("scenario")]
    first, second = kinds
    return {
        name: sorted({" ".join(key[at] for at in shown) for key in kinds[name] - kinds[other]})
        for name, other in ((first, second), (second, first))
    }


def had_by_both(
    trials: pd.DataFrame, *, by: str = "release", levels: Sequence[str] = ()
) -> pd.DataFrame:
    """The counted trials of both, under traffic that both had.

    Raises:
        SpecError: as compare.
    """
    kinds, like = _kinds(trials, by, levels)
    shared = set.intersection(*kinds.values())
    own = trials[trials["counted"] & trials[by].astype(str).isin(list(kinds))]
    return own[[key in shared for key in _keys(own, like)]]


def _kinds(
    trials: pd.DataFrame, by: str, levels: Sequence[str]
) -> tuple[dict[str, set[tuple[str, ...]]], list[str]]:
    """The kinds of traffic of each of the two, and the columns that make one."""
    counted = trials[trials["counted"]]
    like = _like(counted, by)
    named = counted[by].astype(str)
    return {
        name: set(_keys(counted[named == name], like)) for name in two_levels(counted, by, levels)
    }, like


def _like(trials: pd.DataFrame, by: str) -> list[str]:
    """The columns that have to be the same on both sides."""
    return [column for column in LIKE if column in trials and column != by]


def _keys(trials: pd.DataFrame, like: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(map(str, key)) for key in trials[list(like)].itertuples(index=False)]


def overall(trials: pd.DataFrame, *, by: str = "release", levels: Sequence[str] = ()) -> str:
    """Both over all traffic that they had, each kind compared within itself, in one sentence."""
    counted = trials[trials["counted"]]
    first, second = two_levels(counted, by, levels)
    both = counted[counted[by].astype(str).isin((first, second))].astype({by: "string"})
    kinds = both.groupby(_like(both, by), observed=True, dropna=False).ngroup()
    both, strata = both.assign(_traffic=kinds), ["_traffic"]  # fitted sooner than many columns
    try:
        p = log_rank(both, by=by, strata=strata).p_value
        (row,) = hazard_ratios(both, [by], baselines={by: second}, strata=strata).to_dict("records")
    except NotEnoughDataError as error:
        return f"Over all traffic: nothing can be said ({error.given})."
    ratio = Interval(value=row["ratio"], low=row["low"], high=row["high"])
    drawn = ", drawn towards 1 since one side never died" if row["penalised"] else ""
    return (
        f"Over all traffic: {first} against {second}, stratified log-rank p = {p:.2g}, "
        f"hazard {_times(ratio)} as high{drawn}."
    )


def _requests_of(requests: pd.DataFrame, side: pd.DataFrame, by: str) -> pd.DataFrame:
    own = requests[requests["trial_id"].isin(side["trial_id"])]
    if "study" in own and "study" in side:
        own = own[own["study"].isin(side["study"])]
    return own


def _comparison(
    traffic: str,
    by: str,
    names: tuple[str, str],
    sides: list[pd.DataFrame],
    requests: list[pd.DataFrame],
) -> Comparison:
    first, second = (
        _side(name, side, seen) for name, side, seen in zip(names, sides, requests, strict=True)
    )
    both = pd.concat(sides).astype({by: "string"})
    try:
        crash_rate = rate_ratio(first.died, first.requests, second.died, second.requests)
    except NotEnoughDataError:
        crash_rate = None
    try:
        log_rank_p = log_rank_exact(both, by=by)
    except NotEnoughDataError:
        log_rank_p = None
    try:
        latency = quantile_ratio(requests[0], requests[1])
    except NotEnoughDataError:
        latency = None
    return Comparison(
        traffic=traffic,
        first=first,
        second=second,
        crash_rate=crash_rate,
        log_rank_p=log_rank_p,
        median_latency=latency,
    )


def _side(name: str, trials: pd.DataFrame, requests: pd.DataFrame) -> Side:
    (row,) = crash_table(trials.assign(_all=1), ["_all"]).to_dict("records")
    half = median_survival(survival_table(trials.assign(_all=1), by="_all")).iloc[0]
    return Side(
        name=name,
        trials=row["trials"],
        died=row["crashed"],
        requests=row["requests"],
        half_died_by=None if pd.isna(half) else float(half),
        answered=count_requests(requests, judged=True),
    )


def _latency(found: Comparison) -> str:
    a, b, ratio = found.first, found.second, found.median_latency
    counts = f"n {a.answered:,} and {b.answered:,}"
    if not a.answered and not b.answered:
        return "no latency on record"
    if ratio is None:
        return f"no median latency to compare, {counts}"
    if math.isinf(ratio.value) or not ratio.value:
        lost, other = (b, a) if not ratio.value else (a, b)
        return f"median latency: never on {lost.name}, answered on {other.name}, {counts}"
    return f"median latency {_times(ratio)} as long, {counts}"


def _times(ratio: Interval) -> str:
    """ "1.5 (1.2 to 1.9) times"; an estimate that is 0 or infinite by its bound alone."""
    if ratio.value == math.inf:
        return f"at least {ratio.low:.2g} times"
    if ratio.value == 0:
        return f"at most {ratio.high:.2g} times"
    return f"{ratio.value:.2g} ({ratio.low:.2g} to {ratio.high:.2g}) times"
