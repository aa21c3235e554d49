"""Runs the checks before a study: every server under its traffic, and this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from kit.checks.cache import cache_findings
from kit.checks.finding import VLLM, Finding, Preflight, Severity, in_order_of_gravity
from kit.checks.here import here_findings
from kit.checks.known import release_findings
from kit.checks.telling import GPU, METRICS
from kit.study.hybrids import NO_RELEASE
from kit.study.plan import first_of_each_cell
from kit.study.releases import get_release
from kit.study.spec import EngineKind, ServerKind, ServerSpec, StudySpec, TrialSpec

#: A study of more cells is looked at in its first ones.
MOST_CELLS: Final = 2_000
HYBRID: Final = "hybrid"
SIMULATED: Final = "the kit's simulated engine stands in for it"


def preflight(spec: StudySpec, *, parallel: int | None = None, is_quick: bool = False) -> Preflight:
    """All checks of a study; nothing is generated, fetched or started.

    An attached server is asked for its readiness, version, model and metrics: seconds at the most.
    is_quick: leave out what the study itself asks first (the container engine, whether a
    release can run here).

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: the study cannot be run as written.
    """
    trials = _first_trials(spec)
    findings = [
        finding
        for server in dict.fromkeys(trial.server for trial in trials)
        for finding in _of_server([t for t in trials if t.server == server], is_quick)
    ]
    findings += here_findings(trials, parallel=parallel, is_quick=is_quick)
    return Preflight(
        servers=spec.releases,
        traffic=tuple(dict.fromkeys(trial.scenario for trial in trials)),
        findings=in_order_of_gravity(findings),
    )


def _first_trials(spec: StudySpec) -> list[TrialSpec]:
    """One trial of each cell, MOST_CELLS at the most."""
    found = []
    for trial in first_of_each_cell(spec):
        found.append(trial)
        if len(found) == MOST_CELLS:
            break
    return found


def _of_server(trials: Sequence[TrialSpec], is_quick: bool) -> Iterator[Finding]:
    # Each kind is loaded only where a study has it: every study is checked before it begins.
    server = trials[0].server
    if server.kind is ServerKind.ATTACHED:
        from kit.checks.attached import attached_findings

        yield from attached_findings(trials, server.label)
    elif server.kind is ServerKind.CONTAINER:
        from kit.checks.container import ask_engine, container_findings

        engine = None if is_quick else ask_engine(server)
        yield from container_findings(trials, server.label, engine)
    elif server.kind is ServerKind.HYBRID:
        yield _note(HYBRID, NO_RELEASE, server)
        yield _note(VLLM, SIMULATED, server)
    else:
        yield from _embedded(server, trials)


def _embedded(server: ServerSpec, trials: Sequence[TrialSpec]) -> Iterator[Finding]:
    release = get_release(server.release or "")
    yield from release_findings(release.release, trials, server.label)
    kinds = {trial.engine.kind for trial in trials}
    if EngineKind.SIMULATED in kinds:
        yield _note(VLLM, SIMULATED, server)
    for version in {t.engine.version for t in trials if t.engine.kind is EngineKind.VLLM_CPU}:
        own = release.vllm or "none"
        found = f"{version or 'the newest tested'} for the CPU; the release's own image has {own}"
        yield _note(VLLM, found, server)
    engines = dict.fromkeys(t.engine for t in trials if t.engine.kind is EngineKind.VLLM)
    if engines:
        from kit.checks.vllm_cuda import engine_findings

        own = release.vllm or "none"
        for version in dict.fromkeys(engine.version for engine in engines):
            found = f"{version or 'the newest tried'} on GPUs; the release's own image has {own}"
            yield _note(VLLM, found, server)
        yield from engine_findings(engines, server.label)
    yield from cache_findings(trials, server.label)
    told = "the kit's model puts KV usage on the metrics port and into the log"
    yield replace(_note(METRICS, told, server), severity=Severity.OK)
    if not engines:
        yield _note(GPU, "none: embedded servers of this study run on the processor", server)


def _note(topic: str, found: str, server: ServerSpec) -> Finding:
    return Finding(topic=topic, severity=Severity.NOTES, found=found, server=server.label)
