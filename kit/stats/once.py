"""Computes a frame of a study once, and again only when the study's files have changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from pathlib import Path
from weakref import WeakKeyDictionary

import pandas as pd

from kit.study.folder import StudyFolder
from kit.study.recorded import open_study

Frame = Callable[[StudyFolder | Path], pd.DataFrame]

_KEPT: WeakKeyDictionary[StudyFolder, dict[str, tuple[Hashable, pd.DataFrame]]] = (
    WeakKeyDictionary()
)


def computed_once(compute: Frame) -> Frame:
    """`compute`, whose frame is kept with a StudyFolder for as long as that object lives.

    Each caller gets a copy of its own. A study given by its path is opened and read anew.
    """

    @wraps(compute)
    def once(study: StudyFolder | Path) -> pd.DataFrame:
        folder = open_study(study)
        kept = _KEPT.setdefault(folder, {})
        state = folder.state()  # before reading: what is written meanwhile makes it read again
        if compute.__name__ not in kept or kept[compute.__name__][0] != state:
            kept[compute.__name__] = state, compute(folder)
        return kept[compute.__name__][1].copy()

    return once
