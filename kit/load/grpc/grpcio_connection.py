"""Opens grpcio's connections to an endpoint, each shared by a few clients.

They are `grpc.aio` channels; messages go through them as bytes, encoded by kit.load.grpc.codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import grpc.aio

from kit.errors import SpecError
from kit.load.grpc.codec import STREAM_METHOD, UNARY_METHOD
from kit.load.http.target import CA_FILE, TLS_VERIFY, credentials_from
from kit.study.spec import Endpoint

_CONNECTIVITY = grpc.ChannelConnectivity
_LARGEST_MESSAGE_BYTES = 16 << 20
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to a server are one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a request is sent once
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
)


class GrpcioConnection:
    """One connection to the server; `stream` and `unary` begin calls on it."""

    def __init__(self, address: str, tls: Any, fields: Iterable[tuple[str, str]]) -> None:
        self._address = address
        self._tls = tls
        self._metadata = [(name.lower(), value) for name, value in fields]
        self._open()

    def _open(self) -> None:
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self._address, self._tls, options=_OPTIONS)
        self._stream = self._channel.stream_stream(STREAM_METHOD)
        self._unary = self._channel.unary_unary(UNARY_METHOD)

    async def ready(self) -> None:
        """Wait for the connection, so that a request's time does not begin before it.

        Returns, too, when there is none to be had: the request then says why.
        """
        state = self._channel.get_state(try_to_connect=True)
        while state in (_CONNECTIVITY.IDLE, _CONNECTIVITY.CONNECTING):
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    def stream(self, timeout_s: float | None) -> Any:
        """A new ModelStreamInfer."""
        return self._stream(metadata=self._metadata, timeout=timeout_s)

    def unary(self, request: bytes, timeout_s: float | None) -> Any:
        """A ModelInfer on its way."""
        return self._unary(request, metadata=self._metadata, timeout=timeout_s)

    async def break_off(self) -> None:
        """Close it as a client does that goes away; what comes next goes over a new one."""
        channel = self._channel
        self._open()
        await channel.close(None)

    async def close(self, grace_s: float | None) -> None:
        await self._channel.close(grace_s)


class GrpcioConnections:
    """Hands out the connections of a worker's clients.

    more: header fields beside the credentials.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        environ: Mapping[str, str],
        *,
        clients: int,
        more: Iterable[tuple[str, str]] = (),
    ) -> None:
        if endpoint.grpc_port is None:
            raise SpecError(
                "a gRPC workload for a server without a gRPC port", "grpc_port", "give the port"
            )
        self._address = f"{endpoint.host}:{endpoint.grpc_port}"
        self._tls = _tls(environ) if endpoint.tls else None
        self._fields = (*more, *credentials_from(environ).headers)
        self._clients = clients
        self._left = 0
        self._made: list[GrpcioConnection] = []

    def take(self) -> GrpcioConnection:
        """The connection of one more client."""
        if self._left == 0:
            self._made.append(GrpcioConnection(self._address, self._tls, self._fields))
            self._left = self._clients
        self._left -= 1
        return self._made[-1]

    async def close(self) -> None:
        """Close them all; calls that are still open are cancelled."""
        for connection in self._made:
            await connection.close(None)


def _tls(environ: Mapping[str, str]) -> Any:
    if environ.get(TLS_VERIFY) == "0":
        raise SpecError(
            f"{TLS_VERIFY}=0 for gRPC, which always checks certificates",
            f"the server's certificate in {CA_FILE}",
            f"set {CA_FILE}",
        )
    path = environ.get(CA_FILE)
    try:
        roots = None
        if path:
            with open(path, "rb") as file:
                roots = file.read()
    except OSError as error:
        raise SpecError(
            f"{CA_FILE} that cannot be read ({error})", "a PEM file", f"correct {CA_FILE}"
        ) from error
    return grpc.ssl_channel_credentials(root_certificates=roots)
