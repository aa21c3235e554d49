"""What a server's owner lets the kit run beside it: to follow its log, to ask for its state, to
restart it.

A URL tells nothing of the process behind it. Three commands may: each is a list of words that is
run without a shell, with the owner's own rights, and comes from the environment alone, as secrets
do: a study folder or a spec that somebody sent can name none.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from kit.errors import SpecError

LOG_COMMAND: Final = "KIT_LOG_COMMAND"
STATE_COMMAND: Final = "KIT_STATE_COMMAND"
RESTART_COMMAND: Final = "KIT_RESTART_COMMAND"
#: {URL: preset} as JSON: what `kit.attach(url, commands=...)` says of one server alone.
PRESETS_BY_URL: Final = "KIT_COMMANDS_BY_URL"
_NAMES: Final = {"log": LOG_COMMAND, "state": STATE_COMMAND, "restart": RESTART_COMMAND}
#: Names of pods, containers, units, hosts and users: nothing that an option or a shell could read
#: as something else.
_NAME: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_.@:-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerCommands:
    """Commands as words; None: there is none.

    log: prints what the server logs from now on, until it is ended.
    state: prints how the server is: `docker inspect`, `kubectl get pod -o json`, `systemctl show`
        or `sacct --parsable2` (kit.servers.told_state).
    restart: restarts it, and ends when that is under way or done.
    """

    log: tuple[str, ...] | None = None
    state: tuple[str, ...] | None = None
    restart: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def names(self) -> list[str]:
        """Which there are: log, state, restart."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def lines(self) -> list[str]:
        """Each as a person would type it, with what it is for."""
        said = {"log": "follows its log", "state": "asks for its state"}
        said["restart"] = "restarts it before each trial"
        return [f"{said[name]}: {shlex.join(getattr(self, name))}" for name in self.names]

    def environment(self) -> dict[str, str]:
        """The variables by which a trial is told of them."""
        return {_NAMES[name]: shlex.join(getattr(self, name)) for name in self.names}


def commands_from(environ: Mapping[str, str]) -> OwnerCommands:
    """The commands that the environment names.

    Raises:
        SpecError: one that cannot be cut into words.

    >>> commands_from({"KIT_LOG_COMMAND": "docker logs -f 'my llm'"}).log
    ('docker', 'logs', '-f', 'my llm')
    """
    found: dict[str, tuple[str, ...] | None] = {}
    for what, name in _NAMES.items():
        try:
            found[what] = tuple(shlex.split(environ.get(name) or "")) or None
        except ValueError as error:
            raise SpecError(
                f"{name} = {environ[name]!r} ({error})",
                "a command as words, quoted as in a shell",
                "close its quotes; for a pipe write sh -c '...'",
            ) from error
    return OwnerCommands(**found)


def commands_for(url: str, environ: Mapping[str, str]) -> OwnerCommands:
    """The commands of the server at `url`: its own preset, else those that the environment names.

    Raises:
        SpecError: as `commands_from` and `preset`.
    """
    own = presets_by_url(environ).get(url)
    return commands_from(environ) if own is None else preset(own)


def presets_by_url(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment says of servers by their URLs."""
    try:
        found = json.loads(environ.get(PRESETS_BY_URL) or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def preset(text: str) -> OwnerCommands:
    """The usual commands for where a server runs.

    text: docker:CONTAINER, kubernetes:[NAMESPACE/]POD, kubernetes:[NAMESPACE/]deployment/NAME,
        systemd:[[USER@]HOST/]UNIT or slurm:JOB.

    Raises:
        SpecError: no such preset, or a name that no server has.

    >>> preset("docker:triton").restart
    ('docker', 'restart', 'triton')
    """
    kind, _, rest = text.partition(":")
    names = rest.split("/")
    make = _PRESETS.get(kind)
    commands = None
    if make is not None and all(_NAME.fullmatch(name) for name in names):
        commands = make(names)
    if commands is None:
        raise SpecError(f"the commands {text!r}", f"one of {PRESETS}", "correct it")
    return commands


PRESETS: Final = (
    "docker:CONTAINER, kubernetes:NAMESPACE/POD, kubernetes:NAMESPACE/deployment/NAME, "
    "systemd:UNIT, systemd:HOST/UNIT, slurm:JOB"
)


def _docker(names: list[str]) -> OwnerCommands | None:
    if len(names) != 1:
        return None
    name = names[0]
    return OwnerCommands(
        log=("docker", "logs", "--follow", "--tail", "0", name),
        state=("docker", "inspect", name),
        restart=("docker", "restart", name),
    )


def _kubernetes(names: list[str]) -> OwnerCommands | None:
    *place, name = names
    is_deployment = place[-1:] == ["deployment"]
    namespace = place[:-1] if is_deployment else place
    if len(namespace) > 1:
        return None
    kubectl = ("kubectl", *(("--namespace", namespace[0]) if namespace else ()))
    follow = (*kubectl, "logs", "--follow", "--tail", "0")
    if not is_deployment:
        # Its controller makes one of the same name anew (a StatefulSet's does) and waits for it.
        return OwnerCommands(
            log=(*follow, name),
            state=(*kubectl, "get", "pod", name, "--output", "json"),
            restart=(*kubectl, "delete", "pod", name),
        )
    # Its pods get new names: their state is to be asked for by a label that only its owner knows.
    both = (shlex.join((*kubectl, "rollout", verb, f"deployment/{name}")) for verb in _ROLLOUT)
    return OwnerCommands(
        log=(*follow, f"deployment/{name}"), restart=("sh", "-c", " && ".join(both))
    )


_ROLLOUT: Final = ("restart", "status")


_SHOWN: Final = (
    "ActiveState,NRestarts,ExecMainStartTimestampMonotonic,ExecMainCode,ExecMainStatus,Result"
)


def _systemd(names: list[str]) -> OwnerCommands | None:
    *host, unit = names
    if len(host) > 1:
        return None
    there = ("ssh", "-o", "BatchMode=yes", host[0]) if host else ()
    return OwnerCommands(
        log=(*there, "journalctl", "--follow", "--lines", "0", "--output", "cat", "--unit", unit),
        state=(*there, "systemctl", "show", unit, "--property", _SHOWN),
        restart=(*there, "sudo", "--non-interactive", "systemctl", "restart", unit),
    )


_SACCT: Final = "State,ExitCode,Restarts,Start"


def _slurm(names: list[str]) -> OwnerCommands | None:
    if len(names) != 1:
        return None
    job = names[0]
    return OwnerCommands(
        log=("tail", "--follow=name", "--retry", "--lines", "0", f"slurm-{job}.out"),
        state=("sacct", "--jobs", job, "--parsable2", "--allocations", "--format", _SACCT),
        restart=("scontrol", "requeue", job),
    )


#: None: the names are not of the form that it takes.
_PRESETS: Final[dict[str, Callable[[list[str]], OwnerCommands | None]]] = {
    "docker": _docker,
    "kubernetes": _kubernetes,
    "systemd": _systemd,
    "slurm": _slurm,
}
