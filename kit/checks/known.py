"""Checks a release against the catalog of crashes and the release map, and names better ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kit.checks.finding import Finding, Severity
from kit.crash.upgrade import LABELS, Advice, Risk, advise
from kit.study.releases import Release, load_releases
from kit.study.scenarios import Scenario, is_traffic, load_scenarios
from kit.study.spec import OWN_WORKLOAD, FaultKind, ServerKind, TrialSpec, Workload
from kit.study.words import listing, ranges

TOPIC: Final = "release"
#: Ways to ask for cancellation that no release dies of (data/scenarios.yaml).
HARMLESS: Final = ("coroutine", "none", None)
#: The model whose requests call another model.
PIPELINE: Final = "bls"
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


def traffic_of(trial: TrialSpec) -> tuple[str, ...]:
    """The scenarios whose crashes the traffic of a trial can show.

    That of the user's own is compared with each fault of the catalog: the same protocol, and all
    that its clients do. What a model does on its own part is known of the kit's models; of
    another it is not, so it counts.
    """
    if trial.scenario != OWN_WORKLOAD:
        return (trial.scenario,)
    known = load_scenarios().values()
    return tuple(one.name for one in known if _exercises(trial, one))


def _exercises(trial: TrialSpec, fault: Scenario) -> bool:
    load, server = trial.workload, trial.server
    if not is_traffic(fault.name) or fault.workload.protocol is not load.protocol:
        return False
    if not _faults(fault.workload) <= _faults(load):
        return False
    if fault.model == PIPELINE:  # the official backend calls no other models
        return server.kind is ServerKind.ATTACHED
    return server.model is not None or not _is_by_model(fault)


def _is_by_model(fault: Scenario) -> bool:
    """Whether the crash takes a model that does something of its own, and not traffic alone."""
    return fault.model == PIPELINE or fault.parameters.get("cancel_check") not in HARMLESS


def _faults(workload: Workload) -> set[FaultKind]:
    """What its clients do on purpose; over HTTP a cancellation is a disconnect."""
    kinds = {fault.kind for fault in workload.faults if fault.fraction > 0}
    if FaultKind.CANCEL in kinds and not workload.protocol.is_grpc:
        kinds.add(FaultKind.DISCONNECT)
    return kinds


def _risk(found: Advice, risk: Risk, trials: Sequence[TrialSpec], server: str) -> Finding:
    asks_model = any(trial.scenario == OWN_WORKLOAD for trial in trials) and all(
        _is_by_model(load_scenarios()[name]) for name in risk.traffic
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
    is_vllm = any(trial.server.model for trial in trials)
    return not is_vllm or release.vllm is not None or release.release > _FIRST_VLLM
