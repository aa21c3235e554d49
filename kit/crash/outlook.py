"""What is known of several releases under some traffic, in one line and the rest beside it.

A study measures what it runs. Before one, this is what is known already; after it, what is known
beyond it. Every statement says what it rests on, as in `kit.crash.upgrade`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kit.crash.catalog import Crash, known_crashes
from kit.crash.upgrade import LABELS, Advice, Risk, advise
from kit.study.releases import in_order, load_releases
from kit.study.words import listing, ranges

#: More names in one sentence are counted, not listed.
_MOST_NAMES = 6
#: A release, and a kind of traffic.
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFault:
    """One fault, and which of the releases it is known to hit under the traffic."""

    crash: str  # id in data/crashes.yaml
    title: str
    traffic: tuple[str, ...]
    where: str  # "23.10 and 24.08 (measured here), 26.09 (inferred)"
    on_hybrids: str | None  # what was measured on them
    advice: str
    links: tuple[str, ...]

    @property
    def text(self) -> str:
        """In a sentence, without the advice."""
        beside = f"; {self.on_hybrids}" if self.on_hybrids else ""
        return f"{self.title}. Under {listing(self.traffic)}: {self.where}{beside}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known of releases under traffic."""

    line: str  # one sentence; "": the catalog has none of the releases
    faults: tuple[KnownFault, ...] = ()
    more: tuple[
        str, ...
    ] = ()  # sentences: better releases, what nobody has measured, other traffic


@dataclass(slots=True)
class _Found:
    """The releases that a fault hits, by what that rests on."""

    crash: Crash
    traffic: dict[str, None] = field(default_factory=dict)
    by_label: dict[str, list[str]] = field(default_factory=dict)

    def add(self, release: str, traffic: Iterable[str], risk: Risk) -> None:
        self.traffic.update(dict.fromkeys(traffic))
        self.by_label.setdefault(risk.labels[0], []).append(release)


def outlook(
    releases: Iterable[str],
    traffic: Sequence[str],
    *,
    died: Collection[Pair] = (),
    measured: Collection[Pair] = (),
    crashes: Mapping[str, Crash] | None = None,
) -> Outlook:
    """What is known of `releases` under kinds of `traffic`.

    releases: those that the catalog does not have are left out. traffic: names of scenarios, those
    that exercise no fault count for nothing. died, measured: releases and traffic that a study at
    hand says so of by itself; that is left out. crashes: another catalog.

    >>> outlook(["23.12", "24.10"], ["cancel-race"]).line
    'known to be hit under cancel-race: 24.10 (measured here); measured here without a death: 23.12'
    """
    known = crashes if crashes is not None else known_crashes()
    line = list(load_releases())
    asked = [name for name in in_order(dict.fromkeys(releases)) if name in line]
    exercised = {name for crash in known.values() for name in crash.scenarios}
    kinds = [name for name in dict.fromkeys(traffic) if name in exercised]
    if not asked:
        return Outlook(line="")
    if not kinds:
        return Outlook(
            line="no fault of the catalog is about this traffic"
            + (f" ({_many(traffic)})" if traffic else ""),
            more=_others([advise(release=r, traffic=[], crashes=known) for r in asked], line),
        )
    answers = [advise(release=name, traffic=kinds, crashes=known) for name in asked]
    faults = _faults(answers, known, set(died))
    told = [_fault(one, line) for one in faults]
    more = [
        *_better(answers, {release for release, _ in died}, line),
        *_unmeasured(answers, set(measured), line),
        *_others(answers, line),
    ]
    return Outlook(
        line=_line(faults, answers, kinds, line, set(died), beyond=bool(died or measured)),
        faults=tuple(told),
        more=tuple(more),
    )


