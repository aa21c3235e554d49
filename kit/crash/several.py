"""Diagnoses a folder of logs: what each server's log tells, and which died first.

The files of one log, rotated by logrotate, Docker or a container runtime, are read one behind
the other, the oldest first. Each pod or container has a log of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from kit.crash.diagnose import Diagnosis, ModulesOf, diagnose_chunks
from kit.crash.log.lines import split_lines
from kit.crash.log.source import chunks_of_file
from kit.crash.stack.maps import MemoryMap
from kit.errors import LogError

MOST_FILES = 1000
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})
_LOGS = re.compile(
    r"(?:^|[._\-])(?:log|logs|txt|out|err|stdout|stderr|json|jsonl|ndjson|csv)(?:$|[._\-])"
)
#: What rotation adds to a name: ".1", "-20260203", ".2026-02-03", "-1700000000", ".old".
_ROTATED = re.compile(
    r"(?:[.\-_](?P<number>\d{1,3})|[.\-_](?P<date>20\d\d-?\d\d-?\d\d(?:[T_\-]?\d{2,6})?|\d{10})"
    r"|[.\-_](?P<old>old|prev|previous))$"
)
#: So far around a death its time is looked for.
_NEAR = 200
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_ISO = re.compile(
    r"(20\d\d)-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z|[+\-]\d\d:?\d\d)?"
)
_SYSLOG = re.compile(rf"\b({'|'.join(_MONTHS)}) {{1,2}}(\d{{1,2}}) (\d\d):(\d\d):(\d\d)")
_GLOG = re.compile(r"(?:^|[\s\]|])[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{1,6})")
_SHORT = re.compile(r"(?:^|\s)(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?=\s)")
_EPOCH = re.compile(r"\b(1[6-9]\d{8})(\d{3}|\d{9})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDiagnosis:
    """What one log of a folder tells."""

    name: str  # of its newest file, within the folder
    files: tuple[str, ...]  # the oldest first
    diagnosis: Diagnosis | None  # None: it could not be read
    problem: str | None = None  # why
    died_at: datetime | None = None  # by the lines around the death; None: they have no time

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "files": [*self.files],
            "problem": self.problem,
            "died_at": self.died_at.isoformat() if self.died_at else None,
            "diagnosis": self.diagnosis.to_json() if self.diagnosis else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDiagnosis:
    """What the logs of a folder tell; those that tell of a death first, by its time."""

    logs: tuple[LogDiagnosis, ...]

    @property
    def dead(self) -> tuple[LogDiagnosis, ...]:
        return tuple(log for log in self.logs if log.diagnosis and log.diagnosis.died)

    @property
    def first(self) -> LogDiagnosis | None:
        """The one that died first; None: none died, or that cannot be told."""
        dead = self.dead
        if len(dead) == 1 or (dead and all(log.died_at for log in dead)):
            return dead[0]
        return None

    @property
    def summary(self) -> str:
        """In one sentence."""
        dead = self.dead
        if not dead:
            return f"None of these {len(self.logs)} logs says that a process died."
        told = f"{len(dead)} of {len(self.logs)} logs tell of a death"
        if self.first is None:
            return f"{told}; which was first cannot be told, since their lines have no times."
        if len(dead) == 1:
            return f"{told}: {dead[0].name}."
        return (
            f"{told}; first that of {self.first.name}, at {self.first.died_at:%Y-%m-%d %H:%M:%S}."
        )

    def to_json(self) -> dict[str, object]:
        first = self.first
        return {
            "summary": self.summary,
            "first": first.name if first else None,
            "logs": [log.to_json() for log in self.logs],
        }


def diagnose_folder(
    folder: Path,
    *,
    believed_release: str | None = None,
    maps: MemoryMap | None = None,
    modules_of: ModulesOf | None = None,
) -> FolderDiagnosis:
    """Diagnose every log of a folder and of those in it.

    Raises:
        LogError: it holds no log, or too many files.
        UnknownReleaseError: what is believed is no release.
    """
    made = []
    for name, files in logs_of(folder).items():
        names = tuple(str(path.relative_to(folder)) for path in files)
        try:
            found = diagnose_chunks(
                _chunks(files), believed_release=believed_release, maps=maps, modules_of=modules_of
            )
            at = _time_near(files, found.line) if found.died and found.line else None
        except (OSError, LogError) as error:
            made.append(LogDiagnosis(name=name, files=names, diagnosis=None, problem=str(error)))
            continue
        made.append(LogDiagnosis(name=name, files=names, diagnosis=found, died_at=at))
    return FolderDiagnosis(logs=tuple(sorted(made, key=_by_death)))


def logs_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each log in a folder, by its name, the oldest first.

    Raises:
        LogError: there is none, or too many.
    """
    found = [path for path in _files(folder) if _is_log(path)]
    if not found:
        raise LogError(
            f"{folder} holds no file that looks like a log",
            "files named like .log, .txt, .out, .json or .csv, packed or not",
            "name the file itself",
        )
    logs: dict[str, list[Path]] = {}
    for path in found:
        stem, _ = _rotation(path)
        logs.setdefault(str((path.parent / stem).relative_to(folder)), []).append(path)
    return {
        name: sorted(files, key=lambda path: _rotation(path)[1])
        for name, files in sorted(logs.items())
    }


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        count += 1
        if count > MOST_FILES:
            raise LogError(
                f"{folder} holds more than {MOST_FILES} files",
                "a folder of logs",
                "name the folder that holds only the logs",
            )
        yield path


