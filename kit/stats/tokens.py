"""Tokens that a study's requests had, a trial and a counter a row.

Counts by a server, by a tokenizer and by words are different things: they are never added up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.stats.size import is_large
from kit.stats.trial_keys import trial_columns
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.once import computed_once
from kit.study.recorded import open_study
from kit.study.result import TokensBy

_COLUMNS = ("sent_ns", "end_ns", "tokens_by", "tokens_in", "tokens_out")
_DTYPES = {
    "tokens_by": "string",
    **dict.fromkeys(["requests", "tokens_in", "tokens_out"], "int64"),
    "seconds": "float64",
}


@computed_once
def token_totals(study: StudyFolder | Path) -> pd.DataFrame:
    """One row a trial and a way of counting: the columns that name the trial, and

    tokens_by    kit.study.result.TokensBy
    requests     that were answered well, warm-up included
    tokens_in, tokens_out   of their prompts and answers, together
    seconds      from the first request that was sent to the last that ended, of any outcome

    A trial whose requests no kit counted (recorded by an older one) has no row.

    Example:
        >>> totals = token_totals(study)                        # doctest: +SKIP
        >>> (totals["tokens_out"] / totals["seconds"]).tolist()  # tokens a second
        [812.4]
    """
    opened = open_study(study)
    folders = opened.trials()
    rows, which = [], []
    large = is_large(opened)  # of the whole study, whose files it counts
    for number, folder in enumerate(folders):
        own = _of_trial(folder, large=large)
        rows += own
        which += [number] * len(own)
    heads = trial_columns(opened, folders, np.array(which, np.intp))
    frame = pd.DataFrame(rows, columns=list(_DTYPES)).astype(_DTYPES)
    return pd.concat([heads, frame], axis=1)


def _of_trial(folder: TrialFolder, *, large: bool) -> list[dict[str, object]]:
    first, last = [], []
    parts = []
    for table in folder.parts("requests", _COLUMNS) if large else (folder.requests(),):
        if not large and table["tokens_by"].null_count == table.num_rows:
            return []  # recorded by an older kit, or nothing was answered
        first.append(pc.min(table["sent_ns"]).as_py())
        last.append(pc.max(table["end_ns"]).as_py())
        counted = table.filter(pc.is_valid(table["tokens_by"]))
        sums = [("tokens_in", "count"), ("tokens_in", "sum"), ("tokens_out", "sum")]
        parts.append(counted.group_by("tokens_by").aggregate(sums))
    if not parts:
        return []
    names = ["tokens_in_count", "tokens_in_sum", "tokens_out_sum"]
    whole = pa.concat_tables(parts).group_by("tokens_by").aggregate([(n, "sum") for n in names])
    begin = min((ns for ns in first if ns is not None), default=0)
    end = max((ns for ns in last if ns is not None), default=0)
    found = {row["tokens_by"]: row for row in whole.to_pylist()}
    return [
        {
            "tokens_by": who.value,
            "requests": found[who]["tokens_in_count_sum"],
            "tokens_in": found[who]["tokens_in_sum_sum"],
            "tokens_out": found[who]["tokens_out_sum_sum"],
            "seconds": (end - begin) / 1e9,
        }
        for who in TokensBy
        if who in found
    ]


def token_sentence(study: StudyFolder | Path) -> str:
    """Who counted the tokens of the study's requests, and how many a request there were; "": of
    none are they known."""
    totals = token_totals(study)
    said = []
    for who in TokensBy:
        own = totals[totals["tokens_by"] == who.value]
        if requests := int(own["requests"].sum()):
            tokens_in, tokens_out = (
                own[name].sum() / requests for name in ("tokens_in", "tokens_out")
            )
            many = "1 request" if requests == 1 else f"{requests:,} requests"
            said.append(
                f"{tokens_in:,.1f} in a prompt and {tokens_out:,.1f} in an answer, counted "
                f"{who.phrase} ({many})"
            )
    if not said:
        return ""
    apart = " These are not the same, and not added up." if len(said) > 1 else ""
    return f"Tokens: {'; '.join(said)}.{apart}"
