"""Makes the gRPC channels of a trial, by the kit's own client or by grpcio.

Either lays its connections out alike: a few clients share one, or each that breaks its off has its
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from kit.load.channel import Channel, Host
from kit.load.grpc.channel import GrpcChannel
from kit.load.grpc.codec import Infer
from kit.load.grpc.connection import SharedConnection
from kit.load.grpc.target import ERRORS_BY_STATUS, grpc_target
from kit.load.links import Links
from kit.study.spec import (
    AnswerCheck,
    Client,
    Endpoint,
    FaultKind,
    Protocol,
    StreamErrors,
    TrialSpec,
)

#: As many clients share a connection as in Triton's own C++ client.
CLIENTS_A_CONNECTION = 6


def grpc_channels(
    spec: TrialSpec,
    endpoint: Endpoint,
    environ: Mapping[str, str],
    sampling: dict[str, object],
    *,
    quotes: bool,
) -> _OwnChannels | _GrpcioChannels:
    """The channels of a trial over gRPC.

    Raises:
        SpecError: the endpoint has no gRPC port, or the environment's settings cannot be used.
    """
    workload = spec.workload
    codec = Infer(spec.model, streams=workload.protocol is Protocol.GRPC_STREAM, extra=sampling)
    # A client that breaks its connection off must have its own.
    leaves = any(fault.kind is FaultKind.DISCONNECT for fault in workload.faults)
    clients = 1 if leaves else CLIENTS_A_CONNECTION
    by_status = workload.stream_errors is StreamErrors.STATUS
    fields = (ERRORS_BY_STATUS,) if by_status else ()
    answers = _Answers(codec, workload.answer_check, quotes, fields)
    if workload.grpc_client is Client.GRPCIO:
        return _GrpcioChannels(endpoint, environ, clients, answers)
    return _OwnChannels(endpoint, environ, clients, answers)


class _Answers(NamedTuple):
    """How every channel of a trial asks, and what it does with the answers."""

    codec: Infer
    check: AnswerCheck
    quotes: bool
    fields: tuple[tuple[str, str], ...]  # header fields beside those that every request has


class _OwnChannels:
    """The kit's own client of gRPC."""

    def __init__(
        self, endpoint: Endpoint, environ: Mapping[str, str], clients: int, answers: _Answers
    ) -> None:
        self._target = grpc_target(endpoint, environ, answers.codec.method, answers.fields)
        self._clients = clients
        self._answers = answers
        self._links: Links | None = None
        self._lines: list[SharedConnection] = []
        self._made: list[GrpcChannel] = []

    def make(self, host: Host) -> Channel:
        if self._links is None:
            self._links = Links(host.loop, host.clock)
        if len(self._made) % self._clients == 0:
            self._lines.append(SharedConnection(host, self._links, self._target))
        codec, check, quotes, _ = self._answers
        channel = GrpcChannel(host, self._lines[-1], codec, check, quotes=quotes)
        self._made.append(channel)
        return channel

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._made))
        for line in self._lines:
            line.break_off()
        if self._links is not None:
            self._links.close()


class _GrpcioChannels:
    """gRPC's own client, the reference."""

    def __init__(
        self, endpoint: Endpoint, environ: Mapping[str, str], clients: int, answers: _Answers
    ) -> None:
        from kit.load.grpc.grpcio_channel import GrpcioChannel
        from kit.load.grpc.grpcio_connection import GrpcioConnections

        self._connections = GrpcioConnections(
            endpoint, environ, clients=clients, more=answers.fields
        )
        self._answers = answers
        self._channel = GrpcioChannel
        self._made: list[GrpcioChannel] = []

    def make(self, host: Host) -> Channel:
        codec, check, quotes, _ = self._answers
        channel = self._channel(host, self._connections.take(), codec, check, quotes=quotes)
        self._made.append(channel)
        return channel

    async def close(self) -> None:
        for channel in self._made:
            await channel.close()
        await self._connections.close()
