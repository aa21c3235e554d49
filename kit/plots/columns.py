"""Checks that a plot was given the frame that it draws."""

from __future__ import annotations

import pandas as pd

from kit.errors import SpecError
from kit.study.words import listing

#: Frame that a study gives -> columns by which to recognise it.
FRAMES = {
    "trials": {"verdict", "crashed", "crash_iteration"},
    "requests": {"judged", "ok", "e2e_ms"},
    "tokens": {"gap", "itl_ms"},
    "samples": {"source", "name", "value"},
}


def check_frame(frame: object, wanted: str, columns: tuple[str, ...], *, plot: str) -> None:
    """Refuse what is not the frame that `plot` draws.

    wanted: a key of FRAMES. columns: those that the plot reads.

    Raises:
        SpecError: it is no frame, or one without these columns; says which frame it looks like.
    """
    hint = f"give it study.{wanted}, or a part of its rows"
    if not isinstance(frame, pd.DataFrame):
        raise SpecError(
            f"{plot} of a {type(frame).__name__}", f"the data frame study.{wanted}", hint
        )
    missing = [name for name in columns if name not in frame]
    if missing:
        known = [name for name, signs in FRAMES.items() if signs <= set(frame.columns)]
        looks = f", which looks like study.{known[0]}," if known else ""
        raise SpecError(
            f"{plot} of a frame{looks} without {listing(missing)}", f"study.{wanted}", hint
        )
