"""Which studies are too large for a frame of one row a request."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kit.errors import TooLargeError
from kit.study.files import size_bytes
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.recorded import is_recorded

#: A frame of so many requests takes a gigabyte and more; kit.stats.counted is for larger studies.
MOST_ROWS = 2_000_000
#: Of a request on the disk, at the least: who has fewer bytes than so many a row need not count.
LEAST_BYTES = 4


def is_large(study: StudyFolder) -> bool:
    """Whether the study has more than MOST_ROWS requests."""
    folders = study.trials()
    most = sum(size_bytes(path) for f in folders for path in _request_files(f)) // LEAST_BYTES
    if most <= MOST_ROWS and not is_recorded(study):  # nothing is to be counted
        return False
    return sum(folder.rows("requests") for folder in folders) > MOST_ROWS


def _request_files(folder: TrialFolder) -> Iterable[Path]:
    return (p for kind in ("arrows", "parquet") for p in folder.path.glob(f"requests-*.{kind}"))


def refuse_large(study: StudyFolder, what: str) -> None:
    """Raises: TooLargeError: the study is larger than a frame can be."""
    if is_large(study):
        raise TooLargeError(
            f"{what} of {study.path.name}, which has more than {MOST_ROWS:,} requests",
            "a study, or a part of one, of fewer",
            "ask study.sql(...) for what you need, or take a part: study.where(...); "
            "study.plot_latency() and the report work as they are",
        )
