"""What a container engine said, as an error of the kit with a hint.

Engines tell most of their failures by words alone; the patterns are those of dockerd and podman.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kit.errors import ContainerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the engine was asked for, so that an error can name it."""

    image: str = ""
    gpus: str | None = None
    engine: str = "unix:///var/run/docker.sock"


def container_error(said: str, asked: Asked) -> ContainerError:
    """The error that these words of an engine, or of the way to it, mean."""
    for pattern, make in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return make(said, asked)
    return ContainerError(
        f"the container engine at {asked.engine} says: {_short(said)}",
        "a container that starts",
        "correct what it names; `docker info` shows whether the engine works at all",
    )


def no_engine(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"no container engine answers at {asked.engine} ({_short(said)})",
        "the socket of a running Docker or podman",
        "start it (`systemctl start docker`, or `systemctl --user start podman.socket`), or name "
        "another one in DOCKER_HOST or host=",
    )


def no_permission(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"no permission to use the container engine at {asked.engine} ({_short(said)})",
        "a socket that this user may write to",
        "join its group (`sudo usermod -aG docker $USER`, then log in again), or use a rootless "
        "podman: DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock",
    )


def no_gpu(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"gpus={asked.gpus!r}, and the container got none ({_short(said)})",
        "nvidia-smi working inside the container",
        "install the NVIDIA container toolkit and run `nvidia-ctk runtime configure`, then start "
        "the engine again; podman drops the request of this API: give it GPUs as the default of "
        "its containers (CDI: `nvidia-ctk cdi generate`, devices in containers.conf)",
    )


def disk_full(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"no room for {asked.image or 'the container'} on the engine's disk ({_short(said)})",
        "free space of about three times what is downloaded; official vLLM images have 8 to 23 GB",
        "`docker system df` shows what takes room, `docker image prune` frees it",
    )


def wrong_architecture(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"the image {asked.image} is for another processor ({_short(said)})",
        "an image for the engine's processor",
        "choose one that was built for it; official images exist for amd64 and for arm64",
    )


def _login(said: str, asked: Asked) -> ContainerError:
    registry = asked.image.partition("/")[0] if "/" in asked.image else "docker.io"
    return ContainerError(
        f"the registry does not give {asked.image} to strangers ({_short(said)})",
        "an image that is public, or a login",
        f"`docker login {registry}`; if that is done, check the image's name",
    )


def _no_image(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"there is no image {asked.image} ({_short(said)})",
        "the name and tag of an image that the engine has or can pull",
        "check the tag; `kit releases` lists the official ones",
    )


def _no_registry(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"the image {asked.image} is not on the engine's machine and its registry cannot be "
        f"reached ({_short(said)})",
        "the image on that machine, or a way to the registry",
        "check the network, or bring it with `docker save` and `docker load`",
    )


def _port_taken(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"a port that the engine chose for the container is taken ({_short(said)})",
        "free ports on the engine's 127.0.0.1",
        "try again; if it stays, stop what holds thousands of ports",
    )


def _limit(said: str, asked: Asked) -> ContainerError:
    return ContainerError(
        f"the engine cannot set a limit of the container ({_short(said)})",
        "memory, shared memory and ulimits within what the engine may give",
        "lower what was given in memory=, shm= or ulimits=",
    )


#: The first that fits decides.
_MEANINGS: tuple[tuple[str, Callable[[str, Asked], ContainerError]], ...] = (
    (r"could not select device driver|nvidia-container-cli|unresolvable CDI|no GPU", no_gpu),
    (r"no space left on device|disk quota exceeded", disk_full),
    (
        r"no matching manifest|exec format error|does not match the (specified|detected)"
        r"|no image found in .* for architecture",
        wrong_architecture,
    ),
    (r"port is already allocated|address already in use", _port_taken),
    (r"rlimit|ulimit|shm.?size|memory limit|cannot set .*memory", _limit),
    (
        r"unauthorized|authentication required|access to the resource is denied|access denied"
        r"|may require 'docker login'|no basic auth"
        r"|\b401\b|\b403\b",
        _login,
    ),
    (
        r"manifest unknown|manifest for .* not found|no such image|not found: .*manifest"
        r"|repository .* not found|name unknown|invalid reference format",
        _no_image,
    ),
    (
        r"dial tcp|no such host|i/o timeout|server misbehaving|proxyconnect|tls handshake"
        r"|x509|request canceled while waiting|pinging container registry",
        _no_registry,
    ),
)


def _short(said: str) -> str:
    text = " ".join(said.split())
    return text if len(text) <= 300 else text[:297] + "..."
