"""A StudySpec in, its TrialSpecs out: which server gets which traffic, in which order."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import msgspec

from kit.errors import SpecError
from kit.study.releases import Release, get_release
from kit.study.scenarios import Scenario, get_scenario
from kit.study.spec import AnswerCheck, Engine, EngineKind, ServerKind, StudySpec, TrialSpec

#: Folders of kit/servers/models with the same inputs, outputs and ways to ask for cancellation.
SIMULATED_MODEL = "simulated"
VLLM_MODEL = "vllm"
#: Real vLLM takes 20 s to start on a quiet machine.
VLLM_READY_S = 300.0
#: What a trial can put behind the server that it starts, which is an embedded one.
ENGINES = (EngineKind.SIMULATED, EngineKind.VLLM_CPU)


def check_conductible(engine: Engine, server_kind: ServerKind) -> None:
    """Refuse what would run as something else under its name.

    Raises:
        SpecError: no trial can put that engine behind a server, or start that kind of server.
    """
    if engine.kind not in ENGINES:
        raise SpecError(
            f"engine {engine.kind.value!r}, which needs a GPU and a server of its own",
            f"one of {', '.join(ENGINES)}",
            "take vllm-cpu, real vLLM on this machine's processor, or the simulated engine",
        )
    if server_kind is not ServerKind.EMBEDDED:
        raise SpecError(
            f"a trial with server_kind {server_kind.value!r}",
            f"{ServerKind.EMBEDDED.value!r}: a trial starts and ends its server itself",
            "leave server_kind out; for a server that runs already write a reproducer",
        )


def not_applicable(spec: StudySpec) -> dict[tuple[str, str], str]:
    """The (release, scenario) cells that cannot be run, each with what the release lacks."""
    if spec.server_kind is ServerKind.ATTACHED:  # it is what it is
        return {}
    cells = {}
    for release_name in spec.releases:
        for scenario_name in spec.scenarios:
            why = _why_not(get_release(release_name), get_scenario(scenario_name))
            if why:
                cells[release_name, scenario_name] = why
    return cells


def _why_not(release: Release, scenario: Scenario) -> str | None:
    if "generate" in scenario.needs and not release.has_generate:
        return f"{release.release} has no HTTP generate endpoint (it came with 23.10)"
    if "cancellation" in scenario.needs and not release.has_cancellation:
        return f"{release.release} cannot be asked about cancellation (that came with 23.10)"
    return None


def plan(spec: StudySpec) -> list[TrialSpec]:
    """The trials of a study, first repeats first, so that an early stop has seen every cell.

    The traffic's seed depends on scenario, concurrency and repeat, not on the release: every
    release gets the same requests.

    Raises:
        SpecError: no cell can be run, or no trial can conduct its engine or kind of server.
        UnknownReleaseError, UnknownScenarioError: a name is wrong.
    """
    for engine in spec.engines:
        check_conductible(engine, spec.server_kind)
    skipped = not_applicable(spec)
    trials = [
        _trial(spec, release, get_scenario(scenario), engine, concurrency, repeat)
        for repeat in range(spec.repeats)
        for concurrency in spec.concurrencies or (None,)
        for scenario in spec.scenarios
        for engine in spec.engines
        for release in spec.releases
        if (release, scenario) not in skipped
    ]
    if not trials:
        raise SpecError(
            "a study without a trial that can be run: " + "; ".join(sorted(set(skipped.values()))),
            "at least one scenario that one of its releases can show",
            "choose other releases or scenarios",
        )
    return trials


def _trial(
    spec: StudySpec,
    release: str,
    scenario: Scenario,
    engine: Engine,
    concurrency: int | None,
    repeat: int,
) -> TrialSpec:
    template = scenario.workload
    concurrency = template.arrivals.concurrency if concurrency is None else concurrency
    workload = replace(
        template,
        arrivals=replace(template.arrivals, concurrency=concurrency),
        requests=spec.requests or template.requests,
        seed=crc32(f"{spec.seed}/{scenario.name}/{concurrency}/{repeat}".encode()),
    )
    engine_tag = f"_{_engine_tag(engine)}" if len(spec.engines) > 1 else ""
    trial = TrialSpec(
        trial_id=f"{release}_{scenario.name}{engine_tag}_c{concurrency}_r{repeat}",
        release=release,
        scenario=scenario.name,
        model=scenario.model,
        parameters=dict(scenario.parameters),
        engine=engine,
        workload=workload,
        server_kind=spec.server_kind,
        repeat=repeat,
    )
    return on_real_vllm(trial) if engine.kind is EngineKind.VLLM_CPU else trial


def on_real_vllm(trial: TrialSpec) -> TrialSpec:
    """The same traffic for real vLLM in place of the simulated engine.

    Its words cannot be known beforehand, so only the echo of the prompt is checked. An answer
    that is not streamed shows nothing before it is whole, and a processor may need long for it,
    so no silence is a hang that a client would still wait through.

    Raises:
        SpecError: the scenario is not about the simulated engine's model.
    """
    if trial.model != SIMULATED_MODEL:
        raise SpecError(
            f"the scenario {trial.scenario!r} on real vLLM",
            f"a scenario of the model {SIMULATED_MODEL!r}; this one serves {trial.model!r}",
            "leave it out, or run it on the simulated engine",
        )
    check = trial.workload.answer_check
    if check is AnswerCheck.EXACT:
        check = AnswerCheck.ECHO
    return replace(
        trial,
        model=VLLM_MODEL,
        workload=replace(trial.workload, answer_check=check),
        ready_timeout_s=max(trial.ready_timeout_s, VLLM_READY_S),
        hang_after_s=max(trial.hang_after_s, trial.workload.timeout_s),
    )


def _engine_tag(engine: Engine) -> str:
    """Short and different for engines that differ in anything."""
    digest = crc32(msgspec.json.encode(engine)) & 0xFFFF
    return "-".join(filter(None, (engine.kind.value, engine.version, f"{digest:04x}")))
