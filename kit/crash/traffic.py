"""Which faults of the catalog the traffic of a trial can show."""

from __future__ import annotations

from typing import Final

from kit.study.scenarios import Scenario, is_traffic, load_scenarios
from kit.study.spec import OWN_WORKLOAD, FaultKind, ServerKind, TrialSpec, Workload

#: Ways to ask for cancellation that no release dies of (data/scenarios.yaml).
HARMLESS: Final = ("coroutine", "none", None)
#: The model whose requests call another model.
PIPELINE: Final = "bls"


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
    return server.model is not None or not is_by_model(fault)


def is_by_model(fault: Scenario) -> bool:
    """Whether the crash takes a model that does something of its own, and not traffic alone."""
    return fault.model == PIPELINE or fault.parameters.get("cancel_check") not in HARMLESS


def _faults(workload: Workload) -> set[FaultKind]:
    """What its clients do on purpose; over HTTP a cancellation is a disconnect."""
    kinds = {fault.kind for fault in workload.faults if fault.fraction > 0}
    if FaultKind.CANCEL in kinds and not workload.protocol.is_grpc:
        kinds.add(FaultKind.DISCONNECT)
    return kinds
