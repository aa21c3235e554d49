"""What `kit.compare` does: two studies, or two levels of one, under the traffic that both had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kit.report.compare import ComparedStudies, usual_by
from kit.study.folder import StudyFolder
from kit.ui.cards import Comparisons


def compared(
    studies: Sequence[StudyFolder], *, by: str | None, levels: Iterable[str] = ()
) -> Comparisons:
    """Comparisons over one study or several. by: "study", or a column of `trials`; None: the usual.

    Raises:
        SpecError, NotEnoughDataError: as kit.stats.compare.compare.
    """
    return Comparisons(
        ComparedStudies(studies=tuple(studies), by=by or usual_by(studies), levels=tuple(levels))
    )
