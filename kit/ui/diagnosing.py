"""What `kit.diagnose` does: a path, an open file or a text, to a diagnosis that shows itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kit.crash.diagnose import Diagnosis, diagnose, diagnose_file, diagnose_stream
from kit.crash.stack.maps import MemoryMap
from kit.servers.wheels import server_files
from kit.study.releases import get_release
from kit.ui.arguments import wrong
from kit.ui.console import read_text, unreadable

if TYPE_CHECKING:
    from kit.crash.diagnose import ModulesOf
    from kit.ui.cards import DiagnosisCard


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
    from kit.ui.cards import DiagnosisCard

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
