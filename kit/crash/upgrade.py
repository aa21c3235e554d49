"""Before an upgrade: what is known to kill a release under some traffic, and which are better.

Every statement has a label: measured here (by recorded studies), reported (by users or a
maintainer), read in source, or inferred. What nobody has measured is said, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import product

from kit.crash.catalog import MEASURED_IN, Crash, known_crashes
from kit.crash.origin import release_named
from kit.errors import UnknownReleaseError, UnknownScenarioError
from kit.study.encoding import from_json
from kit.study.hybrids import NO_RELEASE, is_hybrid
from kit.study.releases import get_release, load_releases
from kit.study.scenarios import Scenario, load_scenarios
from kit.study.spec import StudySpec

#: What an evidence word of the catalog is called here.
LABELS = {
    "measured": "measured here",
    "git": "read in source",
    "reported": "reported",
    "maintainer": "reported by a maintainer",
    "inferred": "inferred",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """One known way in which a release dies or hangs under some traffic."""

    crash: str  # id in data/crashes.yaml
    title: str
    traffic: tuple[str, ...]  # of the kinds asked for, those that exercise it; empty: any may
    labels: tuple[str, ...]  # what it rests on for this release, the firmest first
    seen: str | None  # "measured here: 5 of 5 trials died on 24.05"
    on_hybrids: str | None  # the same of frontends on an older core, which are no release
    advice: str
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is known of a release under some traffic."""

    release: str
    traffic: tuple[str, ...]
    risks: tuple[Risk, ...]  # of this traffic, measured ones first
    others: tuple[Risk, ...]  # known of the release, and of no kind of traffic that was asked for
    survived: tuple[str, ...]  # traffic measured on this release without a death
    better: tuple[str, ...]  # releases that none of `risks` is known to hit, the oldest first
    better_measured: tuple[str, ...]  # of them, those measured under all of the traffic
    unmeasured: tuple[str, ...]  # traffic that nobody has measured on this release

    @property
    def summary(self) -> str:
        """In a sentence or two."""
        asked = ", ".join(self.traffic)
        if self.risks:
            names = ", ".join(f"{risk.crash} ({risk.labels[0]})" for risk in self.risks)
            first = f"{self.release} under {asked}: known to be hit by {names}."
        else:
            first = f"{self.release} under {asked}: nothing is known to kill it."
        said = [first]
        if self.risks and self.better:
            measured = ", ".join(self.better_measured) or "none of them"
            said.append(
                f"Not known to be hit by these: {', '.join(self.better)}; measured under this "
                f"traffic without a death: {measured}."
            )
        elif self.risks:
            said.append("No release is known to be free of them.")
        if self.unmeasured:
            said.append(f"Nobody has measured {', '.join(self.unmeasured)} on {self.release}.")
        return " ".join(said)

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "release": self.release,
            "traffic": [*self.traffic],
            "summary": self.summary,
            "risks": [_plain(risk) for risk in self.risks],
            "others": [_plain(risk) for risk in self.others],
            "survived": [*self.survived],
            "better": [*self.better],
            "better_measured": [*self.better_measured],
            "unmeasured": [*self.unmeasured],
        }


