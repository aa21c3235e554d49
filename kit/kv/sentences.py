"""Writes sentences about the rows of kit.kv.table; every number in them is computed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kit.kv.advice import trial_advice
from kit.study.folder import StudyFolder
from kit.study.recorded import open_study
from kit.study.words import listing, percent

#: A cache this full counts as full; the last block is often free for a moment.
FULL = 0.995
#: The claim about predicted peaks, of the expected one.
CLOSE = 0.1


def unsaturated(table: pd.DataFrame) -> pd.DataFrame:
    """The trials in which a wrong expectation could show, with `off`: measured / expected - 1.

    Where both are cut off at a full cache they are equal whatever was expected.
    """
    full = (table["expected_peak"] >= FULL) & (table["measured_peak"] >= FULL)
    rows = table[~full & table["measured_peak"].notna()]
    return rows.assign(off=rows["measured_peak"] / rows["expected_peak"] - 1)


def predicted(table: pd.DataFrame) -> str:
    """How well peaks were foreseen, where that could go wrong: same lengths, and varied ones."""
    rows = unsaturated(table)
    parts = []
    if full := len(table) - len(rows):
        parts.append(
            f"In {full} of {len(table)} trials the cache was expected to be full and was, which "
            "says little about the arithmetic."
        )
    same, varied = rows[~rows["varied"]], rows[rows["varied"]]
    if len(same):
        worst = same["off"].abs().max()
        holds = "within" if worst <= CLOSE else "not within"
        others = "others " if full else ""
        parts.append(
            f"In the {len(same)} {others}whose requests are all alike the measured peak is at most "
            f"{worst:.1%} off the expected one, {holds} {percent(CLOSE)}."
        )
    if len(varied):
        close = int((varied["off"].abs() <= CLOSE).sum())
        parts.append(
            f"In the {len(varied)} whose lengths vary it is {_signed(varied['off'].min())} to "
            f"{_signed(varied['off'].max())} off, within {percent(CLOSE)} in {close}: there the "
            "expected peak is an upper estimate, three standard deviations above the mean, which "
            "short runs do not reach."
        )
    return " ".join(parts)


def _signed(fraction: float) -> str:
    return f"{round(fraction, 2) + 0.0:+.0%}"  # no "-0%"


def pressed(table: pd.DataFrame) -> str:
    """Which trials a full cache held up; reaching 100 % and being held up are two things."""
    full = table[table["expected_peak"] >= FULL]
    if full.empty:
        return "No trial was expected to fill its cache."
    limited = full[full["limited"].astype(bool)]
    calm = full[~full["limited"].astype(bool)]
    said = (
        f"The cache was expected to fill in {len(full)} trials; {len(limited)} of them were "
        "KV-limited: requests were preempted, or waited with no room for their prompts."
    )
    if len(calm):
        names = listing([f"`{name}`" for name in calm["trial_id"]])
        said += (
            f" {names} filled it to {listing([percent(p) for p in calm['measured_peak']])} and "
            "held nobody up: a full cache alone is no harm."
        )
    rest = table[(table["expected_peak"] < FULL) & table["limited"].astype(bool)]
    unforeseen = len(rest)
    return said + f" Of the {len(table) - len(full)} others, {unforeseen} were."


def agreed(table: pd.DataFrame) -> str:
    """How far log and metrics agree with the engine's steps, beside what chance would do."""
    rows = table[table["step_peak"].notna()]
    if rows.empty:
        return "No engine here logged its steps, so there is nothing to compare the sources with."
    parts = []
    for source in ("log", "metrics"):
        share, chance = rows[f"{source}_agrees"], rows[f"{source}_chance"]
        parts.append(
            f"the {source} in {percent(share.mean())} of the samples (lowest trial "
            f"{percent(share.min())}; shuffled {percent(chance.mean())})"
        )
    return f"Over {len(rows)} trials of the real engine, its steps confirm {listing(parts)}."


def advice_by_trial(study: StudyFolder | Path) -> str:
    """What each trial's reader should know of its cache, as a Markdown list."""
    lines = []
    for trial in open_study(study).trials():
        advice = trial_advice(trial)
        if advice:
            lines.append(f"- `{trial.spec.trial_id}`")
        lines += [f"    - {'**Note:** ' if row.warning else ''}{row.text}" for row in advice]
    return "\n".join(lines)
