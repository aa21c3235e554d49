"""Frames in, sentences of a notebook as Markdown out; computed, so that they cannot go stale."""

from __future__ import annotations

import pandas as pd

from kit.plots.titles import listing
from kit.report.text import frame_text, signatures
from kit.store import StudyFolder
from kit.watch.names import KV_USAGE


def where_they_died(study: StudyFolder, trials: pd.DataFrame) -> str:
    """How many deaths share a signature, and the stack of the commonest, without addresses."""
    seen = signatures(study, trials)
    if not seen:
        return "No server died, so there is no stack to read."
    deaths, texts = sum(s.trials for s in seen), {s.text for s in seen}
    if len(texts) == 1:
        said = f"All {deaths} deaths are *{seen[0].text}*."
        if len(seen) > 1:
            said += f" Offsets differ from build to build, which makes {len(seen)} signatures."
    else:
        said = f"{seen[0].trials} of {deaths} deaths are *{seen[0].text}*."
    stack = "\n".join(frame_text(frame) for frame in seen[0].frames)
    return f"{said} The stack in {seen[0].where}:\n\n```\n{stack}\n```\n"


def cache_verdict(samples: pd.DataFrame, trials: pd.DataFrame) -> str:
    """Whether a full KV cache can be what killed servers: those that died against the others."""
    usage = samples[samples["name"] == KV_USAGE]
    peaks = usage.groupby("trial_id", observed=True)["value"].max()
    died = set(trials.loc[trials["crashed"], "trial_id"])
    lived = set(trials.loc[trials["counted"] & ~trials["crashed"], "trial_id"])
    of_dead, of_living = peaks[peaks.index.isin(died)], peaks[peaks.index.isin(lived)]
    if of_dead.empty:
        return "No server that exported its KV usage died, so nothing here speaks for the cache."
    if of_living.empty:
        return f"Servers died at up to {of_dead.max():.0%}; none survived to compare them with."
    both = (
        f"{of_dead.min():.0%} to {of_dead.max():.0%} in servers that died "
        f"and {of_living.min():.0%} to {of_living.max():.0%} in servers that lived"
    )
    if of_dead.min() < of_living.max():
        return (
            f"Usage peaked at {both}: "
            "servers died with room that others had used, so a full cache is not what it takes."
        )
    return f"Usage peaked at {both}: this traffic cannot tell the cache from other causes."


def compared(trials: pd.DataFrame, recorded: pd.DataFrame) -> str:
    """Whether the releases that both studies ran crashed in both, scenario by scenario."""
    here, there = _crashed(trials), _crashed(recorded)
    both = here.index.intersection(there.index)
    if both.empty:
        return "The recorded study has no cell in common with this one to compare."
    differ = [cell for cell in both if here[cell] != there[cell]]
    if not differ:
        return f"In all {len(both)} cells that the recorded study shares, the outcome is the same."
    cells = listing([f"{release} under {scenario}" for release, scenario in differ])
    return f"It differs from the recorded one in {cells}: more repeats tell chance from change."


def _crashed(trials: pd.DataFrame) -> pd.Series:
    counted = trials[trials["counted"]]
    return counted.groupby(["release", "scenario"], observed=True)["crashed"].any()
