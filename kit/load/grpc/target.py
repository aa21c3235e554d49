"""Prepares what every gRPC request begins with, from an endpoint and the environment."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kit.errors import SpecError
from kit.load.grpc.headers import RequestHead
from kit.load.http.target import Credentials, credentials_from, tls_context
from kit.study.spec import Endpoint

#: The name of HTTP/2 in a TLS handshake (ALPN).
HTTP2_BY_TLS = "h2"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcTarget:
    """Where gRPC requests go and what each begins with.

    Example:
        >>> target = grpc_target(Endpoint(grpc_port=8001), {}, "/inference/Infer")
        >>> target.port, target.tls is None
        (8001, True)
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    head: RequestHead


#: By which a client asks Triton (24.08 or later) to end a stream with the status of its error.
ERRORS_BY_STATUS = ("triton_grpc_error", "true")


def grpc_target(
    endpoint: Endpoint,
    environ: Mapping[str, str],
    method: str,
    more: Iterable[tuple[str, str]] = (),
) -> GrpcTarget:
    """The gRPC side of an endpoint, for one method ("/service/Method").

    more: header fields beside those that every request has.

    Raises:
        SpecError: it has none, or the environment's settings cannot be used.
    """
    if endpoint.grpc_port is None:
        raise SpecError(
            "a gRPC workload for a server without a gRPC port", "grpc_port", "give the port"
        )
    tls = tls_context(environ) if endpoint.tls else None
    if tls is not None:
        tls.set_alpn_protocols([HTTP2_BY_TLS])
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    fields = [
        (":path", method),
        (":authority", f"{host}:{endpoint.grpc_port}"),
        (":method", "POST"),
        (":scheme", "https" if endpoint.tls else "http"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-accept-encoding", "identity"),
        ("user-agent", "triton-crash-kit"),
        *more,
    ]
    return GrpcTarget(
        host=endpoint.host,
        port=endpoint.grpc_port,
        tls=tls,
        head=RequestHead(fields, _metadata(credentials_from(environ))),
    )


def _metadata(credentials: Credentials) -> list[tuple[str, str]]:
    """The credentials' headers as gRPC sends them: names that end in -bin have base64."""
    return [
        (name.lower(), b64encode(value.encode()).decode().rstrip("="))
        if name.lower().endswith("-bin")
        else (name.lower(), value)
        for name, value in credentials.headers
    ]
