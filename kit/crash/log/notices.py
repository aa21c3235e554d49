"""One cleaned log line in, what it says about a death out: signals, aborts, kills, dead engines.

A notice is `fatal` when the process that it speaks of cannot live on after it. Everything else
is a hint that helps to explain a death, and says nothing by itself: handled Python errors,
missing GPUs and a graceful stop are not deaths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kit.crash.log.phrases import PHRASES, Phrase, Subject, Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What one line says."""

    topic: Topic
    text: str  # the decisive part of the line, at most 300 characters
    line: int  # 1-based
    fatal: bool
    subject: Subject = Subject.UNKNOWN
    signal: int | None = None
    restarted: bool = False  # the server says that it starts the process again


#: Linux's numbers, whatever system this runs on: the logs are Linux's.
_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
    31: "SIGSYS",
}
_NUMBERS = {name: number for number, name in _NAMES.items()} | {
    "Segmentation fault": 11,
    "segmentation fault": 11,
    "Killed": 9,
    "Aborted": 6,
    "Bus error": 7,
    "Illegal instruction": 4,
    "Floating point exception": 8,
}
#: Signals that a process raises by its own fault, and those by which somebody asks it to end.
FAULT_SIGNALS = frozenset({4, 5, 6, 7, 8, 11, 31})
STOP_SIGNALS = frozenset({1, 2, 15})
#: The shell and the kernel count exit statuses of killed processes from here.
SHELL_BASE = 128
_TEXT = 300


def read_notices(line: str, number: int) -> Iterator[Notice]:
    """What `line` says, most lines say nothing. Never raises; time is linear in the line."""
    for phrase in PHRASES:
        if phrase.needle in line and (found := phrase.find(line)):
            yield _notice(phrase, found, number)


def needles() -> tuple[str, ...]:
    """Literals of which a line must hold one to say anything."""
    return tuple(dict.fromkeys(phrase.needle for phrase in PHRASES))


def _notice(phrase: Phrase, found: re.Match[str], number: int) -> Notice:
    groups = found.groupdict()
    printed = groups.get("signal")
    got = signal_number(printed) if printed else phrase.signal
    if status := groups.get("status"):
        got = int(status) - SHELL_BASE
    topic, fatal = phrase.topic, phrase.fatal
    if topic in (Topic.SIGNAL, Topic.EXIT) and got in STOP_SIGNALS:
        topic, fatal = Topic.STOP, False
    return Notice(
        topic=topic,
        text=found[0].strip()[:_TEXT],
        line=number,
        fatal=fatal,
        subject=phrase.subject,
        signal=got,
        restarted=phrase.restarted,
    )


def signal_number(printed: str) -> int | None:
    """The number behind "11", "SIGSEGV" or "Segmentation fault"."""
    return int(printed) if printed.isdigit() else _NUMBERS.get(printed)


def signal_name(number: int) -> str:
    """SIGSEGV for 11; "signal 77" for one that has no name here."""
    return _NAMES.get(number, f"signal {number}")
