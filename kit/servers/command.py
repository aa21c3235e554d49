"""Builds the command line that starts a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit.servers.wheels import ServerFiles
from kit.study.spec import Endpoint

#: How long Triton itself waits for its models to unload when it is asked to end.
EXIT_TIMEOUT_S = 3

_REPEATABLE = frozenset({"--model-repository", "--backend-config"})


def refuses(extra_args: Sequence[str], service: str) -> bool:
    """Whether `extra_args` switch "http", "grpc" or "metrics" off."""
    return any(f"--allow-{service}={no}" in extra_args for no in ("false", "0"))


def triton_command(
    files: ServerFiles,
    *,
    program: Path,
    repository: Path,
    backends: Path,
    endpoint: Endpoint,
    shm_prefix: str,
    extra_args: Sequence[str],
) -> list[str]:
    """The command line; an option in `extra_args` ("--name=value") replaces the kit's own."""
    own = [
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
    ]
    ports = {
        "http": endpoint.http_port,
        "grpc": endpoint.grpc_port,
        "metrics": endpoint.metrics_port,
    }
    for service, port in ports.items():
        if port is not None:
            own.append(f"--{service}-port={port}")
        # 23.04 has no address option for metrics: they listen on the one given for HTTP.
        if service != "metrics" or files.has_metrics_address:
            own.append(f"--{service}-address={endpoint.host}")
    given = {argument.partition("=")[0] for argument in extra_args} - _REPEATABLE
    kept = [argument for argument in own if argument.partition("=")[0] not in given]
    return [str(program), *kept, *extra_args]
