"""A trial's protocol and endpoint in, a maker of its channels out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kit.load.channel import Channel, Host
from kit.load.dialect import Dialect
from kit.load.http1 import Frames
from kit.load.http_channel import HttpChannel
from kit.load.target import HttpTarget, http_target
from kit.load.triton_http import Generate
from kit.records import Endpoint, EngineKind, Protocol, TrialSpec

ChannelMaker = Callable[[Host], Channel]


def channel_maker(spec: TrialSpec, endpoint: Endpoint, environ: Mapping[str, str]) -> ChannelMaker:
    """What makes one channel after the other for this trial.

    Raises:
        SpecError: the endpoint does not have the port that the protocol needs, or the
            environment's settings cannot be used.
    """
    target = http_target(endpoint, environ)
    dialect = _dialect(spec, target)
    frames: Frames = {}
    check = spec.workload.answer_check
    return lambda host: HttpChannel(host, dialect, target, check, frames)


def _dialect(spec: TrialSpec, target: HttpTarget) -> Dialect:
    protocol, check = spec.workload.protocol, spec.workload.answer_check
    extra: dict[str, object] = {}
    if spec.engine.kind is not EngineKind.SIMULATED:
        extra = {"temperature": 0, "ignore_eos": True}
    return Generate(
        target,
        spec.model,
        streams=protocol is Protocol.HTTP_GENERATE_STREAM,
        check=check,
        extra=extra,
    )
