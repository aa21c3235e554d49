"""Reads what a container engine, Kubernetes, systemd or SLURM says of a server's process.

Told apart by their form: a JSON object or list (`docker inspect`, `podman inspect`, `kubectl get
-o json`), lines of `Name=value` (`systemctl show`), a table of columns between bars (`sacct
--parsable2`). What is not said stays None.

Sources: Docker Engine API, ContainerInspect (State, RestartCount); Kubernetes API, ContainerStatus
(restartCount, state, lastState.terminated); systemd, org.freedesktop.systemd1 (NRestarts,
ExecMainCode as CLD_* of waitid, ExecMainStatus, Result); SLURM, sacct (ExitCode as status:signal).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

_MOST_SIGNAL: Final = 64
_CLD_EXITED: Final = 1
_CLD_KILLED: Final = 2
_CLD_DUMPED: Final = 3
#: How a server that ended for want of memory is named.
_NO_MEMORY: Final = ("oomkilled", "oom-kill", "out_of_memory")
_SLURM_LIVES: Final = ("RUNNING", "COMPLETING", "SUSPENDED")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldState:
    """How a server is, or how it ended last. None: not said."""

    runs: bool | None = None
    restarts: int | None = None  # how often it was restarted by who watches it
    started: str | None = None  # when its process began, in the words of who watches it
    exit_code: int | None = None  # of its last end; negative: the signal that ended it
    out_of_memory: bool | None = None

    def is_another_life_than(self, before: ToldState) -> bool:
        """Whether the process of `before` has ended since."""
        if self.runs is False:
            return True
        if None not in (self.restarts, before.restarts) and self.restarts != before.restarts:
            return True
        return None not in (self.started, before.started) and self.started != before.started


def state_of(text: str) -> ToldState | None:
    """The state that a command printed; None: it is none.

    >>> state_of('[{"State": {"Running": false, "ExitCode": 139}, "RestartCount": 2}]')
    ToldState(runs=False, restarts=2, started=None, exit_code=-11, out_of_memory=None)
    >>> state_of("ActiveState=failed\\nExecMainCode=3\\nExecMainStatus=11\\n").exit_code
    -11
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _of_columns(text) if "|" in text else _of_names(text)
    return _of_json(found)


def _of_json(found: Any) -> ToldState | None:
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("State"), dict):
        return _of_inspect(found["State"], found.get("RestartCount"))
    if isinstance(found.get("items"), list):  # several pods: the first that ended, else the first
        states = [state for item in found["items"] if (state := _of_json(item))]
        return next((s for s in states if s.runs is False), states[0] if states else None)
    return _of_pod(found)


def _of_inspect(state: dict[str, Any], restarts: object) -> ToldState:
    runs = _flag(state.get("Running"))
    ended = runs is False  # of one that was started again it says 0, and no more how it ended
    return ToldState(
        runs=runs,
        restarts=_number(restarts),
        started=_text(state.get("StartedAt")),
        exit_code=_ending(state.get("ExitCode")) if ended else None,
        out_of_memory=_flag(state.get("OOMKilled")) if ended else None,
    )


def _of_pod(pod: dict[str, Any]) -> ToldState | None:
    status = pod.get("status")
    containers = status.get("containerStatuses") if isinstance(status, dict) else None
    if not isinstance(containers, list):
        return None
    # Of several containers the one that was restarted most is the one that dies.
    known = [c for c in containers if isinstance(c, dict)]
    most = max(known, key=lambda c: _number(c.get("restartCount")) or 0, default=None)
    if most is None:
        return None
    now, last = _dict(most.get("state")), _dict(most.get("lastState"))
    ended = _dict(now.get("terminated")) or _dict(last.get("terminated"))
    running = _dict(now.get("running"))
    return ToldState(
        runs="running" in now,
        restarts=_number(most.get("restartCount")),
        started=_text(running.get("startedAt")),
        exit_code=_ending(ended.get("exitCode")),
        out_of_memory=_is_no_memory(ended.get("reason")) if ended else None,
    )


def _of_names(text: str) -> ToldState | None:
    pairs = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line)
    if "ActiveState" not in pairs:
        return None
    code, status = _whole(pairs.get("ExecMainCode")), _whole(pairs.get("ExecMainStatus"))
    exit_code = None
    if code == _CLD_EXITED:
        exit_code = status
    elif code in (_CLD_KILLED, _CLD_DUMPED) and status is not None:
        exit_code = -status
    return ToldState(
        runs=pairs["ActiveState"] in ("active", "reloading", "activating"),
        restarts=_whole(pairs.get("NRestarts")),
        started=pairs.get("ExecMainStartTimestampMonotonic") or None,
        exit_code=exit_code,
        out_of_memory=_is_no_memory(pairs.get("Result")),
    )


def _of_columns(text: str) -> ToldState | None:
    lines = [line.split("|") for line in text.strip().splitlines()]
    if len(lines) < 2 or "State" not in lines[0]:
        return None
    row = dict(zip(lines[0], lines[-1], strict=False))
    word = next(iter(row.get("State", "").split()), "")
    status, _, number = row.get("ExitCode", "").partition(":")
    signal = _whole(number)
    return ToldState(
        runs=word in _SLURM_LIVES,
        restarts=_whole(row.get("Restarts")),
        started=row.get("Start") or None,
        exit_code=None if word in _SLURM_LIVES else -signal if signal else _whole(status),
        out_of_memory=_is_no_memory(word),
    )


def _is_no_memory(word: object) -> bool:
    return str(word).lower() in _NO_MEMORY


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ending(value: object) -> int | None:
    """A status as subprocess gives it: container engines say 128 + the signal's number."""
    status = _number(value)
    return 128 - status if status is not None and 128 < status <= 128 + _MOST_SIGNAL else status


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None
