"""Checks a release against the catalog of crashes and the release map, and names better ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.crash.traffic import is_by_model, traffic_of
from kit.crash.upgrade import LABELS, Advice, Risk, advise
from kit.study.releases import Release, load_releases
from kit.study.scenarios import load_scenarios
from kit.study.spec import OWN_WORKLOAD, TrialSpec
from kit.study.words import listing, ranges

TOPIC: Final = "release"
#: Releases from this one on have an image with vLLM, also where its version is not known.
_FIRST_VLLM: Final = "23.10"
_MOST_NAMES: Final = 6


def release_findings(release: str, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    """What is known of a release under the traffic of these trials.

    release: as in data/releases.yaml, by name or Triton version.

    Raises:
        UnknownReleaseError: the catalog does not have it.
    """
    names = tuple(dict.fromkeys(name for trial in trials for name in traffic_of(trial)))
    if not names:
        yield Finding(
            topic=TOPIC,
            severity=Severity.NOT_CHECKED,
            found="no scenario of the kit is like this traffic, so nothing is known of it",
            hint="`kit advise` says what is known of the release under other traffic",
            server=server,
        )
        return
    found = advise(release=release, traffic=names)
    if found.risks:
        yield from (_risk(found, risk, trials, server) for risk in found.risks)
    elif found.survived:
        yield Finding(
            topic=TOPIC,
            severity=Severity.OK,
            found=f"nothing is known to kill {found.release} under {listing(found.survived)}, "
            "which was measured",
            server=server,
        )
    if found.unmeasured and not found.risks:
        yield Finding(
            topic=TOPIC,
            severity=Severity.NOT_CHECKED,
            found=f"nobody has measured {listing(found.unmeasured)} on {found.release}, and "
            "nothing is known to kill it",
            hint="this study measures it",
            server=server,
        )
    if others := [risk.crash for risk in found.others]:
        more = f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else ""
        names_of_others = listing(others) if not more else ", ".join(others[:_MOST_NAMES])
        yield Finding(
            topic=TOPIC,
            severity=Severity.NOTES,
            found=f"known of {found.release} under traffic that these scenarios do not send: "
            f"{names_of_others}{more}",
            hint=f"`kit advise {found.release} {names[0]}` and data/crashes.yaml tell of them",
            server=server,
        )


def _risk(found: Advice, risk: Risk, trials: Sequence[TrialSpec], server: str) -> Finding:
    asks_model = any(trial.scenario == OWN_WORKLOAD for trial in trials) and all(
        is_by_model(load_scenarios()[name]) for name in risk.traffic
    )
    labels = [label for label in risk.labels if not (risk.seen and label == LABELS["measured"])]
    rests_on = ", ".join([*([risk.seen] if risk.seen else []), *labels])
    short = f"{found.release} is known to be hit by {risk.crash} under {listing(risk.traffic)}"
    return Finding(
        topic=TOPIC,
        severity=Severity.NOTES if asks_model else Severity.WARNS,
        found=f"{short} ({rests_on})",
        reason=risk.title + (", which takes a model that does so" if asks_model else ""),
        hint=f"{_moves(found, trials)}. {risk.advice}",
        server=server,
        short=short,
    )


def _moves(found: Advice, trials: Sequence[TrialSpec]) -> str:
    """Which releases to move to, and which not."""
    line = [release.release for release in load_releases().values() if _serves(release, trials)]
    better = [name for name in line if name in found.better]
    worse = [name for name in line if name not in found.better and name != found.release]
    if not better:
        return "no release that can serve this is known to be free of it"
    said = f"not known to be hit: {ranges(better, line)}"
    if measured := [name for name in better if name in found.better_measured]:
        said += f" (measured under it without a death: {ranges(measured, line)})"
    else:
        said += " (nobody has measured them under it)"
    return f"{said}; do not move to {ranges(worse, line)}" if worse else said


def _serves(release: Release, trials: Sequence[TrialSpec]) -> bool:
    """Whether a release can serve this traffic at all, and its image the user's model."""
    needs = {
        need
        for trial in trials
        if trial.scenario != OWN_WORKLOAD
        for need in load_scenarios()[trial.scenario].needs
    }
    generates = "generate" in needs or any(t.workload.protocol.is_generate for t in trials)
    if generates and not release.has_generate:
        return False
    if "cancellation" in needs and not release.has_cancellation:
        return False
    if "stream-status" in needs and not release.has_stream_status:
        return False
    is_vllm = any(trial.server.model for trial in trials)
    return not is_vllm or release.vllm is not None or release.release > _FIRST_VLLM
