"""Triton in a container: an official image or any other, on a local or a remote engine.

The container is labelled with the run's name and the run is on the register before the container
is made, so that whatever happens `kit clean` finds and removes it. Ports are published on the
engine's loopback only, and carried here by a tunnel where the engine is remote.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from kit.errors import ContainerError, KitError, ServerStartError
from kit.servers.base import End
from kit.servers.container_engine import ContainerEngine, address_of
from kit.servers.container_image import ensure_image, image_of
from kit.servers.container_inside import check_gpus, memory_map, versions_inside
from kit.servers.container_life import ContainerLife
from kit.servers.container_options import HUB, creation
from kit.servers.containers_left import LABEL, note_container, remove_containers
from kit.servers.engine_errors import Asked, container_error, wrong_architecture
from kit.servers.ports import PortClaim
from kit.servers.processes import oom_kills
from kit.servers.ready import says_ready, server_version
from kit.servers.runs import Run, register
from kit.servers.startlog import decisive_lines
from kit.servers.traces import sweep
from kit.servers.tunnel import Tunnel
from kit.servers.vllm_repository import WEIGHTS, local_weights
from kit.study.files import write_whole
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, ServerSpec

HTTP, GRPC, METRICS = 8000, 8001, 8002
REPOSITORY: Final = "/models"
EXIT_TIMEOUT_S: Final = 3
_POLL_S: Final = 0.1
_SEARCH_S: Final = 5.0
_LOG_TAIL_BYTES: Final = 200_000


class ContainerServer:
    """One life of one server in a container of its own.

    repository: writes the model repository into a folder; the kit copies it into the container.
    arguments: of Triton, after the kit's own.
    """

    def __init__(
        self,
        spec: ServerSpec,
        repository: Callable[[Path], Path],
        folder: TrialFolder,
        *,
        arguments: Sequence[str] = (),
        ready_timeout_s: float = 60.0,
    ) -> None:
        self._spec = spec
        self._image = image_of(spec)
        self._repository = repository
        self._folder = folder
        self._arguments = tuple(arguments)
        self._ready_timeout_s = ready_timeout_s
        self._asked = Asked(image=self._image, gpus=spec.gpus)
        self._run: Run | None = None
        self._engine: ContainerEngine | None = None
        self._client: Any = None
        self._container: Any = None
        self._claim: PortClaim | None = None
        self._tunnel: Tunnel | None = None
        self._life: ContainerLife | None = None
        self._is_creating = False
        self._oom_before: int | None = None
        self._versions: dict[str, str] = {}

    @property
    def pid(self) -> int | None:
        """The server's process, where the engine's processes are this machine's."""
        return self._life.pid if self._life else None

    @property
    def sees_exit(self) -> bool:
        return True

    @property
    def modules(self) -> Path | None:
        return None

    @property
    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    def start(self) -> Endpoint:
        """Make and start the container, and wait until the server in it is ready.

        Raises:
            ContainerError: the engine or the image cannot be used as asked.
            ServerStartError: the server ended, or was not ready in time.
            Nothing is left of it then.
        """
        if self._run is not None:
            raise ServerStartError("a server that was started before", "a new one", "make another")
        sweep()
        self._oom_before = oom_kills()
        try:
            self._create()
            endpoint = self._launch()
            self._wait_ready(endpoint)
            self._look_inside(endpoint)
            self._describe(endpoint)
        except BaseException:
            self.stop(patience_s=0.0)
            raise
        return endpoint

    def end(self, timeout_s: float = 0.0) -> End | None:
        """Its exit status, -11 for a signal as with an embedded server, once it has ended."""
        if self._life is None:
            return None
        end = self._life.end(timeout_s)
        if end is None and self._tunnel is not None and (said := self._tunnel.lost):
            return End(at_ns=time.monotonic_ns(), lost=f"ssh, which carries its ports: {said}")
        return end

    def out_of_memory(self) -> bool | None:
        """Whether the engine, or here the kernel, counted a kill for want of memory."""
        now = oom_kills() if self.pid is not None else None
        counted = None if now is None or self._oom_before is None else now > self._oom_before
        with contextlib.suppress(ContainerError):
            if self._container is not None and self._state().get("OOMKilled"):
                return True
        return counted

    def stop(self, *, patience_s: float = 5.0) -> None:
        """End it and remove the container, the tunnel and all that belongs to the run."""
        if self._life is not None:
            self._life.stopping.set()
        gone = True
        if self._container is not None and self._engine is not None:
            try:
                with self._engine.errors(self._asked):
                    if patience_s > 0 and self.end() is None:
                        self._container.stop(timeout=max(1, round(patience_s)))
                    self._container.remove(force=True, v=True)
                self._container, self._is_creating = None, False
            except KitError:
                gone = False  # it stays on the register, for `kit clean`
        elif self._is_creating and self._run is not None:  # stopped before the engine answered
            gone = remove_containers(self._run) is not None
        if self._life is not None:
            self._life.join()
        if self._client is not None:
            self._client.close()
        if self._tunnel is not None:
            self._tunnel.close()
        if self._engine is not None:
            self._engine.close()
        if self._claim is not None:
            self._claim.release()
        if self._run is not None and gone:
            self._run.forget()

    def _create(self) -> None:
        """Up to a container that has all that it needs, and does not run yet."""
        self._run = register()
        address = address_of(self._spec.host, os.environ)
        self._asked = Asked(image=self._image, gpus=self._spec.gpus, engine=address.url)
        note_container(self._run.record, address.url)
        self._engine = ContainerEngine(address, self._run)
        image = ensure_image(self._engine, self._image)
        self._versions["image"] = str(image["Id"])
        weights = local_weights(self._spec)
        repository = self._repository(self._run.folder / "repository")
        self._client = self._engine.client()
        self._is_creating = True
        with self._engine.errors(self._asked):
            self._container = self._client.containers.create(
                self._image,
                self._command(),
                name=f"tck-{self._run.name}",
                labels={LABEL: self._run.name},
                ports={f"{port}/tcp": ("127.0.0.1", None) for port in (HTTP, GRPC, METRICS)},
                environment=self._run_environment(),
                **creation(self._spec, weights, is_local=self._engine.is_local),
            )
            self._copy(repository, REPOSITORY)
            if weights is not None and not self._engine.is_local:
                self._copy(weights, WEIGHTS)

    def _copy(self, folder: Path, name: str) -> None:
        """Put a copy of `folder` into the container, where any user may read it."""
        assert self._run is not None
        with tempfile.TemporaryFile(dir=self._run.folder) as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                tar.add(folder, arcname=name.lstrip("/"), filter=_readable)
            packed.seek(0)
            self._container.put_archive("/", packed)

    def _run_environment(self) -> dict[str, str]:
        """The run's mark, and what vLLM needs to fetch a model; a secret is not written down."""
        assert self._run is not None
        mark = {k: v for k, v in self._run.environment.items() if k != "TMPDIR"}
        if self._spec.model:
            mark["HF_HOME"] = HUB
        passed = ("HF_TOKEN", "HF_ENDPOINT") if self._spec.model else ()
        return mark | {name: os.environ[name] for name in passed if name in os.environ}

    def _command(self) -> list[str]:
        return [
            "tritonserver",
            f"--model-repository={REPOSITORY}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            *self._arguments,
            *self._spec.server_args,
        ]

    def _launch(self) -> Endpoint:
        assert self._engine is not None
        with self._engine.errors(self._asked):
            self._container.start()
            self._container.reload()
            network = self._container.attrs["NetworkSettings"]["Ports"]
        there = [
            int(published[0]["HostPort"]) if (published := network.get(f"{port}/tcp")) else None
            for port in (HTTP, GRPC, METRICS)
        ]
        self._life = ContainerLife(
            self._engine, self._container.id, self._folder.log, first_pid=self._first_pid()
        )
        if None in there:  # an engine publishes nothing for what ended at once
            self.end(5.0)
            raise self._did_not_start("ended as soon as it was started")
        ports = [port for port in there if port is not None]
        if not self._engine.is_local:
            self._claim = PortClaim(len(ports))
            self._tunnel = self._engine.forward(dict(zip(self._claim.ports, ports, strict=True)))
            ports = list(self._claim.ports)
        return Endpoint(
            host="127.0.0.1", http_port=ports[0], grpc_port=ports[1], metrics_port=ports[2]
        )

    def _wait_ready(self, endpoint: Endpoint) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline:
            end = self.end(_POLL_S)
            if end is not None and end.lost:
                raise ContainerError(
                    f"the way to the engine was lost: {end.lost}",
                    "a connection that holds",
                    "check the network, and that the machine is up",
                )
            if end is not None:
                raise self._did_not_start(f"ended with {end.exit_code} before it was ready")
            if says_ready(endpoint):
                return
        raise self._did_not_start(f"was not ready within {self._ready_timeout_s:g} s")

    def _did_not_start(self, failure: str) -> KitError:
        try:
            log = self._folder.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            log = ""
        if "exec format error" in log.lower():
            return wrong_architecture("exec format error", self._asked)
        with contextlib.suppress(ContainerError):
            state = self._state()
            if self.out_of_memory():
                failure += ", and a process of it was killed for want of memory"
            elif state.get("Error"):
                return container_error(str(state["Error"]), self._asked)
        lines = decisive_lines(log)
        return ServerStartError(
            f"{self._image} {failure}"
            + ("\n  ".join(["; its log says:", *lines]) if lines else "; its log is empty"),
            f"HTTP 200 from /v2/health/ready within {self._ready_timeout_s:g} s",
            f"correct what the log names (all of it: {self._folder.log})",
        )

    def _first_pid(self) -> int | None:
        """The container's first process, where the engine's processes are this machine's."""
        first = int(self._container.attrs["State"].get("Pid") or 0)
        return first if first and self._engine and self._engine.is_local else None

    def _look_inside(self, endpoint: Endpoint) -> None:
        """Ask for the GPUs, the memory map and the versions, in the container itself.

        Raises:
            ContainerError: GPUs were asked for, and there is none inside.
        """
        assert self._life is not None
        self._life.search(_SEARCH_S)
        if self._spec.gpus is not None:
            check_gpus(self._container, self._asked)
        if maps := memory_map(self._container, self.pid):
            write_whole(self._folder.maps, maps)
        self._versions |= versions_inside(self._container)
        if triton := server_version(endpoint):
            self._versions["triton"] = triton
        if self._spec.release:
            self._versions["release"] = self._spec.release
            own = get_release(self._spec.release).vllm
            if own and self._versions.get("vllm", own) != own:
                self._versions["vllm-of-release"] = own

    def _state(self) -> dict[str, Any]:
        assert self._engine is not None
        with self._engine.errors(self._asked):
            return dict(self._client.api.inspect_container(self._container.id)["State"])

    def _describe(self, endpoint: Endpoint) -> None:
        assert self._run is not None
        assert self._engine is not None
        description = {
            "kind": "container",
            "image": self._image,
            "remote": not self._engine.is_local,
            "run": self._run.name,
            "pid": self.pid,
            "versions": self.versions,
            "host": endpoint.host,
            "http_port": endpoint.http_port,
            "grpc_port": endpoint.grpc_port,
            "metrics_port": endpoint.metrics_port,
            "command": self._command(),
        }
        write_whole(self._folder.server, json.dumps(description, indent=2).encode() + b"\n")


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
