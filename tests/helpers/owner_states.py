"""What docker, kubectl, systemctl and sacct print of a server, and what the kit reads in it."""

from __future__ import annotations

import json

from kit.servers.told_state import ToldState

_POD = {
    "status": {
        "containerStatuses": [
            {"name": "sidecar", "restartCount": 0, "state": {"running": {"startedAt": "t0"}}},
            {
                "name": "triton",
                "restartCount": 3,
                "state": {"running": {"startedAt": "t1"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            },
        ]
    }
}
_RUNS = {"Running": True, "ExitCode": 0, "OOMKilled": False, "StartedAt": "t1"}
_KILLED = {"Running": False, "ExitCode": 137, "OOMKilled": True}

STATES = {
    json.dumps([{"State": _RUNS, "RestartCount": 1}]): ToldState(
        runs=True, restarts=1, started="t1"
    ),
    json.dumps([{"State": _RUNS | _KILLED}]): ToldState(
        runs=False, started="t1", exit_code=-9, out_of_memory=True
    ),
    json.dumps(_POD): ToldState(
        runs=True, restarts=3, started="t1", exit_code=-9, out_of_memory=True
    ),
    json.dumps({"items": [_POD]}): ToldState(
        runs=True, restarts=3, started="t1", exit_code=-9, out_of_memory=True
    ),
    "ActiveState=failed\nNRestarts=0\nExecMainCode=3\nExecMainStatus=11\nResult=core-dump": (
        ToldState(runs=False, restarts=0, exit_code=-11, out_of_memory=False)
    ),
    "ActiveState=active\nNRestarts=2\nExecMainStartTimestampMonotonic=7\nExecMainCode=0\n"
    "ExecMainStatus=0\nResult=success\n": ToldState(
        runs=True, restarts=2, started="7", out_of_memory=False
    ),
    "State|ExitCode\n  |0:0\n": ToldState(runs=False, exit_code=0, out_of_memory=False),
    "State|ExitCode|Restarts|Start\nFAILED|0:11|0|2026-01-01T00:00:00\n": ToldState(
        runs=False, restarts=0, started="2026-01-01T00:00:00", exit_code=-11, out_of_memory=False
    ),
}
