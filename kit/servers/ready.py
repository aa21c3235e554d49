"""Tells whether one process, and no other, serves at an endpoint."""

from __future__ import annotations

import http.client
import json

import psutil

from kit.study.spec import Endpoint

#: Of an answer that says which version a server is.
_MOST_BYTES = 1 << 20


def serves(pid: int, endpoint: Endpoint) -> bool:
    """Whether the process listens on all ports of the endpoint and says that it is ready.

    Readiness alone says less: another program on that port may answer, and Triton is ready
    before its metrics port is open.
    """
    return says_ready(endpoint) and _listens(pid, endpoint)  # the cheaper question first


def _listens(pid: int, endpoint: Endpoint) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    listening = {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    ports = {endpoint.http_port, endpoint.grpc_port, endpoint.metrics_port} - {None}
    return ports <= listening


def says_ready(endpoint: Endpoint) -> bool:
    """Whether something at its HTTP port says that it is ready."""
    assert endpoint.http_port is not None
    connection = http.client.HTTPConnection(endpoint.host, endpoint.http_port, timeout=5.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def server_version(endpoint: Endpoint) -> str | None:
    """The version of Triton that the server says it is; None: it does not say."""
    assert endpoint.http_port is not None
    connection = http.client.HTTPConnection(endpoint.host, endpoint.http_port, timeout=5.0)
    try:
        connection.request("GET", "/v2")
        found = json.loads(connection.getresponse().read(_MOST_BYTES))["version"]
    except (
        *(OSError, http.client.HTTPException),
        *(ValueError, KeyError, TypeError, RecursionError),
    ):
        return None
    finally:
        connection.close()
    return str(found)
