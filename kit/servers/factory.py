"""The server that a trial is about, made from its spec: the one place that knows the kinds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kit.servers.attached import AttachedServer
from kit.servers.base import Access, Server
from kit.servers.embedded import EmbeddedServer
from kit.servers.owner_commands import commands_for
from kit.servers.repository import build_repository, served_models
from kit.servers.vllm_env import environment_for
from kit.servers.vllm_repository import write_vllm_repository
from kit.servers.watch.gpus import GpuWatch, nvml_library
from kit.study.engines import check_conductible
from kit.study.folder import TrialFolder
from kit.study.hybrids import get_hybrid
from kit.study.releases import get_release
from kit.study.scenarios import get_scenario
from kit.study.spec import EngineKind, ServerKind, TrialSpec

#: The kit's models say in their configuration all that they have; asking them costs 1.5 s.
LAUNCH_ARGS = ("--disable-auto-complete-config",)


@contextmanager
def server_for(
    spec: TrialSpec, folder: TrialFolder, *, access: Access | None = None
) -> Iterator[Server]:
    """The trial's server, not started yet; at the end it is stopped and nothing of it is left.

    access: headers and certificates for a server that is not ours.

    Raises:
        SpecError: no trial can drive that kind of server, or its model cannot be served.
    """
    check_conductible(spec.engine, spec.server.kind, model=spec.server.model)
    if spec.server.kind is ServerKind.ATTACHED:
        attached = AttachedServer(
            spec.server,
            spec.workload.protocol,
            folder,
            access=access,
            commands=commands_for(spec.server.url or "", os.environ),
            ready_timeout_s=spec.ready_timeout_s,
        )
        try:
            yield attached
        finally:
            attached.stop()
        return
    if spec.server.kind is ServerKind.CONTAINER:
        with _container(spec, folder) as container:
            yield container
        return
    if spec.server.kind is ServerKind.HYBRID:
        with _hybrid(spec, folder) as hybrid:
            yield hybrid
        return
    vllm = environment_for(spec.engine)
    server = EmbeddedServer(
        get_release(spec.release),
        partial(build_repository, spec),
        folder,
        ready_timeout_s=spec.ready_timeout_s,
        extra_args=(*LAUNCH_ARGS, *get_scenario(spec.scenario).extra_args),
        python=vllm.python if vllm else None,
        env=vllm.env if vllm else None,
        extra_versions={spec.engine.kind.value: vllm.version} if vllm else None,
    )
    try:
        yield server
    finally:
        server.stop(patience_s=0.0)  # all that it can tell is on disk


@contextmanager
def _hybrid(spec: TrialSpec, folder: TrialFolder) -> Iterator[Server]:
    """As server_for."""
    from kit.servers.hybrid.server import HybridServer

    server = HybridServer(
        get_hybrid(spec.server.frontends or "", spec.server.release or ""),
        partial(build_repository, spec),
        folder,
        ready_timeout_s=spec.ready_timeout_s,
        extra_args=(*LAUNCH_ARGS, *get_scenario(spec.scenario).extra_args),
    )
    try:
        yield server
    finally:
        server.stop(patience_s=0.0)  # all that it can tell is on disk


@contextmanager
def _container(spec: TrialSpec, folder: TrialFolder) -> Iterator[Server]:
    """As server_for. Its SDK takes 0.3 s to import, so only these trials do."""
    from kit.servers.container import ContainerServer

    def write_repository(into: Path) -> Path:
        if spec.server.model:
            return write_vllm_repository(spec.server, into)
        return build_repository(spec, into)

    # The official backend fills in inputs and outputs by itself.
    own = () if spec.server.model else (*LAUNCH_ARGS, *get_scenario(spec.scenario).extra_args)
    server = ContainerServer(
        spec.server,
        write_repository,
        folder,
        arguments=own,
        ready_timeout_s=spec.ready_timeout_s,
    )
    try:
        yield server
    finally:
        server.stop(patience_s=0.0)  # all that it can tell is on disk


def watched_gpus(spec: TrialSpec) -> GpuWatch | None:
    """The GPUs of this machine that the trial's server has; None: it has none, or they are on
    another."""
    server = spec.server
    if server.kind is ServerKind.EMBEDDED and spec.engine.kind is EngineKind.VLLM:
        return GpuWatch(spec.engine.gpus, library=nvml_library())
    if server.kind is not ServerKind.CONTAINER or not server.gpus:
        return None
    from kit.servers.container_engine import address_of

    is_here = address_of(server.host, os.environ).destination is None
    return GpuWatch(server.gpus, library=nvml_library()) if is_here else None


def watched_models(spec: TrialSpec) -> list[str]:
    """The models whose metrics a trial keeps: its own first, then those that it calls."""
    if spec.server.model:
        return [spec.model]
    return served_models(spec.model)
