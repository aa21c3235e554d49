"""A workload and the address of a running server in, a study folder with its one trial out.

The load generator alone, against a server that somebody else started: nothing is watched but the
answers, so nothing is said of the server's process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from kit.errors import SpecError, StoreError
from kit.load.worker.workers import Workers
from kit.study.folder import StudyFolder
from kit.study.result import TrialResult, Verdict
from kit.study.spec import (
    OWN_WORKLOAD,
    AnswerCheck,
    Endpoint,
    Engine,
    EngineKind,
    Protocol,
    ServerKind,
    ServerSpec,
    StudySpec,
    TrialSpec,
    Workload,
)

ATTACHED = "attached"
POLL_S = 0.05
_PORTS = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}


def endpoint_of(url: str, protocol: Protocol) -> Endpoint:
    """Where `url` points: http://, https://, grpc:// or grpcs://HOST[:PORT].

    Raises:
        SpecError: no such address, or one that the protocol does not go to.
    """
    parts = urlsplit(url)
    wanted = ("grpc", "grpcs") if protocol.is_grpc else ("http", "https")
    try:
        port = parts.port
    except ValueError:
        port = -1
    unused = (parts.path.rstrip("/"), parts.query, parts.fragment, parts.username)
    if parts.scheme not in wanted or not parts.hostname or port == -1 or any(unused):
        raise SpecError(
            f"the address {url!r} for {protocol}",
            f"{wanted[0]}://HOST:PORT or {wanted[1]}://HOST:PORT, and nothing after the port",
            "correct the address; what a path or a user name would say is said by --model and "
            "by KIT_BEARER_TOKEN",
        )
    port = port or _PORTS[parts.scheme]
    kind = "grpc_port" if protocol.is_grpc else "http_port"
    secure = parts.scheme.endswith("s")
    return Endpoint(host=parts.hostname, tls=secure, **{kind: port})


def run_load(
    workload: Workload,
    endpoint: Endpoint,
    model: str,
    folder: Path,
    *,
    on_progress: Callable[[Workers, float], None] | None = None,
) -> StudyFolder:
    """Send `workload` to `model` and record every request in the new study folder `folder`.

    on_progress: told about every POLL_S seconds of the workers' counts and the time gone by.
    KeyboardInterrupt ends the traffic; what was recorded is kept, and the trial is marked as
    interrupted.

    Raises:
        SpecError: the workload cannot be sent as written.
        StoreError: the folder holds a study already, or cannot be written.
    """
    kind = EngineKind.SIMULATED if workload.answer_check is AnswerCheck.EXACT else EngineKind.VLLM
    server = ServerSpec(kind=ServerKind.ATTACHED, model=model)
    spec = TrialSpec(
        trial_id=ATTACHED,
        server=server,
        scenario=OWN_WORKLOAD,
        model=model,
        engine=Engine(kind=kind),
        workload=workload,
    )
    study = StudyFolder.create(
        folder,
        StudySpec(
            name=folder.name,
            servers=(server,),
            workload=workload,
            engines=(spec.engine,),
            repeats=1,
        ),
    )
    if study.trial(ATTACHED).result is not None:
        raise StoreError(f"{folder} holds a load already", "a new folder", "name another one")
    trial = study.new_trial(spec)
    started_ns = time.monotonic_ns()
    wall_offset_ns = time.time_ns() - started_ns
    verdict, reason = Verdict.INTERRUPTED, "Interrupted."
    load = Workers(spec, endpoint, trial)
    try:
        load.start()
        while not load.done():
            time.sleep(POLL_S)
            load.look()
            if on_progress:
                on_progress(load, (time.monotonic_ns() - started_ns) / 1e9)
        verdict, reason = Verdict.SURVIVED, "The workload was sent; the server was not watched."
        if why := load.error():
            verdict, reason = Verdict.CLIENT_FAULT, f"A load worker failed: {why}"
    finally:
        load.stop()
        load.close()
        trial.finish(
            TrialResult(
                trial_id=spec.trial_id,
                verdict=verdict,
                reason=reason,
                completed=load.ended,
                started_ns=started_ns,
                load_started_ns=started_ns,
                ended_ns=time.monotonic_ns(),
                wall_offset_ns=wall_offset_ns,
            )
        )
    return study
