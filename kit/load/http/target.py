"""Prepares what every HTTP request begins with, from an endpoint and the environment.

Secrets live in the environment alone; they go into the bytes on the wire and into nothing that
is written:

    KIT_BEARER_TOKEN   sent as `Authorization: Bearer ...`
    KIT_HEADERS        more headers, a JSON object of names and values
    KIT_CA_FILE        certificates to trust for https, a PEM file
    KIT_TLS_VERIFY     0 takes any certificate
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from kit.errors import SpecError
from kit.study.spec import Endpoint

BEARER_TOKEN = "KIT_BEARER_TOKEN"  # noqa: S105 - the variable's name, not a secret
HEADERS = "KIT_HEADERS"
CA_FILE = "KIT_CA_FILE"
TLS_VERIFY = "KIT_TLS_VERIFY"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that the kit itself decides; another value would break the exchange.
_OWN = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Headers that say who asks, and what must never be written anywhere."""

    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Credentials({', '.join(name for name, _ in self.headers)})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values, as they might come back in an error text."""
        values = [value for _, value in self.headers if len(value) > 3]
        values += [value.removeprefix("Bearer ") for value in values if value[:7] == "Bearer "]
        return tuple(values)


def credentials_from(environ: Mapping[str, str]) -> Credentials:
    """The headers that the environment asks for.

    Raises:
        SpecError: KIT_HEADERS is not a JSON object of texts, or has a header that cannot be sent.
    """
    headers: list[tuple[str, str]] = []
    token = environ.get(BEARER_TOKEN)
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    extra = environ.get(HEADERS)
    if extra:
        try:
            given = json.loads(extra)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise SpecError(
                f"{HEADERS} that is not a JSON object", '{"name": "value"}', f"correct {HEADERS}"
            )
        headers += [(str(name), str(value)) for name, value in given.items()]
    for name, value in headers:
        if not _NAME.fullmatch(name) or name.lower() in _OWN or re.search(r"[\r\n\0]", value):
            raise SpecError(
                f"the header {name!r}, which cannot be sent",
                "a header name that the kit does not set itself, and a value of one line",
                f"correct {HEADERS} or {BEARER_TOKEN}",
            )
    return Credentials(headers=tuple(headers))


def tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """How certificates are checked.

    Raises:
        SpecError: the file of certificates cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=environ.get(CA_FILE) or None)
    except (OSError, ssl.SSLError) as error:
        raise SpecError(
            f"{CA_FILE} that cannot be read ({error})", "a PEM file", f"correct {CA_FILE}"
        ) from error
    if environ.get(TLS_VERIFY) == "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTarget:
    """Where HTTP requests go and what each begins with."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    credentials: Credentials

    def head(self, path: str, headers: Mapping[str, str]) -> bytes:
        """The request line and all headers but the last, Content-Length."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"{name}: {value}" for name, value in self.credentials.headers]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def http_target(endpoint: Endpoint, environ: Mapping[str, str]) -> HttpTarget:
    """The HTTP side of an endpoint.

    Raises:
        SpecError: it has none, or the environment's settings cannot be used.
    """
    if endpoint.http_port is None:
        raise SpecError(
            "an HTTP workload for a server without an HTTP port", "http_port", "give the port"
        )
    return HttpTarget(
        host=endpoint.host,
        port=endpoint.http_port,
        tls=tls_context(environ) if endpoint.tls else None,
        credentials=credentials_from(environ),
    )
