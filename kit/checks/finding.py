"""What a check before a study found: how serious it is, why it matters, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kit.study.words import listing

#: A topic that servers of every kind have.
VLLM: Final = "vLLM version"


class Severity(StrEnum):
    """How serious a finding is; the gravest first."""

    BLOCKS = "blocks"  # no request can be answered, so no study is begun
    WARNS = "warns"  # the server may die of it, or figures will be wrong or missing
    NOTES = "notes"  # worth knowing
    NOT_CHECKED = "not checked"  # it cannot be seen from here
    OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a preflight.

    >>> Finding(topic="release", severity=Severity.WARNS, found="23.10: known to die").is_grave
    True
    """

    topic: str
    severity: Severity
    found: str  # what is so; "not checked": because of what it cannot be seen
    reason: str = ""  # why it matters
    hint: str = ""  # what to do
    server: str = ""  # label of the server that it is about; "": of this machine, or of all
    short: str = ""  # all of it in a few words, for a line before a study; "": `text`

    @property
    def is_grave(self) -> bool:
        """Whether to say it without being asked."""
        return self.severity in (Severity.BLOCKS, Severity.WARNS)

    @property
    def line(self) -> str:
        """What is said of it before a study."""
        return self.short or self.text

    @property
    def text(self) -> str:
        """All of it in a line: what, why, and what to do."""
        about = f"{self.topic} of {self.server}" if self.server else self.topic
        said = f"{about}: {self.found}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{said}{why}" + (f"; {self.hint}" if self.hint else "")


_ORDER: Final = {severity: place for place, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found of some servers under some traffic before anything was sent.

    servers: their labels. traffic: the scenarios, "workload" for traffic of one's own.
    findings: the gravest first, in the order of the checks.
    """

    servers: tuple[str, ...]
    traffic: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings for which no study should be begun."""
        return self.having(Severity.BLOCKS)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return self.having(Severity.WARNS)

    def having(self, *severities: Severity) -> tuple[Finding, ...]:
        """The findings of some severities."""
        return tuple(one for one in self.findings if one.severity in severities)

    @property
    def summary(self) -> str:
        """In a sentence: "2 warnings, 1 note, 3 not checked, 9 ok: 25.10 under workload"."""
        counts = {severity: len(self.having(severity)) for severity in Severity}
        words = [_counted(severity, count) for severity, count in counts.items() if count]
        about = f"{listing(self.servers)} under {listing(self.traffic)}"
        return f"{about}: {', '.join(words) or 'nothing to check'}."

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "servers": [*self.servers],
            "traffic": [*self.traffic],
            "summary": self.summary,
            "findings": [
                {
                    "topic": one.topic,
                    "severity": one.severity.value,
                    "server": one.server or None,
                    "found": one.found,
                    "reason": one.reason or None,
                    "hint": one.hint or None,
                }
                for one in self.findings
            ],
        }


def in_order_of_gravity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, the gravest first; among equals the order stays."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: _ORDER[one.severity]))


_ONE_AND_MORE: Final = {
    Severity.BLOCKS: ("thing blocks it", "things block it"),
    Severity.WARNS: ("warning", "warnings"),
    Severity.NOTES: ("note", "notes"),
}


def _counted(severity: Severity, count: int) -> str:
    one, more = _ONE_AND_MORE.get(severity, (severity.value, severity.value))
    return f"{count} {one if count == 1 else more}"