def advise(
    *,
    release: str,
    traffic: Sequence[str],
    crashes: Mapping[str, Crash] | None = None,
) -> Advice:
    """What is known of `release` under kinds of `traffic`, from the catalog and recorded studies.

    release: "24.05" or "2.46.0". traffic: names of scenarios ("grpc-stream-cancel") or of
    protocols ("grpc-stream": all faults that use it). crashes: another catalog.

    Raises:
        UnknownReleaseError, UnknownScenarioError: with the nearest names.

    >>> from kit.crash.upgrade import advise
    >>> advise(release="24.05", traffic=["grpc-stream-cancel"]).risks[0].crash
    'grpc-stream-cancel-state-race'
    """
    if is_hybrid(release):
        raise UnknownReleaseError(
            release,
            "a release, such as 24.10",
            f"ask about one of its two releases: {NO_RELEASE}",
        )
    row = get_release(release_named(release) or release)
    known = crashes if crashes is not None else known_crashes()
    asked = _scenarios(traffic)
    names = tuple(scenario.name for scenario in asked)
    risks: list[Risk] = []
    others: list[Risk] = []
    for crash in known.values():
        if not crash.hits(row.release):
            continue
        own = tuple(name for name in names if name in crash.scenarios)
        risk = _risk(crash, row.release, own)
        (risks if own else others).append(risk)
    hit = [known[risk.crash] for risk in risks]
    better = (
        [name for name in load_releases() if not any(crash.hits(name) for crash in hit)]
        if hit
        else []
    )
    by_name = [(name, _measured(known, name)) for name in names]
    return Advice(
        release=row.release,
        traffic=names,
        risks=tuple(sorted(risks, key=lambda risk: risk.seen is None)),
        others=tuple(others),
        survived=tuple(n for n, table in by_name if table.get(row.release, (0, 1))[1] == 0),
        better=tuple(better),
        better_measured=tuple(
            name
            for name in better
            if all(table.get(name, (0, 1))[1] == 0 for _, table in by_name if table)
            and any(name in table for _, table in by_name)
        ),
        unmeasured=tuple(n for n, table in by_name if row.release not in table),
    )


def _scenarios(traffic: Sequence[str]) -> list[Scenario]:
    """The scenarios that some words name; faults of a protocol for a protocol's name."""
    known = load_scenarios()
    found: dict[str, Scenario] = {}
    for word in traffic:
        same = [s for s in known.values() if s.kind == "fault" and s.workload.protocol == word]
        if word in known:
            same = [known[word]]
        if not same:
            names = [*known, *sorted({str(s.workload.protocol.value) for s in known.values()})]
            near = get_close_matches(word, names, n=1)
            raise UnknownScenarioError(
                f"there is no traffic {word!r}",
                f"one of {', '.join(names)}",
                f'did you mean "{near[0]}"?' if near else "kit scenarios lists them",
            )
        found.update((scenario.name, scenario) for scenario in same)
    return list(found.values())


def _risk(crash: Crash, release: str, traffic: tuple[str, ...]) -> Risk:
    seen = crash.measured.get(release)
    words = ["measured"] if seen is not None and seen.deaths else []
    words += [span.by for span in crash.affected.ranges if span.holds(release)]
    return Risk(
        crash=crash.id,
        title=crash.title,
        traffic=traffic,
        labels=tuple(dict.fromkeys(LABELS[word] for word in words)),
        seen=crash.seen_on([release]),
        on_hybrids=crash.seen_on_hybrids,
        advice=crash.advice,
        links=crash.links,
    )


@cache
def _ran() -> frozenset[tuple[str, str]]:
    """The servers and scenarios of the recorded studies that the catalog counts."""
    found: set[tuple[str, str]] = set()
    for study in MEASURED_IN:
        spec = from_json((study / "study.json").read_bytes(), StudySpec)
        found |= set(product((server.label for server in spec.servers), spec.scenarios))
    return frozenset(found)


def _measured(crashes: Mapping[str, Crash], scenario: str) -> dict[str, tuple[int, int]]:
    """Trials and deaths of a scenario's crash by release, as recorded studies counted them;
    nothing of a release that none ran under it."""
    table: dict[str, tuple[int, int]] = {}
    for crash in crashes.values():
        if scenario in crash.scenarios:
            rows = {n: row for n, row in crash.measured.items() if (n, scenario) in _ran()}
            for name, row in rows.items():
                trials, deaths = table.get(name, (0, 0))
                table[name] = (trials + row.trials, deaths + row.deaths)
    return table


def _plain(risk: Risk) -> dict[str, object]:
    return {
        "crash": risk.crash,
        "title": risk.title,
        "traffic": [*risk.traffic],
        "labels": [*risk.labels],
        "seen": risk.seen,
        "on_hybrids": risk.on_hybrids,
        "advice": risk.advice,
        "links": [*risk.links],
    }
