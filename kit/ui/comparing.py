"""What `kit.compare` does: two studies, or two levels of one, under the traffic that both had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from kit.stats.compare import compare
from kit.ui.cards import Comparisons

if TYPE_CHECKING:
    from kit.ui.study_view import Study


def compared(studies: Sequence[Study], *, by: str, levels: Iterable[str] = ()) -> Comparisons:
    """Comparisons over one study or several. by: "study", or a column of `trials`.

    Raises:
        SpecError, NotEnoughDataError: as kit.stats.compare.compare.
    """
    names = [study.name for study in studies]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    trials, requests = (
        pd.concat(
            [
                _named(getattr(study, frame), name, by)
                for study, name in zip(studies, names, strict=True)
            ],
            ignore_index=True,
        )
        for frame in ("trials", "requests")
    )
    return Comparisons(compare(trials, requests, by=by, levels=list(levels)))


def _named(frame: pd.DataFrame, study: str, by: str) -> pd.DataFrame:
    """The frame with its study's name: as a column to compare by, else before its trials' names.

    A column `study` would keep trials of different studies apart, which are to be compared.
    """
    if by == "study":
        return frame.assign(study=study)
    return frame.assign(trial_id=study + "/" + frame["trial_id"].astype("string"))
