"""Reads `data/crashes.yaml`, the catalog of known crashes, as typed rows."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from kit.crash.component import Component
from kit.errors import CatalogError
from kit.study.hybrids import (
    NO_RELEASE_BRIEF,
    beside_the_line,
    hybrid_parts,
    load_hybrids,
    on_the_line,
)
from kit.study.paths import DATA, RECORDED
from kit.study.plain_yaml import from_yaml
from kit.study.releases import load_releases

CATALOG = DATA / "crashes.yaml"
#: The recorded studies whose deaths it counts (`kit dev measured`), the first of a cell deciding.
MEASURED_IN = tuple(
    RECORDED / name for name in ("release_map", "cancelled_streams", "frontends_of_2026")
)
KINDS = frozenset({"crash", "hang", "cross-talk", "leak", "slowdown", "error", "false-health"})
EVIDENCE = frozenset({"reported", "maintainer", "git", "measured", "inferred"})
#: Of a hybrid, the parts that its frontends' release decides.
FRONTENDS = frozenset({Component.HTTP_FRONTEND, Component.GRPC_FRONTEND})
#: What a range of affected releases rests on.
Ground = Literal["reported", "git", "measured", "inferred"]
#: Several crashes lie in one component, so a sign that is nothing but that tells this much at most.
COMPONENT_ALONE = 0.3
_RELEASE = re.compile(r"2\d\.(?:0[1-9]|1[0-2])")
_LINK = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+")


class ReleaseRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Releases from one to another, both included; None is open."""

    start: str | None = msgspec.field(name="from")
    end: str | None = msgspec.field(name="to")
    by: Ground

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
        return ", ".join(_span(span.start, span.end) for span in self.ranges)

    @property
    def labelled(self) -> str:
        """The same with what each rests on, "23.10 to 23.11 (git), 24.08 to today (git)"."""
        return ", ".join(f"{_span(span.start, span.end)} ({span.by})" for span in self.ranges)

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
    """What the recorded studies saw on one embedded release, or on one hybrid."""

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
    not_shown: str | None = None
    measured: dict[str, Measured] = {}

    def holds(self, server: str) -> bool:
        """Whether the ranges hold a release; of a hybrid, that which its part is of."""
        parts = hybrid_parts(server)
        if parts is None:
            return self.affected.holds(server)
        return self.affected.holds(parts[0] if self.component in FRONTENDS else parts[1])

    def hits(self, server: str) -> bool:
        """Whether that release, or hybrid, is known to have it, or died of it here."""
        seen = self.measured.get(server)
        return self.holds(server) or (seen is not None and seen.deaths > 0)

    def seen_on(self, servers: Collection[str]) -> str | None:
        """What recorded studies saw on these, "measured here: 5 of 5 trials died on 23.10"."""
        seen = [(name, row) for name, row in self.measured.items() if name in servers]
        if not seen:
            return None
        died = (f"{row.deaths} of {row.trials} trials died on {name}" for name, row in seen)
        return f"measured here: {', '.join(died)}"

    @property
    def seen_on_hybrids(self) -> str | None:
        """The same of all hybrids, and that they are no releases."""
        seen = self.seen_on(beside_the_line(self.measured))
        return seen and f"{seen} ({NO_RELEASE_BRIEF})"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    crashes: tuple[Crash, ...]


def load_catalog(path: Path = CATALOG) -> dict[str, Crash]:
    """All entries by id, in the file's order.

    Raises:
        CatalogError: the file cannot be read, or a row is not as it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path.name, str(error)) from error
    return read_catalog(text, path.name)


def read_catalog(text: str, name: str = CATALOG.name) -> dict[str, Crash]:
    """The same of the text of a catalog. name: of its file, for messages.

    Raises:
        CatalogError: a row is not as it should be.
    """
    try:
        rows = msgspec.convert(from_yaml(text), _File).crashes
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise _bad(name, str(error)) from error
    for row in rows:
        for fault in _faults(row):
            raise _bad(name, f"{row.id}: {fault}")
    catalog = {row.id: row for row in rows}
    if len(catalog) != len(rows):
        raise _bad(name, "an id occurs twice")
    return catalog


@cache
def known_crashes() -> dict[str, Crash]:
    """The catalog of this checkout, read once."""
    return load_catalog()


def free_releases(crashes: Collection[Crash]) -> str | None:
    """The releases after the first that any of these crashes hits, and that none of them does:
    "23.12 to 24.07". None: there is none that is known.
    """
    spans: list[list[str]] = []
    begun, gap = False, True
    for name in load_releases():
        hit = any(crash.hits(name) for crash in crashes)
        begun = begun or hit
        if begun and not hit:
            if gap:
                spans.append([])
            spans[-1].append(name)
        gap = hit
    newest = next(reversed(load_releases()))
    return ", ".join(_span(s[0], None if s[-1] == newest else s[-1]) for s in spans) or None


def _faults(row: Crash) -> list[str]:
    """What is wrong with a row beyond its types."""
    faults = [f"kind {kind!r}" for kind in row.kinds if kind not in KINDS]
    faults += [f"evidence {label!r}" for label in row.evidence if label not in EVIDENCE]
    faults += [f"link {link!r}" for link in row.links if not _LINK.fullmatch(link)]
    named = [end for span in row.affected.ranges for end in (span.start, span.end)]
    named += [row.first_fixed, *on_the_line(row.measured)]
    faults += [f"release {name!r}" for name in named if name and not _RELEASE.fullmatch(name)]
    hybrids = set(beside_the_line(row.measured)) - load_hybrids().keys()
    faults += [f"hybrid {name!r}" for name in sorted(hybrids)]
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
    if not (sign.stack or sign.calls or sign.says) and sign.weight > COMPONENT_ALONE:
        faults.append(f"a component alone weighs {sign.weight}, more than {COMPONENT_ALONE}")
    if sign.like and not sign.says:
        faults.append("like without says, which is needed to find the line fast")
    for pattern in (sign.calls, sign.like):
        try:
            re.compile(pattern or "")
        except re.error as error:
            faults.append(f"pattern {pattern!r}: {error}")
    return faults


def _span(start: str | None, end: str | None) -> str:
    if start is not None and start == end:
        return start
    if start is None and end is None:
        return "unknown"
    if start is None:
        return f"up to {end}"
    return f"{start} to {end or 'today'}"


def _bad(name: str, what: str) -> CatalogError:
    return CatalogError(
        f"{name}: {what}",
        "entries as the head of the file describes them",
        "correct the row; git diff shows what changed",
    )
