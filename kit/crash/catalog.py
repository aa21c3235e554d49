"""`data/crashes.yaml` in, its entries as typed rows out."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec
import yaml

from kit.crash.component import Component
from kit.errors import CatalogError
from kit.paths import DATA

CATALOG = DATA / "crashes.yaml"
KINDS = frozenset({"crash", "hang", "cross-talk", "leak", "slowdown", "error", "false-health"})
EVIDENCE = frozenset({"reported", "maintainer", "git", "measured", "inferred"})
_RELEASE = re.compile(r"2\d\.(?:0[1-9]|1[0-2])")
_LINK = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+")


class ReleaseRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Releases from one to another, both included; None is open."""

    start: str | None = msgspec.field(name="from")
    end: str | None = msgspec.field(name="to")

    def holds(self, release: str) -> bool:
        """Releases are "YY.MM", so their order is that of their names."""
        return (self.start or "") <= release and (self.end is None or release <= self.end)


class Affected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ranges: tuple[ReleaseRange, ...]
    note: str | None = None

    def holds(self, release: str) -> bool:
        return any(span.holds(release) for span in self.ranges)

    @property
    def text(self) -> str:
        """The ranges for people, "23.10 to 23.11, 24.08 to today"."""
        return ", ".join(_span(span) for span in self.ranges)

    @property
    def open_ended(self) -> bool:
        """Nothing is known of where it begins and ends."""
        return all(span.start is None and span.end is None for span in self.ranges)


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions on a log that must all hold, and how much they tell (0 to 1)."""

    weight: float
    signal: tuple[int, ...] = ()
    stack: tuple[str, ...] = ()
    calls: str | None = None
    part: Component | None = None
    says: str | None = None
    like: str | None = None


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the release map saw on one embedded release."""

    trials: int
    deaths: int
    note: str | None = None


class Crash(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One known crash; the fields are explained at the head of the file."""

    id: str
    title: str
    kinds: tuple[str, ...]
    component: Component
    links: tuple[str, ...]
    symptom: str
    trigger: str
    affected: Affected
    introduced_by: str | None
    fixed_by: str | None
    first_fixed: str | None
    needs_gpu: bool
    scenarios: tuple[str, ...]
    advice: str
    evidence: dict[str, str]
    signs: tuple[Sign, ...]
    measured: dict[str, Measured] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    crashes: tuple[Crash, ...]


def load_catalog(path: Path = CATALOG) -> dict[str, Crash]:
    """All entries by id, in the file's order.

    Raises:
        CatalogError: the file cannot be read, or a row is not as it should be.
    """
    try:
        rows = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _File).crashes
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from error
    for row in rows:
        for fault in _faults(row):
            raise _bad(path, f"{row.id}: {fault}")
    catalog = {row.id: row for row in rows}
    if len(catalog) != len(rows):
        raise _bad(path, "an id occurs twice")
    return catalog


@cache
def known_crashes() -> dict[str, Crash]:
    """The catalog of this checkout, read once."""
    return load_catalog()


def _faults(row: Crash) -> list[str]:
    """What is wrong with a row beyond its types."""
    faults = [f"kind {kind!r}" for kind in row.kinds if kind not in KINDS]
    faults += [f"evidence {label!r}" for label in row.evidence if label not in EVIDENCE]
    faults += [f"link {link!r}" for link in row.links if not _LINK.fullmatch(link)]
    named = [end for span in row.affected.ranges for end in (span.start, span.end)]
    named += [row.first_fixed, *row.measured]
    faults += [f"release {name!r}" for name in named if name and not _RELEASE.fullmatch(name)]
    if not row.kinds or not row.evidence or not row.advice:
        faults.append("no kind, evidence or advice")
    for sign in row.signs:
        faults += _sign_faults(sign)
    return faults


def _sign_faults(sign: Sign) -> list[str]:
    faults = []
    if not 0 < sign.weight < 1:
        faults.append(f"weight {sign.weight}")
    if not (sign.stack or sign.calls or sign.part or sign.says):
        faults.append("a sign that any crash shows")
    if sign.like and not sign.says:
        faults.append("like without says, which is needed to find the line fast")
    for pattern in (sign.calls, sign.like):
        try:
            re.compile(pattern or "")
        except re.error as error:
            faults.append(f"pattern {pattern!r}: {error}")
    return faults


def _span(span: ReleaseRange) -> str:
    if span.start is not None and span.start == span.end:
        return span.start
    if span.start is None and span.end is None:
        return "unknown"
    if span.start is None:
        return f"up to {span.end}"
    return f"{span.start} to {span.end or 'today'}"


def _bad(path: Path, what: str) -> CatalogError:
    return CatalogError(
        f"{path.name}: {what}",
        "entries as the head of the file describes them",
        "correct the row; git diff shows what changed",
    )
