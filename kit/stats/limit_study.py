"""What a study that looks for a server's limit has found: its points, the limit, what broke."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kit.errors import NotEnoughDataError, SpecError
from kit.load.worker.client_limited import FORGIVEN_FRACTION
from kit.servers.watch.names import KV_SOURCES, SOURCE_WORDS
from kit.stats.client_limits import client_limits
from kit.stats.frames import requests_frame, samples_frame, token_gaps_frame
from kit.stats.judged import judged_requests, kv_usage
from kit.stats.limit import Estimate, Point, Posterior, design_effect, worst_of
from kit.stats.timings import measured
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.limit import Goals, LimitSearch, LoadKind
from kit.study.result import TrialResult
from kit.study.spec import ServerKind

#: Of a goal for a p95, what may be worse.
TAIL = 0.05
#: A death is worse than any latency: so many observations, all of them bad.
_DEATH = 100
DIED = "the server died"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalPoint:
    """One goal in one trial."""

    trial_id: str
    goal: str  # a field of Goals, or DIED
    point: Point
    value: float  # what was measured: p95 in ms (inf: never answered), or a share
    wanted: float

    @property
    def holds(self) -> bool:
        return self.point.excess <= 0

    @property
    def words(self) -> str:
        """What was measured against what was wanted: "p95 TTFT 812 ms (goal 500 ms)"."""
        return _WORDS[self.goal](self.value, self.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFound:
    """The limit as far as the trials of a study tell, and what they are."""

    search: LimitSearch
    estimate: Estimate
    points: tuple[GoalPoint, ...]
    goodput: tuple[tuple[float, float], ...]  # (load, good answers a second) of each trial
    decided: bool  # the interval is as narrow as was asked for
    #: The goal that broke in most trials above the limit, where it first did.
    broke: GoalPoint | None
    deaths: tuple[float, ...]  # loads at which the server died
    client_limited: int  # trials in which the load generator was the bottleneck
    client_busy: int  # of them, those in which its own work was what kept it
    places: int | None  # sequences that the engine takes at once; None: not known

    @property
    def trials(self) -> int:
        return len({point.trial_id for point in self.points})

    @property
    def table(self) -> pd.DataFrame:
        """One row a trial and goal: load, goal, value, wanted, n, bad, allowed, holds."""
        rows = [
            {
                "trial_id": one.trial_id,
                "load": one.point.load,
                "goal": one.goal,
                "value": one.value,
                "wanted": one.wanted,
                "n": one.point.n,
                "bad": one.point.bad,
                "allowed": one.point.allowed,
                "holds": one.holds,
            }
            for one in self.points
        ]
        columns = ["trial_id", "load", "goal", "value", "wanted", "n", "bad", "allowed", "holds"]
        return pd.DataFrame(rows, columns=columns).sort_values(["load", "goal"], ignore_index=True)


def limit_of(study: StudyFolder) -> LimitFound:
    """The limit that a study's trials tell of.

    Raises:
        SpecError: the study does not look for one.
        NotEnoughDataError: a goal of which nothing was measured.
    """
    search = study.spec.limit
    if search is None:
        raise SpecError(
            f"the limit of {study.path.name}, a study that does not look for one",
            "a study of kit.find_limit",
            "run kit.find_limit(…)",
        )
    ended = [(t, r) for t in study.trials() if (r := t.result) and r.verdict.is_counted]
    points = [one for trial, result in ended for one in goal_points(study, trial, result)]
    posterior = posterior_of(points, search)
    estimate = posterior.estimate()
    broken = [one for one in points if not one.holds and one.point.load > estimate.value]
    limits = client_limits(study)
    engine = study.spec.engines[0]
    is_own = study.spec.servers[0].kind is not ServerKind.ATTACHED
    busy = limits["busy_fraction"].fillna(0) > FORGIVEN_FRACTION
    return LimitFound(
        search=search,
        estimate=estimate,
        points=tuple(points),
        goodput=tuple((load_of(t, search), _goodput(study, t, search.goals)) for t, _ in ended),
        decided=bool(points) and posterior.is_decided(search.within),
        broke=first_to_break(broken),
        deaths=tuple(load_of(t, search) for t, r in ended if r.verdict.is_death),
        client_limited=int(limits["limited"].sum()),
        client_busy=int((limits["limited"] & busy).sum()),
        places=engine.max_sequences if is_own and engine.has_known_cache else None,
    )


def first_to_break(broken: Sequence[GoalPoint]) -> GoalPoint | None:
    """Of the goals that broke above the limit, the one that did so in most trials.

    A goal that breaks first is broken at all higher loads too; one that broke by chance is not.
    """
    often = Counter(one.goal for one in broken)
    at_least = [one for one in broken if often[one.goal] == max(often.values())]
    return min(at_least, key=lambda one: (one.point.load, -one.point.excess), default=None)


def posterior_of(points: Sequence[GoalPoint], search: LimitSearch) -> Posterior:
    """What the trials tell of the limit; each by the goal that is nearest to breaking."""
    of_trial: dict[str, list[Point]] = {}
    for one in points:
        of_trial.setdefault(one.trial_id, []).append(one.point)
    return Posterior(
        [own[worst_of(own)] for own in of_trial.values()],
        low=search.low,
        high=search.high,
        is_whole=search.by is LoadKind.CONCURRENCY,
    )


def load_of(trial: TrialFolder, search: LimitSearch) -> float:
    """The load of a trial: clients, or requests a second."""
    workload = trial.spec.workload
    load = workload.concurrency if search.by is LoadKind.CONCURRENCY else workload.rate
    return float(load or math.nan)


def goal_points(study: StudyFolder, trial: TrialFolder, result: TrialResult) -> list[GoalPoint]:
    """What one trial says of each goal.

    Raises:
        NotEnoughDataError: the server does not tell what a goal is about.
    """
    search = study.spec.limit
    assert search is not None
    load, name = load_of(trial, search), trial.spec.trial_id
    points = []
    if result.verdict.is_death:
        dead = Point(load=load, bad=1.0, allowed=TAIL, n=_DEATH)
        points.append(GoalPoint(trial_id=name, goal=DIED, point=dead, value=1.0, wanted=0.0))
    part = study.only([name])
    judged = judged_requests(requests_frame(part), {name} if result.verdict.is_death else ())
    for goal, wanted, allowed, values in _observed(part, judged, search.goals):
        if not values.size:
            if points:
                continue  # it died before anything of the kind
            raise _untold(goal, trial)
        bad = ~(values <= (0.5 if goal == "failed" else wanted))
        value = float(bad.mean()) if goal == "failed" else _p95(values)
        points.append(
            GoalPoint(
                trial_id=name,
                goal=goal,
                point=Point(
                    load=load,
                    bad=float(bad.mean()),
                    allowed=allowed,
                    n=bad.size,
                    design_effect=design_effect(bad),
                ),
                value=value,
                wanted=wanted,
            )
        )
    return points


def _observed(
    study: StudyFolder, judged: pd.DataFrame, goals: Goals
) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """(goal, what is wanted, share that may be worse, values in the order of time)."""
    ok = judged["ok"].to_numpy(bool)
    if goals.p95_ttft_ms is not None:
        yield "p95_ttft_ms", goals.p95_ttft_ms, TAIL, np.where(ok, _first_ms(judged), np.inf)
    if goals.p95_itl_ms is not None:
        gaps = token_gaps_frame(study)["itl_ms"].to_numpy(float)
        yield "p95_itl_ms", goals.p95_itl_ms, TAIL, gaps
    if goals.p95_e2e_ms is not None:
        whole = judged[measured(judged)].to_numpy(float) if len(judged) else np.empty(0)
        yield "p95_e2e_ms", goals.p95_e2e_ms, TAIL, np.where(ok, whole, np.inf)
    if goals.failed is not None:
        yield "failed", goals.failed, goals.failed, (~ok).astype(float)
    if goals.kv is not None:
        usage = kv_usage(samples_frame(study))
        yield "kv", goals.kv, TAIL, usage[usage["t_s"] >= 0]["value"].to_numpy(float)


def _first_ms(judged: pd.DataFrame) -> np.ndarray:
    """Time to the first token; open loop: from when the request was due."""
    first = judged["first_byte_ms"].to_numpy(float)
    waited = np.where(judged["open_loop"].to_numpy(bool), judged["dispatch_ms"], 0.0)
    return np.asarray(first + waited)


def _goodput(study: StudyFolder, trial: TrialFolder, goals: Goals) -> float:
    """Right answers a second that meet the goals for a request (TTFT, latency)."""
    name = trial.spec.trial_id
    judged = judged_requests(requests_frame(study.only([name])), {name})
    if judged.empty:
        return 0.0
    good = judged["ok"].to_numpy(bool).copy()
    if goals.p95_ttft_ms is not None:
        good &= _first_ms(judged) <= goals.p95_ttft_ms
    if goals.p95_e2e_ms is not None:
        good &= judged[measured(judged)].to_numpy(float) <= goals.p95_e2e_ms
    seconds = float(judged["end_s"].max() - judged["t_s"].min())
    return float(good.sum()) / seconds if seconds > 0 else 0.0


def _p95(values: np.ndarray) -> float:
    """The smallest value with at least 95 % at or below it."""
    ordered = np.sort(values)
    return float(ordered[math.ceil(0.95 * ordered.size - 1e-9) - 1])


def _untold(goal: str, trial: TrialFolder) -> NotEnoughDataError:
    if goal == "kv":
        sources = ", ".join(SOURCE_WORDS[source] for source in KV_SOURCES)
        return NotEnoughDataError(
            "a goal for KV usage of a server that does not export it",
            f"KV usage from one of: {sources}",
            "leave out kv, or give metrics_url",
        )
    return NotEnoughDataError(
        f"a goal {goal} in {trial.spec.trial_id}, in which nothing of the kind was measured"
        + (f": {trial.result.reason}" if trial.result else ""),
        "one answered request or more (ITL: of two tokens or more)",
        "check the server, the protocol and output_tokens",
    )


def _ms(name: str, value: float, wanted: float) -> str:
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    seen = "never" if math.isinf(value) else f"{shown} ms"
    return f"p95 {name} {seen} (goal {wanted:g} ms)"


def _share(name: str, value: float, wanted: float) -> str:
    return f"{name} {100 * value:.3g} % (goal {100 * wanted:g} %)"


_WORDS = {
    "p95_ttft_ms": lambda value, wanted: _ms("TTFT", value, wanted),
    "p95_itl_ms": lambda value, wanted: _ms("ITL", value, wanted),
    "p95_e2e_ms": lambda value, wanted: _ms("latency", value, wanted),
    "failed": lambda value, wanted: _share("failed", value, wanted),
    "kv": lambda value, wanted: _share("p95 KV usage", value, wanted),
    DIED: lambda value, wanted: DIED,
}