def _is_log(path: Path) -> bool:
    name = path.name.lower()
    while Path(name).suffix in _PACKED:
        name = Path(name).stem
    stem, _ = _rotation(Path(name))
    return bool(_LOGS.search(stem)) or "." not in stem.lstrip(".")


def _rotation(path: Path) -> tuple[str, tuple[int, float, str]]:
    """The name of a log without what rotation added to it, and a key that puts the oldest first:
    numbers count backward, dates forward, and the file without either is the newest.
    """
    name = path.name
    while Path(name).suffix in _PACKED:
        name = Path(name).stem
    # "server.1.log" and "server-2026-02-03.log" as well as "server.log.1"
    head, dot, tail = name.rpartition(".")
    if dot and not _ROTATED.search(name) and (inner := _ROTATED.search(head)):
        return head[: inner.start()] + dot + tail, _age(inner)
    if found := _ROTATED.search(name):
        return name[: found.start()], _age(found)
    return name, (1, 0.0, "")


def _age(found: re.Match[str]) -> tuple[int, float, str]:
    if number := found["number"]:
        return 0, -float(number), ""
    if date := found["date"]:
        return 0, 0.0, date
    return 0, 0.0, "~"


def _chunks(files: Sequence[Path]) -> Iterator[str]:
    return chain.from_iterable(chunks_of_file(path) for path in files)


def _by_death(log: LogDiagnosis) -> tuple[bool, bool, float, str]:
    died = log.diagnosis is not None and log.diagnosis.died
    at = log.died_at
    return not died, at is None, at.timestamp() if at else 0.0, log.name


def _time_near(files: Sequence[Path], line: int) -> datetime | None:
    """The time of the last line with one before a line, or else of the next behind it."""
    year = datetime.fromtimestamp(files[-1].stat().st_mtime, UTC).year
    number = 0
    best: datetime | None = None
    for chunk in _chunks(files):
        lines = chunk.count("\n")
        if number + lines < line - _NEAR:
            number += lines
            continue
        for text in split_lines(chunk):
            number += 1
            if number < line - _NEAR:
                continue
            at = _time_in(text, year)
            if at is not None and (number <= line or best is None):
                best = at
            if number >= line and (best is not None or number > line + _NEAR):
                return best
    return best


def _time_in(text: str, year: int) -> datetime | None:
    """The time that a line gives; without a zone it is taken for UTC."""
    try:
        if found := _ISO.search(text):
            zone = found[8] or "Z"
            iso = f"{found[1]}-{found[2]}-{found[3]}T{found[4]}:{found[5]}:{found[6]}"
            fraction = (found[7] or "0")[:6].ljust(6, "0")
            return datetime.fromisoformat(f"{iso}.{fraction}{'+00:00' if zone == 'Z' else zone}")
        if found := _EPOCH.search(text):
            return datetime.fromtimestamp(int(found[1]) + int(found[2][:3]) / 1000, UTC)
        if found := _SYSLOG.search(text):
            month = _MONTHS.index(found[1]) + 1
            return _at(year, month, *(int(found[at]) for at in (2, 3, 4, 5)))
        if found := _GLOG.search(text):
            return _at(year, *(int(found[at]) for at in (1, 2, 3, 4, 5)))
        if found := _SHORT.search(text):
            return _at(year, *(int(found[at]) for at in (1, 2, 3, 4, 5)))
    except ValueError:
        return None
    return None


def _at(year: int, *parts: int) -> datetime:
    month, day, hour, minute, second = parts
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
