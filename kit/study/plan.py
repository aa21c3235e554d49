"""Plans a study: which server gets which traffic, in which order."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from zlib import crc32

import msgspec

from kit.errors import SpecError
from kit.study.engines import SIMULATED_MODEL, check_conductible, engine_tag, on_real_vllm
from kit.study.grid import FIELDS, points, tag_of, with_traffic
from kit.study.hybrids import get_hybrid, unread_option
from kit.study.releases import get_release
from kit.study.scenarios import get_scenario
from kit.study.spec import (
    OWN_WORKLOAD,
    AnswerCheck,
    ArrivalKind,
    Engine,
    EngineKind,
    Protocol,
    ServerKind,
    ServerSpec,
    StudySpec,
    TrialSpec,
    Workload,
)
from kit.study.traces.pinned import pinned
from kit.study.traffic_field import Point

#: A container may fetch its model first.
CONTAINER_VLLM_READY_S = 1800.0
#: The name under which a container serves `ServerSpec.model` (kit.servers.vllm_repository).
CONTAINER_VLLM_MODEL = "vllm_model"
#: Least time for a trial's load; one that by its rate or duration takes longer gets longer.
LOAD_S = 120.0
#: A soak ends with its requests, however long they take.
SOAK_S = 7 * 24 * 3600.0
#: Of a server that is not ours nobody knows how fast it is.
ATTACHED_LOAD_S = 24 * 3600.0


def not_applicable(spec: StudySpec) -> dict[tuple[str, str], str]:
    """The (release, scenario) cells that cannot be run, each with what the release lacks."""
    cells = {}
    for server in spec.servers:
        for name in spec.scenarios or (OWN_WORKLOAD,):
            lacks = [_lacks(server, name, protocol) for protocol in _protocols(spec, name)]
            if all(lacks):
                cells[server.label, name] = str(lacks[0])
    return cells


def _protocols(spec: StudySpec, scenario: str) -> list[Protocol]:
    if "protocol" in spec.grid:
        return [Protocol(str(value)) for value in spec.grid["protocol"]]
    return [_template(spec, scenario).protocol]


def _template(spec: StudySpec, scenario: str) -> Workload:
    return spec.workload or get_scenario(scenario).workload


def _lacks(server: ServerSpec, scenario: str, protocol: Protocol) -> str | None:
    """What a server lacks for a scenario over a protocol; None: nothing that is known."""
    if server.kind is ServerKind.ATTACHED or server.release is None:  # it is what it is
        return None
    release = get_release(server.release)
    if protocol.is_generate and not release.has_generate:
        return f"{release.release} has no HTTP generate endpoint (it came with 23.10)"
    if protocol.is_openai:
        return f"a server of kind {server.kind} has no OpenAI endpoint"
    needs = get_scenario(scenario).needs
    if server.kind is ServerKind.HYBRID:
        if (unread := unread_option(get_scenario(scenario).extra_args)) is not None:
            return f"a hybrid has no main program that reads {unread}"
        release = get_release(server.frontends or server.release)
    if "cancellation" in needs and not release.has_cancellation:
        return f"{release.release} cannot be asked about cancellation (that came with 23.10)"
    if "stream-status" in needs and not release.has_stream_status:
        return f"{release.release} knows no header triton_grpc_error (it came with 24.08)"
    return None


#: More take weeks, and their plan alone does not fit into memory.
MOST_TRIALS = 1_000_000


def count(spec: StudySpec) -> int:
    """How many trials a study has, at most, by multiplication.

    Raises:
        SpecError: as `plan`.
    """
    _check(spec)
    cells = sum(
        _lacks(server, name, protocol) is None
        for server in spec.servers
        for name in spec.scenarios or (OWN_WORKLOAD,)
        for protocol in _protocols(spec, name)
    )
    others = [len(values) for name, values in spec.grid.items() if name != "protocol"]
    trials = cells * len(spec.engines) * math.prod(others) * spec.repeats
    if trials > MOST_TRIALS:
        raise SpecError(
            f"a study of {trials:,} trials",
            f"at most {MOST_TRIALS:,}",
            "give fewer repeats, or fewer values to sweep",
        )
    return trials


def most_trials(spec: StudySpec) -> int:
    """How many trials a study runs at the most; a search for a limit says so itself.

    Raises:
        SpecError: as count.
    """
    return spec.limit.most_trials if spec.limit is not None else count(spec)


def plan(spec: StudySpec) -> list[TrialSpec]:
    """The trials of a study, first repeats first, so that an early stop has seen every cell.

    The traffic's seed depends on scenario, traffic and repeat, not on the server: every release
    gets the same requests.

    Raises:
        SpecError: no cell can be run, no trial can conduct its engine or kind of server, or
            values of its grid do not go together.
        UnknownReleaseError, UnknownScenarioError: a name is wrong.
    """
    count(spec)  # too many are refused before any is made
    return list(trials_of(spec))


def trials_of(spec: StudySpec) -> Iterator[TrialSpec]:
    """As `plan`, one after another. What cannot be run is refused before the first."""
    _check(spec)
    return _trials(spec)


def first_of_each_cell(spec: StudySpec) -> Iterator[TrialSpec]:
    """One trial of each cell: all that differs but the repeats."""
    return trials_of(replace(spec, repeats=1, least_repeats=1))


def _check(spec: StudySpec) -> None:
    for server in spec.servers:
        if server.kind is ServerKind.HYBRID:
            get_hybrid(server.frontends or "", server.release or "")
        for engine in spec.engines:
            check_conductible(engine, server.kind, model=server.model)
    if len({server.kind is ServerKind.ATTACHED for server in spec.servers}) > 1:
        raise SpecError(
            "a study of attached servers and of others",
            "servers that run already, or servers that the kit starts",
            "make two studies, and compare them",
        )
    kinds = Counter(label for label, _ in {(s.label, s.kind) for s in spec.servers})
    if twice := next((label for label, count in kinds.items() if count > 1), None):
        raise SpecError(
            f"{twice} embedded and in a container, in one study",
            "one server of each name",
            "make two studies, and compare them (kit.compare)",
        )
    skipped = not_applicable(spec)
    if len(skipped) == len({s.label for s in spec.servers}) * len(spec.scenarios or "w"):
        raise SpecError(
            "a study without a trial that can be run: " + "; ".join(sorted(set(skipped.values()))),
            "at least one scenario that one of its releases can show",
            "choose other releases or scenarios",
        )
    # Words about when requests are sent depend on each other; all others are checked one by one.
    together = (
        *("concurrency", "rate", "arrivals", "burstiness_cv", "disconnect", "cancel"),
        *("turns", "trace", "trace_speed", "trace_lengths"),
    )
    dependent = {name: spec.grid[name] for name in together if name in spec.grid}
    for name in spec.scenarios or (OWN_WORKLOAD,):
        for point in points(dependent):
            with_traffic(_template(spec, name), point)


def _trials(spec: StudySpec) -> Iterator[TrialSpec]:
    tags = _server_tags(spec)
    for repeat in range(spec.repeats):
        for point in points(spec.grid):
            for scenario in spec.scenarios or (OWN_WORKLOAD,):
                workload = _workload(spec, scenario, point, repeat)
                for engine in spec.engines:
                    for server, tag in tags.items():
                        if _lacks(server, scenario, workload.protocol) is None:
                            yield _trial(
                                spec, server, tag, scenario, engine, workload, point, repeat
                            )


def _workload(spec: StudySpec, scenario: str, point: Point, repeat: int) -> Workload:
    """The traffic of one point of the grid. The repeat is in its seed."""
    template = _template(spec, scenario)
    workload = with_traffic(template, point) if point else template
    others = [f"/{name}={point[name]}" for name in FIELDS if name in point and name not in _SEEDED]
    own = [f"/seed={template.seed}"] if template.seed and spec.workload else []
    words = f"{spec.seed}/{scenario}/{workload.concurrency}/{repeat}" + "".join(others + own)
    requests = spec.requests or workload.requests
    return replace(workload, requests=requests, seed=crc32(words.encode()))


#: Words that are in the seed already, or that leave the beginning of the traffic as it is.
_SEEDED = (
    *("concurrency", "requests", "duration_s", "max_errors", "max_error_fraction", "timeout_s"),
    *("answer_check", "processes", "load_hosts", "grpc_client"),
    *("trace", "trace_speed", "trace_lengths"),
)


def _trial(
    spec: StudySpec,
    server: ServerSpec,
    tag: str,
    scenario: str,
    engine: Engine,
    workload: Workload,
    point: Point,
    repeat: int,
) -> TrialSpec:
    own_tag = f"_{engine_tag(engine)}" if len(spec.engines) > 1 else ""
    loop_tag = f"_c{workload.concurrency}" if workload.concurrency else ""
    others = [f"_{tag_of(name, point[name])}" for name in point if name != "concurrency"]
    trial = TrialSpec(
        trial_id=f"{tag}_{scenario}{own_tag}{loop_tag}{''.join(others)}_r{repeat}",
        server=server,
        scenario=scenario,
        model=_model(server, scenario),
        parameters=_parameters(server, scenario),
        engine=engine,
        workload=workload,
        repeat=repeat,
        timeout_s=_load_s(workload) if spec.soak is None else max(SOAK_S, _load_s(workload)),
    )
    if server.kind is ServerKind.ATTACHED:
        return _on_attached(trial)
    if server.kind is ServerKind.CONTAINER and server.model:
        return _on_official_vllm(trial)
    return trial if engine.kind is EngineKind.SIMULATED else on_real_vllm(trial)


def _model(server: ServerSpec, scenario: str) -> str:
    if server.model:
        return server.model if server.kind is ServerKind.ATTACHED else CONTAINER_VLLM_MODEL
    return SIMULATED_MODEL if scenario == OWN_WORKLOAD else get_scenario(scenario).model


def _parameters(server: ServerSpec, scenario: str) -> dict[str, str]:
    """Of the model's configuration. Under a workload of the user's own it asks for cancellation
    as its documentation says, where the release can be asked."""
    if server.model:
        return {}
    if scenario != OWN_WORKLOAD:
        return dict(get_scenario(scenario).parameters)
    can_ask = server.release is None or get_release(server.release).has_cancellation
    return {"cancel_check": "coroutine" if can_ask else "none"}


def _load_s(workload: Workload) -> float:
    """How long the load may take: twice what its rate or duration says, and LOAD_S at least."""
    expected_s = [workload.duration_s] if workload.duration_s else []
    if workload.requests and workload.rate:
        expected_s.append(workload.requests / workload.rate)
    if workload.trace and workload.arrivals.kind is ArrivalKind.TRACE:
        span_s = pinned(workload.trace).span_s or 0.0
        expected_s.append(span_s / workload.arrivals.trace_speed)
    return max(LOAD_S, 2 * min(expected_s) + workload.timeout_s) if expected_s else LOAD_S


def _on_attached(trial: TrialSpec) -> TrialSpec:
    """The same traffic for a server that somebody else runs: its words cannot be known, unless
    the study says that its engine is the simulated one."""
    workload = trial.workload
    if trial.engine.kind is not EngineKind.SIMULATED and workload.answer_check is AnswerCheck.EXACT:
        workload = replace(workload, answer_check=AnswerCheck.NONE)
    return replace(
        trial,
        workload=workload,
        timeout_s=max(trial.timeout_s, ATTACHED_LOAD_S),
        hang_after_s=max(trial.hang_after_s, workload.timeout_s),
    )


def _on_official_vllm(trial: TrialSpec) -> TrialSpec:
    """The same traffic for the official vLLM backend in a container.

    Whether it repeats the prompt, and how, differs between its versions: words are not checked.

    Raises:
        SpecError: the scenario is not about a model that generates text.
    """
    if trial.scenario != OWN_WORKLOAD and get_scenario(trial.scenario).model != SIMULATED_MODEL:
        raise SpecError(
            f"the scenario {trial.scenario!r} on the official vLLM backend",
            f"a scenario of the model {SIMULATED_MODEL!r}",
            "leave it out, or leave out model= of the container",
        )
    return replace(
        trial,
        workload=replace(trial.workload, answer_check=AnswerCheck.NONE),
        ready_timeout_s=max(trial.ready_timeout_s, CONTAINER_VLLM_READY_S),
        hang_after_s=max(trial.hang_after_s, trial.workload.timeout_s),
    )


def _server_tags(spec: StudySpec) -> dict[ServerSpec, str]:
    """The beginning of a trial's name: the server's label, different for different servers."""
    labels = Counter(server.label for server in spec.servers)
    tags = {}
    for server in spec.servers:
        tag = re.sub(r"[^A-Za-z0-9.-]+", "-", server.label)
        if labels[server.label] > 1 or tag != server.label:
            tag = f"{tag}-{crc32(msgspec.json.encode(server)) & 0xFFFF:04x}"
        tags[server] = tag
    return tags
