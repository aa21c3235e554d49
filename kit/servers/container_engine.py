"""Finds and reaches a container engine: Docker or podman, on this machine or over ssh."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kit.errors import SpecError
from kit.servers.engine_errors import Asked, container_error, no_engine, no_permission
from kit.servers.runs import Run
from kit.servers.tunnel import Tunnel

SOCKET: Final = "/var/run/docker.sock"
API_TIMEOUT_S: Final = 60
_SSH_ENDS_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an engine listens: a socket, on this machine unless `destination` names another."""

    socket: str
    destination: str | None = None  # user@host, as ssh takes it
    port: int | None = None  # of ssh

    @property
    def url(self) -> str:
        if self.destination is None:
            return f"unix://{self.socket}"
        port = "" if self.port is None else f":{self.port}"
        return f"ssh://{self.destination}{port}{'' if self.socket == SOCKET else self.socket}"


def address_of(host: str | None, environ: Mapping[str, str]) -> Address:
    """The engine that `host` names; None: the one of DOCKER_HOST, else this machine's.

    host: unix:///PATH, or ssh://[USER@]HOST[:PORT][/PATH OF THE SOCKET THERE].

    Raises:
        SpecError: another kind of address.
    """
    given = host or environ.get("DOCKER_HOST") or ""
    if not given:
        podman = Path(environ.get("XDG_RUNTIME_DIR", "/run")) / "podman/podman.sock"
        return Address(
            socket=SOCKET if Path(SOCKET).exists() or not podman.exists() else f"{podman}"
        )
    parts = urlsplit(given)
    with suppress(ValueError):  # a port that is no number
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return Address(socket=parts.path)
        name = parts.hostname or ""
        if parts.scheme == "ssh" and name and not name.startswith("-") and not parts.password:
            user = f"{parts.username}@" if parts.username else ""
            path = parts.path if len(parts.path) > 1 else SOCKET
            if not user.startswith("-"):
                return Address(socket=path, destination=f"{user}{name}", port=parts.port)
    raise SpecError(
        f"the container engine {given!r}",
        "unix:///PATH/docker.sock or ssh://USER@HOST",
        "an engine on a TCP port is reached over ssh to its machine",
    )


class ContainerEngine:
    """A reached engine. `client()` makes a new client of the Docker SDK: one a thread."""

    def __init__(self, address: Address, run: Run | None) -> None:
        self.address = address
        self._run = run
        self._tunnel: Tunnel | None = None
        self._path = address.socket
        if address.destination is not None:
            assert run is not None, "a tunnel belongs to a run"
            self._path = str(run.folder / "engine.sock")
            self._tunnel = Tunnel(
                run,
                address.destination,
                [f"{self._path}:{address.socket}"],
                Path(self._path).exists,
                port=address.port,
            )
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    @property
    def is_local(self) -> bool:
        return self._tunnel is None

    def how_lost(self, failure: str) -> str:
        """How the way to the engine was lost, once a question to it has failed so."""
        deadline = time.monotonic() + _SSH_ENDS_S
        while self._tunnel is not None and time.monotonic() < deadline:
            if said := self._tunnel.lost:  # ssh cuts what it carries, and then says why
                return f"ssh to {self.address.destination}: {said}"
            time.sleep(0.05)
        return f"its engine ended or broke off; {failure}"

    def client(self) -> Any:
        import docker

        with self.errors(Asked(engine=self.address.url)):
            return docker.DockerClient(base_url=f"unix://{self._path}", timeout=API_TIMEOUT_S)

    @contextmanager
    def errors(self, asked: Asked) -> Iterator[None]:
        """Turn what the SDK raises inside the block into a ContainerError with a hint.

        Raises:
            ContainerError: instead of it.
        """
        import docker
        import requests

        try:
            yield
        except docker.errors.APIError as error:
            raise container_error(str(error.explanation or error), asked) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise container_error(str(error), asked) from error

    def forward(self, ports: Mapping[int, int]) -> Tunnel | None:
        """Carry ports of the engine's loopback here, {local: there}; None: they are here."""
        if self.address.destination is None or self._run is None:
            return None
        return Tunnel(
            self._run,
            self.address.destination,
            [f"127.0.0.1:{local}:127.0.0.1:{there}" for local, there in ports.items()],
            lambda: all(_accepts(local) for local in ports),
            port=self.address.port,
        )

    def close(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()

    def _probe(self) -> None:
        """Connect once by hand: the SDK hides why it could not."""
        asked = Asked(engine=self.address.url)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(10.0)
            try:
                probe.connect(self._path)
            except PermissionError as error:
                raise no_permission(str(error), asked) from error
            except OSError as error:
                raise no_engine(str(error), asked) from error


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def engine_for(host: str | None, run: Run | None) -> ContainerEngine:
    """Reach the engine that `host` names.

    Raises:
        SpecError: no address of an engine.
        ContainerError: nobody answers there, or this user may not.
    """
    return ContainerEngine(address_of(host, os.environ), run)
