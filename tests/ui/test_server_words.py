"""Servers as they are written on the command line, alike in every command."""

from __future__ import annotations

import doctest

import pytest

from kit.errors import SpecError, UnknownReleaseError
from kit.study.spec import ServerKind, ServerSpec, StudySpec
from kit.ui import server_words
from kit.ui.cli import parser
from kit.ui.commands.study import spec_of
from kit.ui.server_words import server_named

EMBEDDED, CONTAINER, ATTACHED = ServerKind.EMBEDDED, ServerKind.CONTAINER, ServerKind.ATTACHED


@pytest.mark.parametrize(
    ("text", "given", "kind"),
    [
        ("24.05", {}, EMBEDDED),
        ("24.05", {"gpus": None, "model": ""}, EMBEDDED),
        ("24.05", {"gpus": "all"}, CONTAINER),
        ("25.10", {"model": "llama"}, CONTAINER),
        ("registry.example/triton:mine", {}, CONTAINER),
        ("triton:mine", {"memory": "16g"}, CONTAINER),
        ("http://llm.example:8000", {"model": "llama"}, ATTACHED),
        ("grpcs://llm.example", {"model": "llama"}, ATTACHED),
    ],
)
def test_a_word_names_a_release_an_image_or_an_address(
    text: str, given: dict[str, str | None], kind: ServerKind
) -> None:
    server = server_named(text, given)
    assert server.kind is kind
    assert text in (server.release, server.image, server.url)


def test_what_names_nothing_is_an_error_with_a_hint() -> None:
    with pytest.raises(UnknownReleaseError):
        server_named("24.50", {})
    with pytest.raises(SpecError, match="model"):
        server_named("http://llm.example:8000", {})


def chosen(*words: str) -> StudySpec:
    return spec_of(parser().parse_args(["run", *words]))


def test_a_study_mixes_embedded_releases_with_images_and_not_with_what_runs_already() -> None:
    spec = chosen("--release", "24.05", "--server", "triton:mine", "--scenario", "control")
    assert [server.kind for server in spec.servers] == [EMBEDDED, CONTAINER]
    (server,) = chosen("--server", "grpc://127.0.0.1:9", "--model", "m", "--rate", "5").servers
    assert (server.kind, server.model) == (ATTACHED, "m")
    with pytest.raises(SpecError, match="attached servers and of others"):
        chosen(
            *("--release", "24.05", "--server", "http://127.0.0.1:9", "--model", "m"),
            *("--scenario", "control"),
        )


def test_a_release_without_a_wheel_is_run_from_its_image_when_it_is_asked_for() -> None:
    words = ("--release", "25.10", "--scenario", "control")
    with pytest.raises(UnknownReleaseError, match=r"kit\.container"):
        chosen(*words)
    asked = ("--container", "--gpus", "0,1", "--shm", "2g", "--host", "ssh://me@gpu1")
    (server,) = chosen(*words, *asked).servers
    assert server == ServerSpec(
        kind=CONTAINER, release="25.10", gpus="0,1", shm="2g", host="ssh://me@gpu1"
    )


def test_a_model_for_embedded_releases_alone_is_refused() -> None:
    with pytest.raises(SpecError, match="--container"):
        chosen("--release", "24.05", "--scenario", "control", "--model", "m")


@pytest.mark.parametrize("command", ["run", "map", "limit", "soak", "preflight"])
def test_every_command_that_starts_servers_takes_the_same_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    said = capsys.readouterr().out
    for option in ("--container", "--model", "--gpus", "--host", "--metrics-url", "--yes"):
        assert option in said or (command, option) == ("preflight", "--yes")


def test_the_examples_of_the_words_are_true() -> None:
    assert doctest.testmod(server_words).failed == 0
    assert doctest.testmod(server_words).attempted > 0
