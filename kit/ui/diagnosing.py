"""What `kit.diagnose` does: a path, an open file or a text, to a diagnosis that shows itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from kit.cleaning import clean_text, safe_html
from kit.crash.diagnose import Diagnosis, diagnose, diagnose_file, diagnose_stream
from kit.crash.match import best_of
from kit.crash.stack.maps import MemoryMap
from kit.servers.wheels import server_files
from kit.study.releases import get_release
from kit.ui.arguments import wrong
from kit.ui.cards import card, known_html, known_text, stack_html, stack_text, wrapped
from kit.ui.console import read_text, unreadable

if TYPE_CHECKING:
    from kit.crash.diagnose import ModulesOf


class DiagnosisCard(Diagnosis):
    """What a log tells of a death, as `kit.diagnose` returns it; fields as in Diagnosis.

    `summary` and `advice` are sentences; `matches` known crashes, best first; `stack` the frames
    from the fault outward.
    """

    __slots__ = ()

    @classmethod
    def of(cls, found: Diagnosis) -> Self:
        return cls(**{field.name: getattr(found, field.name) for field in fields(found)})

    def _repr_html_(self) -> str:
        return card(
            f"<b>{safe_html(self.summary)}</b>",
            stack_html(self.stack),
            known_html(best_of(self.matches)),
            f"<b>What to do.</b> {safe_html(self.advice)}",
        )

    def __repr__(self) -> str:
        lines = [*wrapped(self.summary, indent=""), *stack_text(self.stack)]
        return clean_text("\n".join([*lines, *known_text(best_of(self.matches), self.advice)]))


def diagnosed(
    log: str | Path | BinaryIO,
    *,
    release: str | None,
    maps: str | Path | None,
    symbols: bool,
) -> DiagnosisCard:
    """The diagnosis, as kit.diagnose describes it.

    Raises:
        StoreError, SpecError, UnknownReleaseError: as kit.diagnose.
    """
    return DiagnosisCard.of(_diagnosis(log, release, maps, _modules_of if symbols else None))


def _diagnosis(
    log: str | Path | BinaryIO,
    release: str | None,
    maps: str | Path | None,
    modules_of: ModulesOf | None,
) -> Diagnosis:
    memory = MemoryMap.parse(read_text(Path(maps))) if maps is not None else None
    if isinstance(log, str) and "\n" in log:
        return diagnose(log, believed_release=release, maps=memory, modules_of=modules_of)
    if isinstance(log, str | Path):
        path = Path(log).expanduser()
        beside = path.with_name("server.maps")  # as in a trial folder
        if memory is None and beside.exists():
            memory = MemoryMap.parse(read_text(beside))
        try:
            return diagnose_file(path, believed_release=release, maps=memory, modules_of=modules_of)
        except OSError as error:
            raise unreadable(path, error) from error
    if hasattr(log, "read"):
        return diagnose_stream(log, believed_release=release, maps=memory, modules_of=modules_of)
    raise wrong("log", log, "a file's path, an open file or a log's text", "give one of them")


def _modules_of(release: str) -> Path:
    return server_files(get_release(release)).root
