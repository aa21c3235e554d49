"""The last seconds before a server died: one row a request, coloured by how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kit.errors import NotEnoughDataError, SpecError
from kit.plots.axes import key
from kit.plots.style import DEATH, INK
from kit.plots.titles import set_title
from kit.study.result import Outcome
from kit.study.words import milliseconds

#: More rows than these cannot be told apart at half size.
MOST_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How requests of one outcome are drawn; the mark tells them apart without colour."""

    word: str
    colour: str
    mark: str  # matplotlib marker at the end of the row
    sign: str  # the same in a line of text
    width: float = 3.2


FAILED = "#793b82"
LOOKS = {
    Outcome.OK: Look(word="answered", colour="#0c82bf", mark="|", sign="┃"),
    Outcome.DISCONNECTED: Look(word="we left", colour="#739d8f", mark="<", sign="◀"),
    Outcome.IN_FLIGHT: Look(word="open at death", colour=DEATH, mark="X", sign="✕", width=4.4),
    Outcome.RESET: Look(word="connection reset", colour=FAILED, mark="x", sign="×"),
    Outcome.REFUSED: Look(word="refused", colour=FAILED, mark="o", sign="○"),
    Outcome.TIMEOUT: Look(word="timed out", colour=FAILED, mark="s", sign="■"),
    Outcome.HTTP_ERROR: Look(word="error answered", colour=FAILED, mark="^", sign="▲"),
    Outcome.MALFORMED: Look(word="malformed", colour=FAILED, mark="v", sign="▼"),
    Outcome.WRONG_ANSWER: Look(word="wrong answer", colour=FAILED, mark="D", sign="◆"),
}


