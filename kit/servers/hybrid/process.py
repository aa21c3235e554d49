"""The process of a hybrid server: frontends of one release on the core of another.

    python -I process.py CONFIGURATION.json

The configuration has `paths` (for sys.path), `frontends` and `core` (their versions; the core must
say that it is that one), `host`, `http_port`, `grpc_port`, `metrics_port`, `model_repository`,
`backend_directory`, `shm_prefix`, `exit_timeout_s` and `log_verbose`. It unloads its models and
ends on SIGTERM.

Runs in a Python that the frontends are built for, with their packages and nothing of the kit's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any


def serve(configuration: dict[str, Any]) -> None:
    """Start the core, then the frontends; return once all have ended in good order."""
    import tritonfrontend
    import tritonserver

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    host = configuration["host"]
    server = tritonserver.Server(
        tritonserver.Options(
            model_repository=configuration["model_repository"],
            backend_directory=configuration["backend_directory"],
            backend_configuration={
                "python": {"shm-region-prefix-name": configuration["shm_prefix"]}
            },
            exit_timeout=configuration["exit_timeout_s"],
            strict_model_config=True,
            log_info=True,
            log_warn=True,
            log_error=True,
            log_verbose=configuration["log_verbose"],
        )
    ).start(wait_until_ready=True)
    core = server.metadata()["version"]
    if core != configuration["core"]:
        raise SystemExit(f"error: the core is {core}, not {configuration['core']}")
    kinds = (
        (tritonfrontend.KServeHttp, "http_port"),
        (tritonfrontend.KServeGrpc, "grpc_port"),
        (tritonfrontend.Metrics, "metrics_port"),
    )
    frontends = [
        kind(server, kind.Options(address=host, port=configuration[port])) for kind, port in kinds
    ]
    for frontend in frontends:
        frontend.start()
    front = configuration["frontends"]
    sys.stdout.write(f"tritonfrontend {front} on the core of {core}, at {host}\n")
    while not ended.wait(1.0):
        pass
    for frontend in frontends:
        frontend.stop()
    server.stop()


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(sys.argv[1], encoding="utf-8") as file:
        configuration = json.load(file)
    sys.path[:0] = [*configuration["paths"], folder]
    import crash_stack

    crash_stack.install()
    serve(configuration)


if __name__ == "__main__":
    main()