def _faults(answers: Sequence[Advice], known: Mapping[str, Crash], died: set[Pair]) -> list[_Found]:
    """By fault, measured ones first."""
    found: dict[str, _Found] = {}
    for answer in answers:
        for risk in answer.risks:
            left = [name for name in risk.traffic if (answer.release, name) not in died]
            if left:
                one = found.setdefault(risk.crash, _Found(known[risk.crash]))
                one.add(answer.release, left, risk)
    return sorted(found.values(), key=lambda one: LABELS["measured"] not in one.by_label)


def _fault(one: _Found, line: Sequence[str]) -> KnownFault:
    return KnownFault(
        crash=one.crash.id,
        title=one.crash.title,
        traffic=tuple(one.traffic),
        where=_where(one.by_label, line),
        on_hybrids=one.crash.seen_on_hybrids,
        advice=one.crash.advice,
        links=one.crash.links,
    )


def _where(by_label: Mapping[str, Iterable[str]], line: Sequence[str]) -> str:
    rank = list(LABELS.values())
    labels = sorted(by_label, key=rank.index)
    return ", ".join(f"{ranges(by_label[label], line)} ({label})" for label in labels)


def _line(
    faults: Sequence[_Found],
    answers: Sequence[Advice],
    kinds: Sequence[str],
    line: Sequence[str],
    died: set[Pair],
    *,
    beyond: bool,
) -> str:
    firmest: dict[str, str] = {}
    for label in LABELS.values():
        for one in faults:
            for release in one.by_label.get(label, ()):
                firmest.setdefault(release, label)
    further = "further " if beyond else ""
    here = {release for release, _ in died}
    spared = [
        answer.release
        for answer in answers
        if answer.release not in {*firmest, *here} and set(kinds) <= set(answer.survived)
    ]
    rest = [a.release for a in answers if a.release not in firmest and a.release not in spared]
    parts = []
    if firmest:
        by_label: dict[str, list[str]] = {}
        for release, label in firmest.items():
            by_label.setdefault(label, []).append(release)
        hit = list(dict.fromkeys(name for one in faults for name in one.traffic))
        parts.append(f"known to be hit under {_many(hit)}: {_where(by_label, line)}")
    under = "" if firmest else f" under {_many(kinds)}"
    if spared:
        parts.append(f"measured here without a death{under}: {ranges(spared, line)}")
    if rest:
        parts.append(f"nothing {further}is known to kill {ranges(rest, line)}{under}")
    return "; ".join(parts)


def _better(answers: Sequence[Advice], died: set[str], line: Sequence[str]) -> list[str]:
    """Releases that none of these faults is known to hit, and that did not die in the study."""
    hit = [answer for answer in answers if answer.risks]
    if not hit:
        return []
    better = [
        name for name in line if name not in died and all(name in answer.better for answer in hit)
    ]
    if not better:
        return ["no release is known to be free of every fault of this traffic"]
    seen = [name for name in better if all(name in answer.better_measured for answer in hit)]
    by = f"measured here without a death: {ranges(seen, line)}" if seen else "nobody measured them"
    return [f"not known to be hit by any fault of this traffic: {ranges(better, line)} ({by})"]


def _unmeasured(answers: Sequence[Advice], measured: set[Pair], line: Sequence[str]) -> list[str]:
    by_traffic: dict[str, list[str]] = {}
    for answer in answers:
        for name in answer.unmeasured:
            if (answer.release, name) not in measured:
                by_traffic.setdefault(name, []).append(answer.release)
    by_releases: dict[str, list[str]] = {}
    for name, releases in by_traffic.items():
        by_releases.setdefault(ranges(releases, line), []).append(name)
    return [f"nobody has measured {_many(n)} on {where}" for where, n in by_releases.items()]


def _others(answers: Sequence[Advice], line: Sequence[str]) -> tuple[str, ...]:
    """What is known of the releases under traffic that is not asked for."""
    names = list(dict.fromkeys(risk.crash for answer in answers for risk in answer.others))
    if not names:
        return ()
    where = ranges([answer.release for answer in answers if answer.others], line)
    return (f"known of {where} under other traffic: {_many(names)}",)


def _many(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return listing(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"
