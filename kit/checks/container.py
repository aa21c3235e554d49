"""Checks a container before it is made: engine, image, versions, GPUs, shared memory, KV cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kit.checks.cache import cache_findings, length_findings
from kit.checks.finding import VLLM, Finding, Severity
from kit.checks.gpu import gpu_findings
from kit.checks.known import TOPIC as RELEASE
from kit.checks.known import release_findings
from kit.checks.telling import told_by_official
from kit.crash.origin import release_named
from kit.errors import KitError
from kit.servers.container_engine import address_of, engine_for
from kit.servers.container_image import image_here, image_of
from kit.servers.container_options import SHM
from kit.servers.doctor import LEAST_SHM_BYTES
from kit.servers.engine_errors import Asked
from kit.servers.gpu import gpus_here
from kit.servers.runs import register
from kit.study.releases import get_release, load_releases
from kit.study.spec import ServerSpec, TrialSpec

ENGINE: Final = "container engine"
IMAGE: Final = "image"
SHARED: Final = "shared memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What the container engine said of itself and of the image; None: nothing."""

    is_local: bool = True
    image: Mapping[str, Any] | None = None
    problem: KitError | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the image sets."""
        config = (self.image or {}).get("Config") or {}
        pairs = (str(pair).partition("=") for pair in config.get("Env") or ())
        return {name: value for name, _, value in pairs}


def ask_engine(server: ServerSpec) -> EngineReport:
    """Ask the engine about the image. Nothing is pulled or made.

    Raises:
        SpecError: no address of an engine. UnknownReleaseError: no such release.
    """
    image = image_of(server)
    run = register()  # a tunnel to another machine's engine is the run's
    try:
        engine = engine_for(server.host, run)
        try:
            with engine.errors(Asked(image=image, engine=engine.address.url)):
                return EngineReport(is_local=engine.is_local, image=image_here(engine, image))
        finally:
            engine.close()
    except KitError as error:
        return EngineReport(problem=error)
    finally:
        run.forget()


def container_findings(
    trials: Sequence[TrialSpec], server: str, engine: EngineReport | None
) -> Iterator[Finding]:
    """What is known of a container before it is made.

    engine: what it said; None: it was not asked, since the study asks it itself.

    Raises:
        SpecError: options that say nothing.
    """
    spec = trials[0].server
    release = spec.release or release_named(image_of(spec))
    if release not in load_releases():
        release = None  # of an image of one's own
    if engine is not None:
        yield from _engine(engine, image_of(spec), server)
    yield from _release(release, trials, server)
    yield from _vllm(spec, release, engine, server)
    yield from _cache(trials, server)
    yield from _telling(spec, release, server)
    yield from _shared_memory(spec, server)
    yield from _gpus(spec, release, engine, server)


def _engine(engine: EngineReport, image: str, server: str) -> Iterator[Finding]:
    if engine.problem is not None:
        yield Finding(
            topic=ENGINE,
            severity=Severity.BLOCKS,
            found=engine.problem.given,
            hint=engine.problem.hint,
            server=server,
        )
        return
    where = "this machine" if engine.is_local else "another machine"
    yield Finding(topic=ENGINE, severity=Severity.OK, found=f"answers on {where}", server=server)
    if engine.image is None:
        yield Finding(
            topic=IMAGE,
            severity=Severity.NOTES,
            found=f"{image} is not there yet and will be pulled",
            reason="official vLLM images have 8 to 23 GB",
            server=server,
        )
    else:
        yield Finding(topic=IMAGE, severity=Severity.OK, found=f"{image} is there", server=server)


def _release(release: str | None, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    if release is None:
        yield Finding(
            topic=RELEASE,
            severity=Severity.NOT_CHECKED,
            found="because neither release= nor the image's name says which it is",
            hint="give the release as well",
            server=server,
        )
        return
    yield from release_findings(release, trials, server)


def _vllm(
    spec: ServerSpec, release: str | None, engine: EngineReport | None, server: str
) -> Iterator[Finding]:
    if spec.model is None:
        found = "the kit's simulated engine stands in for it"
        yield Finding(topic=VLLM, severity=Severity.NOTES, found=found, server=server)
        return
    own = get_release(release).vllm if release else None
    told = engine.environment.get("VLLM_VERSION") if engine else None
    mixes = "the public report had 0.3.2 in an image that was made and tested with 0.2.1.post1"
    if told and own and told.partition("+")[0] != own:
        yield Finding(
            topic=VLLM,
            severity=Severity.WARNS,
            found=f"the image says {told}, and the official image of {release} has {own}",
            reason=mixes,
            hint="take the official image, or say in the report that the pair is your own",
            server=server,
        )
    elif own and spec.image is None:
        found = f"the official image of {release} has {own}"
        yield Finding(topic=VLLM, severity=Severity.OK, found=found, server=server)
    else:
        yield Finding(
            topic=VLLM,
            severity=Severity.NOT_CHECKED,
            found="because it is read inside, once the container runs"
            + (f"; the official image of {release} has {own}" if own else ""),
            reason=mixes,
            hint="a run of another version is marked in its result",
            server=server,
        )


def _cache(trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    spec = trials[0].server
    if spec.model is None:
        yield from cache_findings(trials, server)
        return
    try:
        limit = json.loads(spec.engine_args or "{}").get("max_model_len")
    except (ValueError, AttributeError, RecursionError):
        limit = None  # refused, with its name, when the container is made
    yield from length_findings(trials, limit, server)
    yield from cache_findings(
        trials,
        server,
        unknown="because vLLM makes as many blocks as the GPU's memory holds once it starts",
    )


def _telling(spec: ServerSpec, release: str | None, server: str) -> Iterator[Finding]:
    if spec.model is not None:
        yield told_by_official(release, server)


def _shared_memory(spec: ServerSpec, server: str) -> Iterator[Finding]:
    import docker

    text = spec.shm or SHM
    try:
        size = docker.utils.parse_bytes(text)
    except docker.errors.DockerException:
        return  # refused, with its name, when the container is made
    if size < LEAST_SHM_BYTES:
        yield Finding(
            topic=SHARED,
            severity=Severity.WARNS,
            found=f"shm={text!r} for the container",
            reason="64 MB go to each instance of a Python model, more to vLLM's workers",
            hint='give shm="1g" or more, with tensor parallelism "8g"',
            server=server,
        )
    else:
        found = f"{text} for the container"
        yield Finding(topic=SHARED, severity=Severity.OK, found=found, server=server)


def _gpus(
    spec: ServerSpec, release: str | None, engine: EngineReport | None, server: str
) -> Iterator[Finding]:
    if spec.gpus is None:
        if spec.model is not None:
            yield Finding(
                topic="GPU",
                severity=Severity.WARNS,
                found="none is asked for, and the official vLLM images need one",
                hint='give gpus="all"',
                server=server,
            )
        return
    if engine is not None and engine.problem is not None:
        return
    if address_of(spec.host, os.environ).destination is not None:
        yield Finding(
            topic="GPU",
            severity=Severity.NOT_CHECKED,
            found="because the engine is on another machine; its container is asked at the start",
            hint="there: nvidia-smi, and docker run --rm --gpus all IMAGE nvidia-smi",
            server=server,
        )
        return
    yield from gpu_findings(
        spec.gpus,
        gpus_here(),
        release=release,
        environment=engine.environment if engine else {},
        server=server,
    )