def plot_last_seconds(
    requests: pd.DataFrame,
    trials: pd.DataFrame,
    ax: Axes,
    *,
    gaps: pd.DataFrame | None = None,
    seconds: float | None = None,
    rows: int = MOST_ROWS,
) -> Axes:
    """A row for each of the last requests of one server that died, against seconds before death.

    requests: kit.stats.frames.requests_frame; reads trial_id, request, outcome, t_s, end_s,
        first_byte_ms. trials: kit.stats.frames.trials_frame, of which one row is drawn: the only
        one, or the first that died. gaps: kit.stats.frames.token_gaps_frame; None: tokens after
        the first are not drawn. seconds: how far back; None: as far as the last `rows` requests.
    A bar runs from sent to ended, a light tick is the first token (or byte), small ticks are
    tokens; the mark at its end and its colour say how it ended. Requests that could not be sent
    at all, since nothing listened any more, have no row; the key counts them.

    Raises:
        SpecError: no trial in `trials` died.
        NotEnoughDataError: none of its requests is on record.
    """
    life = requests_before_death(requests, trials, gaps=gaps, seconds=seconds, rows=rows)
    shown, sent, died_s = life.shown, life.sent, life.died_s
    for y, row in enumerate(shown.to_dict("records")):
        _draw_row(ax, y, row, died_s, life.tokens_s.get(row["request"], []))
    ax.axvline(0.0, color=DEATH, lw=1.6, gid="death")
    first = float((shown["t_s"] - died_s).min())
    left = -seconds if seconds is not None else first
    ax.set_xlim(left - 0.02 * abs(left), 0.03 * abs(left))
    ax.set_ylim(len(shown) - 0.3, -0.7)
    numbers = shown["request"].tolist()
    step = max(1, len(numbers) // 10)
    ax.set_yticks(range(0, len(numbers), step), [f"#{n}" for n in numbers[::step]])
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(f"last {len(shown)} of {len(sent)} requests sent")
    seen = [Outcome(o) for o in shown["outcome"].unique()]
    words = [f"{LOOKS[o].sign} {LOOKS[o].word}" for o in LOOKS if o in seen]
    began = bool(shown["first_byte_ms"].notna().any())
    key(
        ax,
        "seconds before the server died",
        "   ".join([*words, *(["¦ first token or byte"] if began else [])]),
        f"{life.refused} more could not be sent: nothing listened any more" if life.refused else "",
    )
    set_title(ax, last_seconds_title(life))
    return ax


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRequests:
    """The requests of one server that died, up to its death."""

    release: str
    died_s: float  # of the trial's clock
    sent: pd.DataFrame  # all that were sent, in order
    shown: pd.DataFrame  # the last of them
    tokens_s: dict[int, list[float]]  # of each shown: when its tokens after the first came
    refused: int  # could not be sent


def requests_before_death(
    requests: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    gaps: pd.DataFrame | None = None,
    seconds: float | None = None,
    rows: int = MOST_ROWS,
) -> LastRequests:
    """What plot_last_seconds draws, with its arguments and errors; token times before death."""
    trial = _death(trials)
    died_s = float(trial["time_to_death_s"])
    own = requests[requests["trial_id"].astype(str) == str(trial["trial_id"])]
    sent = own[own["t_s"].notna()].sort_values(["t_s", "request"], kind="stable")
    ended = sent["end_s"].fillna(died_s).clip(upper=died_s)
    back = seconds if seconds is not None else np.inf
    shown = sent[(ended >= died_s - back) & (sent["t_s"] <= died_s)].tail(rows)
    if shown.empty:
        raise NotEnoughDataError(
            f"no request of {trial['trial_id']} on record before its death",
            "one or more",
            "open a study that keeps its requests, or look further back",
        )
    return LastRequests(
        release=str(trial["release"]),
        died_s=died_s,
        sent=sent,
        shown=shown,
        tokens_s=_token_times(shown, gaps, died_s),
        refused=int((~own["t_s"].notna()).sum()),
    )


def _death(trials: pd.DataFrame) -> dict[Any, Any]:
    died = trials[trials["crashed"] & trials["time_to_death_s"].notna()]
    if died.empty:
        raise SpecError(
            "trials of which none died", "one server that died", "choose one of study.crashes"
        )
    return died.iloc[0].to_dict()


def _draw_row(ax: Axes, y: int, row: dict[Any, Any], died_s: float, tokens: list[float]) -> None:
    look = LOOKS[Outcome(row["outcome"])]
    begin = float(row["t_s"]) - died_s
    end = float(row["end_s"]) - died_s if row["end_s"] == row["end_s"] else 0.0
    end = 0.0 if row["outcome"] == Outcome.IN_FLIGHT else end
    gid = f"{row['outcome']} {row['request']}"
    ax.plot([begin, end], [y, y], color=look.colour, lw=look.width, solid_capstyle="butt", gid=gid)
    if row["first_byte_ms"] == row["first_byte_ms"]:
        at = begin + float(row["first_byte_ms"]) / 1e3
        ax.plot(at, y, marker="|", ms=8, mew=1.6, color="white", ls="none")
        ax.plot(at, y, marker="|", ms=8, mew=0.7, color=INK, ls="none", gid=f"first {gid}")
    if tokens:
        ax.plot(tokens, [y] * len(tokens), ls="none", marker="|", ms=4, mew=0.6, color=INK,
                gid=f"tokens {gid}")  # fmt: skip
    hollow = look.mark in "os"
    ax.plot(
        end,
        y,
        marker=look.mark,
        ms=7.5 if look.mark == "X" else 6,
        mew=0.8 if look.mark == "X" else 1.6,
        mec=INK if look.mark == "X" else look.colour,
        mfc="none" if hollow else look.colour,
        color=look.colour,
        ls="none",
        zorder=4,
        gid=f"end {gid}",
    )


def _token_times(
    shown: pd.DataFrame, gaps: pd.DataFrame | None, died_s: float
) -> dict[int, list[float]]:
    """Of each request: seconds before death at which its tokens after the first came."""
    if gaps is None or gaps.empty:
        return {}
    trial = str(shown["trial_id"].iloc[0])
    own = gaps[(gaps["trial_id"].astype(str) == trial) & gaps["request"].isin(shown["request"])]
    first = (shown["t_s"] + shown["first_byte_ms"] / 1e3 - died_s).set_axis(shown["request"])
    return {
        int(str(request)): list(
            float(first[request]) + group.sort_values("gap")["itl_ms"].cumsum() / 1e3
        )
        for request, group in own.groupby("request")
    }


def last_seconds_title(life: LastRequests) -> str:
    """How many were open at the death, and how long before it the last answer came."""
    outcome, end_s = life.sent["outcome"], life.sent["end_s"]
    open_ = int((outcome == Outcome.IN_FLIGHT.value).sum())
    verb = "request was" if open_ == 1 else "requests were"
    said = f"{open_} {verb} open when {life.release} died"
    answers = end_s[(outcome == Outcome.OK.value) & (end_s <= life.died_s)]
    if answers.empty:
        return f"{said}; no answer had come"
    before_ms = 1e3 * (life.died_s - answers.max())
    return f"{said}; the last answer came {milliseconds(before_ms)} before"
