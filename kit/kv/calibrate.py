"""Fits the pace of the simulated engine to requests that a real engine served.

The traffic of each trial is replayed by the simulated scheduler, and its pace is changed until
the latencies agree, request by request. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kit.errors import NotEnoughDataError
from kit.kv.replay import StepCosts, replay
from kit.study.spec import Engine

#: Fewer latencies than this cannot carry four numbers on a machine with other work.
FEWEST_REQUESTS: Final = 40
#: Errors above this share of a latency count less and less: on a shared machine some steps stall.
SOFT_ERROR: Final = 0.1
#: Change of a cost that shows in the latencies beyond the scheduler's own jumps.
DIFFERENCE: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One closed-loop trial of the real engine, requests in the order in which they were sent."""

    engine: Engine
    concurrency: int
    lengths: Sequence[tuple[int, int]]  # prompt tokens, output tokens
    e2e_ms: NDArray[np.float64]  # NaN = not answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The pace, and how well it explains the latencies that it was fitted to."""

    pace: StepCosts
    median_error_fraction: float  # of |replayed - measured| / measured
    requests: int


def served(requests: pd.DataFrame, engine: Engine) -> list[Served]:
    """The trials in rows of kit.stats.frames.requests_frame.

    Reads trial_id, request, concurrency, prompt_tokens_sent, output_tokens_asked, e2e_ms, ok.
    """
    trials = []
    for _, rows in requests.sort_values("request").groupby("trial_id", observed=True):
        prompts, outputs = rows["prompt_tokens_sent"], rows["output_tokens_asked"]
        trials.append(
            Served(
                engine=engine,
                concurrency=int(rows["concurrency"].iloc[0]),
                lengths=[(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)],
                e2e_ms=rows["e2e_ms"].where(rows["ok"]).to_numpy(np.float64),
            )
        )
    return trials


def fit_pace(trials: Sequence[Served]) -> Fit:
    """Least squares over the logarithms of replayed by measured latency.

    Take trials with prompts of different lengths and at different concurrency: else the costs of
    a step, a sequence and a token cannot be told apart.

    Raises:
        NotEnoughDataError: too few requests, or all of them alike.
    """
    measured = np.concatenate([trial.e2e_ms for trial in trials] or [np.empty(0)])
    answered = np.isfinite(measured)
    _check(trials, int(answered.sum()))

    def errors(log_costs: NDArray[np.float64]) -> NDArray[np.float64]:
        pace = _pace(log_costs)
        replayed = [
            replay(t.lengths, concurrency=t.concurrency, engine=t.engine, pace=pace).e2e_ms
            for t in trials
        ]
        ratios: NDArray[np.float64] = np.concatenate(replayed)[answered] / measured[answered]
        return np.log(ratios)

    steps = np.concatenate([[output for _, output in trial.lengths] for trial in trials])
    step_ms = float(np.nanmin(measured / steps))
    found = least_squares(
        errors,
        x0=np.log([step_ms / 2, step_ms / 20, step_ms / 40, step_ms]),
        loss="soft_l1",
        f_scale=SOFT_ERROR,
        diff_step=DIFFERENCE,
        xtol=1e-3,
        ftol=1e-4,
    )
    return Fit(
        pace=_pace(found.x),
        median_error_fraction=float(np.median(np.abs(np.expm1(errors(found.x))))),
        requests=int(answered.sum()),
    )


def _pace(log_costs: NDArray[np.float64]) -> StepCosts:
    """Costs in ms as logarithms, since none is below 0: a step, a sequence, a token, a request."""
    step, sequence, token, request = np.exp(np.clip(log_costs, -12.0, 12.0)).tolist()
    return StepCosts(
        decode_step_ms=step,
        sequence_step_ms=sequence,
        prefill_tokens_per_s=1e3 / token,
        per_request_ms=request,
    )


def _check(trials: Sequence[Served], answered: int) -> None:
    if answered < FEWEST_REQUESTS:
        raise NotEnoughDataError(
            f"{answered} answered requests",
            f"at least {FEWEST_REQUESTS}",
            "calibrate on more trials or longer ones",
        )
    prompts = {prompt for trial in trials for prompt, _ in trial.lengths}
    if len(prompts) < 2 or len({trial.concurrency for trial in trials}) < 2:
        raise NotEnoughDataError(
            "trials of one prompt length or at one concurrency",
            "different lengths and different concurrency",
            "calibrate on trials that vary both",
        )
