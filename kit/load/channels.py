"""Makes the channels of a trial's protocol and endpoint.

What only one protocol needs (grpc, tritonclient) is imported only for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol as Interface

from kit.load.channel import Channel, Host
from kit.load.http.channel import HttpChannel
from kit.load.http.dialect import Dialect
from kit.load.http.generate import Generate
from kit.load.http.layout import ResponseLayout
from kit.load.http.target import HttpTarget, http_target
from kit.load.links import Links
from kit.study.spec import AnswerCheck, Endpoint, EngineKind, Protocol, TrialSpec


class Channels(Interface):
    """Makes the channels of a worker, and closes what they have left open in the end."""

    def make(self, host: Host) -> Channel:
        """One more channel."""

    async def close(self) -> None:
        """Leave the server in good order."""


def channels_for(spec: TrialSpec, endpoint: Endpoint, environ: Mapping[str, str]) -> Channels:
    """The channels of a trial.

    Raises:
        SpecError: the endpoint does not have the port that the protocol needs, the protocol
            cannot do what the workload wants, or the environment's settings cannot be used.
    """
    quotes = spec.workload.quotes_answers and spec.workload.answer_check is not AnswerCheck.EXACT
    if spec.workload.protocol.is_grpc:
        from kit.load.grpc.channels import grpc_channels

        return grpc_channels(spec, endpoint, environ, _sampling(spec), quotes=quotes)
    return _HttpChannels(spec, http_target(endpoint, environ), quotes=quotes)


def _sampling(spec: TrialSpec) -> dict[str, object]:
    """A real engine is asked for exactly the tokens wanted; the simulated one needs no asking."""
    if spec.engine.kind is EngineKind.SIMULATED:
        return {}
    return {"temperature": 0, "ignore_eos": True}


class _HttpChannels:
    def __init__(self, spec: TrialSpec, target: HttpTarget, *, quotes: bool) -> None:
        self._dialect = _dialect(spec, target)
        self._target = target
        self._check = spec.workload.answer_check
        self._quotes = quotes
        self._layout = ResponseLayout()
        self._links: Links | None = None

    def make(self, host: Host) -> Channel:
        if self._links is None:
            self._links = Links(host.loop, host.clock)
        return HttpChannel(
            host,
            self._links,
            self._dialect,
            self._target,
            self._check,
            self._layout,
            quotes=self._quotes,
        )

    async def close(self) -> None:
        """Read nothing more; idle connections are closed with the process."""
        if self._links is not None:
            self._links.close()


def _dialect(spec: TrialSpec, target: HttpTarget) -> Dialect:
    protocol, extra = spec.workload.protocol, _sampling(spec)
    if protocol in (Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM):
        streams = protocol is Protocol.HTTP_GENERATE_STREAM
        return Generate(target, spec.model, streams=streams, extra=extra)
    if protocol is Protocol.HTTP_INFER:
        from kit.load.http.infer import HttpInfer

        return HttpInfer(target, spec.model, extra=extra)
    from kit.load.http.openai import OpenAi

    return OpenAi(
        target,
        spec.model,
        chat=protocol in (Protocol.OPENAI_CHAT, Protocol.OPENAI_CHAT_STREAM),
        streams=protocol in (Protocol.OPENAI_COMPLETIONS_STREAM, Protocol.OPENAI_CHAT_STREAM),
        check=spec.workload.answer_check,
        extra=extra,
    )
