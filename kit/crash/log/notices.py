"""Reads what one log line says about a death: signals, aborts, kills, dead engines.

A notice is `fatal` when the process that it speaks of cannot live on after it. Everything else
is a hint that helps to explain a death, and says nothing by itself: handled Python errors,
missing GPUs and a graceful stop are not deaths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kit.crash.log.endings import ENDINGS
from kit.crash.log.engine_wording import ENGINE_WORDING
from kit.crash.log.phrases import Phrase, Subject, Topic, is_servers, subject_of
from kit.crash.log.prefix import message_starts
from kit.crash.log.wording import WORDING
from kit.crash.log.words import Lines, Words

PHRASES: tuple[Phrase, ...] = (*WORDING, *ENGINE_WORDING, *ENDINGS)
_NEEDLES = Words((needle, phrase) for phrase in PHRASES for needle in phrase.needles)


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
    reason: str | None = None  # why a model or a server did not come up


#: Linux's numbers, whatever system this runs on: the logs are Linux's.
_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
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
    "segmentation fault": 11,
    "segmentation violation": 11,
    "segfault": 11,
    "segv": 11,
    "killed": 9,
    "kill": 9,
    "aborted": 6,
    "abort": 6,
    "abort trap": 6,
    "iot instruction": 6,
    "abrt": 6,
    "bus error": 7,
    "bus": 7,
    "illegal instruction": 4,
    "illegal hardware instruction": 4,
    "ill": 4,
    "floating point exception": 8,
    "floating-point exception": 8,
    "fpe": 8,
    "trace/breakpoint trap": 5,
    "trap": 5,
    "bad system call": 31,
    "terminated": 15,
    "term": 15,
    "int": 2,
    "quit": 3,
}
#: Signals that a process raises by its own fault, and those by which somebody asks it to end.
FAULT_SIGNALS = frozenset({4, 5, 6, 7, 8, 11, 31})
STOP_SIGNALS = frozenset({1, 2, 3, 15})
#: The shell and the kernel count exit statuses of killed processes from here.
SHELL_BASE = 128
_TEXT = 300
#: Triton's core and its HTTP frontend, once they shut down. Behind another source it is a quote.
_SOURCE = re.compile(r"\.\w{1,4}:\d{1,6}\]")
_SHUTDOWN = re.compile(
    r"(?:server|http_server)\.cc:\d{1,5}\] \"?"
    r"(?:Waiting for in-flight requests to complete|Timeout \d{1,5}: Found \d)"
)


def begins_shutdown(line: str) -> bool:
    """Whether Triton itself says here that it shuts down, which only a signal makes it do.

    >>> begins_shutdown("I1122 10:40:26.759518 12203 server.cc:293] Waiting for in-flight requests "
    ...                 "to complete.")
    True
    """
    if "server.cc:" not in line:
        return False
    return any(
        _SHUTDOWN.match(line, start) and not _SOURCE.search(line, 0, start)
        for start in message_starts(line)
    )


def read_notices(
    line: str, number: int, phrases: Iterable[Phrase] | None = None
) -> Iterator[Notice]:
    """What `line` says, most lines say nothing. Never raises; time is linear in the line.

    phrases: those of which the line has a needle, as `phrases_in` finds them.
    """
    starts: list[int] | None = None
    for phrase in phrases_in(Lines([line])).get(0, ()) if phrases is None else phrases:
        if phrase.guard is None or phrase.guard.search(line):
            starts = message_starts(line) if starts is None else starts
            if (found := phrase.find(line, starts)) and (said := _notice(phrase, found, number)):
                yield said


def phrases_in(lines: Lines) -> dict[int, list[Phrase]]:
    """The phrases of which some lines have a needle, by the index of the line."""
    return _NEEDLES.in_lines(lines)


def needles() -> tuple[str, ...]:
    """Literals of which a line must hold one to say anything."""
    return tuple(_NEEDLES)


#: What a collector puts before a line is no name of who ended: a tag, a stream.
_TAG = re.compile(
    r"^(?:\([a-z_]{1,20}\) |\d[\d:.,TZ+\-]{7,40} |[\w.\-]{1,80}/[\w.\-]{1,80}/\S{1,80} )+"
)


def _notice(phrase: Phrase, found: re.Match[str], number: int) -> Notice | None:
    groups = found.groupdict()
    printed = groups.get("signal")
    got = signal_number(printed) if printed else phrase.signal
    topic, fatal, subject = phrase.topic, phrase.fatal, phrase.subject
    if status := groups.get("status"):
        got = _signal_of_status(int(status, 16 if status.startswith("0x") else 10))
        fatal = fatal and status.strip("0x") != ""
    if name := groups.get("name"):
        if not is_servers(name):
            return None  # another program of the same machine
        subject = subject_of(name)
    if topic in (Topic.ENDED, Topic.START) and (who := groups.get("who")):
        subject = subject_of(_TAG.sub("", who))
    if topic in (Topic.SIGNAL, Topic.EXIT, Topic.ENDED) and got in STOP_SIGNALS:
        topic, fatal = Topic.STOP, False
    return Notice(
        topic=topic,
        text=found[0].strip()[:_TEXT],
        line=number,
        fatal=fatal,
        subject=subject,
        signal=None if got in STOP_SIGNALS else got,
        restarted=phrase.restarted,
        reason=groups.get("reason"),
    )


def _signal_of_status(status: int) -> int | None:
    """The signal behind -11 or 139; none behind another status, as behind -1, which is printed
    where there is no status.
    """
    if status < -1:
        return -status
    return status - SHELL_BASE if SHELL_BASE < status <= SHELL_BASE + 64 else None


def signal_number(printed: str) -> int | None:
    """The number behind "11", "SIGSEGV" or "Segmentation fault"."""
    if printed.isdigit():
        return int(printed)
    return _NUMBERS.get(printed) or _NUMBERS.get(printed.lower())


def signal_name(number: int) -> str:
    """SIGSEGV for 11; "signal 77" for one that has no name here."""
    return _NAMES.get(number, f"signal {number}")
