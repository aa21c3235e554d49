"""Options that name the commands of a server's owner (kit.servers.owner_commands)."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace

from kit.servers.owner_commands import (
    LOG_COMMAND,
    PRESETS,
    PRESETS_BY_URL,
    RESTART_COMMAND,
    STATE_COMMAND,
    commands_from,
    preset,
    presets_by_url,
)

#: By the word that begins the option: its variable, and what it is for.
_OPTIONS = {
    "log": (LOG_COMMAND, "prints what the server logs from now on: a crash shows its stack"),
    "state": (STATE_COMMAND, "prints how the server is, or how it ended: exit code, restarts"),
    "restart": (RESTART_COMMAND, "restarts it, before each trial"),
}


def add_owner_commands(parser: ArgumentParser) -> None:
    """What tells of the process behind a URL."""
    group = parser.add_argument_group(
        "commands of a URL's owner",
        "what a URL does not tell: run on this machine without a shell, shown and asked about "
        "first, and kept in no study",
    )
    group.add_argument("--commands", metavar="WHERE:NAME", help=f"the usual ones: {PRESETS}")
    for word, (variable, about) in _OPTIONS.items():
        group.add_argument(f"--{word}-command", metavar="CMD", help=f"{about} ({variable})")


def use_owner_commands(args: Namespace) -> None:
    """Put what was said into this process's environment, where trials read it.

    Raises:
        SpecError: no such preset, or a command that cannot be cut into words.
    """
    if args.commands:
        for variable, _ in _OPTIONS.values():
            os.environ.pop(variable, None)
        os.environ.update(preset(args.commands).environment())
    for word, (variable, _) in _OPTIONS.items():
        if given := getattr(args, f"{word}_command"):
            os.environ[variable] = given
    commands_from(os.environ)


def use_preset(url: str, text: str | None) -> None:
    """Put a preset of the server at `url` alone there; None: it has none, whatever was said before.

    Raises:
        SpecError: there is no such preset.
    """
    named = presets_by_url(os.environ)
    named.pop(url, None)
    if text is not None:
        preset(text)
        named[url] = text
    os.environ[PRESETS_BY_URL] = json.dumps(named)
