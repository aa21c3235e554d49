"""What a study's last run remarked of itself, in its folder, for whoever looks at it meanwhile.

Hosts of a cluster that differ or were left out, what is waited for, a budget that is used up. Each
run begins anew: a remark of an earlier one may hold no more.
"""

from __future__ import annotations

from pathlib import Path

from kit.errors import KitError
from kit.study.encoding import from_json, to_json
from kit.study.files import read_file, write_whole

FILE = "remarks.json"
MOST_BYTES = 64 * 1024


class Remarks:
    """Keeps the remarks of one run; the file is written when there are more.

    Example:
        >>> kept = Remarks(Path("studies/mine"))  # doctest: +SKIP
        >>> kept.keep(("trials wait for 4 load hosts; 2 are there",))  # doctest: +SKIP
    """

    def __init__(self, study: Path) -> None:
        self._path = study / FILE
        self._kept: tuple[str, ...] = ()
        self._path.unlink(missing_ok=True)

    def keep(self, texts: tuple[str, ...]) -> None:
        """Replace what is kept by `texts`, all remarks of the run so far.

        Raises:
            StoreError: the folder cannot be written.
        """
        if texts != self._kept:
            write_whole(self._path, to_json(texts), durable=False)
            self._kept = texts


def read_remarks(study: Path) -> tuple[str, ...]:
    """The remarks in a study's folder; none if there is no such file, or it cannot be read."""
    try:
        data = read_file(study / FILE, within=study, limit=MOST_BYTES)
        return from_json(data, tuple[str, ...])
    except KitError:
        return ()
