"""Servers as a person writes them: a release, a URL, or the name of an image."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Final

from kit.errors import SpecError
from kit.study.hybrids import get_hybrid, hybrid_parts
from kit.study.releases import get_release
from kit.study.spec import ServerKind, ServerSpec

ALL: Final = "all"
#: Of releases: all that this machine can run; an old one needs a Python that may not be there.
HERE: Final = "here"
SCHEMES: Final = ("http://", "https://", "grpc://", "grpcs://")
#: Of a server, beside its name: fields of ServerSpec with the option's metavar and help.
CONTAINER_FIELDS: Final = {
    "gpus": ("all", 'of a container: "all", "0,1" or UUIDs'),
    "host": ("ssh://ME@GPU", "where its container engine is (DOCKER_HOST, else this machine)"),
    "memory": ("16g", "of a container, at most"),
    "shm": ("1g", "shared memory of a container (1g)"),
}


def add_server_options(parser: ArgumentParser) -> None:
    """What else is to be said of a server that is no embedded release."""
    group = parser.add_argument_group("a server in a container, or one that runs already")
    group.add_argument("--container", action="store_true", help="releases as their official images")
    group.add_argument("--model", metavar="NAME", help="what a container or a URL serves")
    group.add_argument("--metrics-url", metavar="URL", help="of a URL (port 8002 of its host)")
    for name, (metavar, help) in CONTAINER_FIELDS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=help)


def server_of(text: str, args: Namespace, *, container: bool | None = None) -> ServerSpec:
    """The server that a word of the command line names, with add_server_options.

    container: a release is its image; None: if --container says so.

    Raises:
        UnknownReleaseError, SpecError: it names none.
    """
    given = {name: getattr(args, name) for name in ("model", "metrics_url", *CONTAINER_FIELDS)}
    is_image = args.container if container is None else container
    return server_named(text, given, container=is_image)


def server_named(
    text: str, given: Mapping[str, str | None], *, container: bool = False
) -> ServerSpec:
    """The server that `text` names: a release, a hybrid ("frontend 26.09 on core 24.10"), a URL, or
    an image (a name with "/" or ":").

    given: model, metrics_url and CONTAINER_FIELDS, None or "" where nothing is said. container: a
        release is its official image; it is as well where something of a container is given.

    Raises:
        UnknownReleaseError, SpecError: it names none.

    >>> server_named("24.05", {}).kind.value
    'embedded'
    >>> server_named("24.05", {"gpus": "all"}).kind.value
    'container'
    >>> server_named("26.09 on 24.10", {}).label
    'frontend 26.09 on core 24.10'
    >>> server_named("grpc://llm.example:8001", {"model": "llama"}).label
    'llm.example:8001'
    """
    said = {name: value for name, value in given.items() if value}
    model = said.get("model")
    if text.startswith(SCHEMES):
        if model is None:
            raise SpecError(f"{text} without a model", "the name of its model", "add --model NAME")
        return ServerSpec(
            kind=ServerKind.ATTACHED, url=text, model=model, metrics_url=said.get("metrics_url")
        )
    if (parts := hybrid_parts(text)) is not None:
        return hybrid_server(*parts)
    is_image = "/" in text or ":" in text
    if not (is_image or container or model or said.keys() & CONTAINER_FIELDS):
        return ServerSpec(release=get_release(text).release)
    return ServerSpec(
        kind=ServerKind.CONTAINER,
        release=None if is_image else get_release(text).release,
        image=text if is_image else None,
        model=model,
        gpus=said.get("gpus"),
        host=said.get("host"),
        memory=said.get("memory"),
        shm=said.get("shm"),
    )


def hybrid_server(frontends: str, core: str) -> ServerSpec:
    """The server with frontends of one release on the core of another.

    Raises:
        UnknownReleaseError: the kit has no such hybrid.
    """
    hybrid = get_hybrid(frontends, core)
    return ServerSpec(kind=ServerKind.HYBRID, release=hybrid.core, frontends=hybrid.frontends)
