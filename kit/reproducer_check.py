"""An exported script in, what it did to fresh servers out: run alone, as its reader would run it.

The script runs in Python's isolated mode, with nothing of the kit on its path; the server is a
real one on this machine and serves the model repository that the script writes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kit.crash.maps import MemoryMap
from kit.crash.signature import signature_of
from kit.errors import ExportError
from kit.records import Endpoint, Signature
from kit.releases import get_release
from kit.servers.embedded import EmbeddedServer
from kit.store import TrialFolder

CRASHED, SURVIVED, NOT_SENT = 0, 1, 2
SCRIPT_TIMEOUT_S = 120.0
#: A server that died has printed its stack before the script saw it die.
LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """One run of the script against a fresh server."""

    release: str
    code: int  # of the script: 0 crashed or hangs, 1 survived, 2 not sent
    said: str  # its last line
    exit_code: int | None  # of the server; None: it lived on
    signature: Signature | None

    @property
    def crashed(self) -> bool:
        """Whether the server died, or hangs."""
        return self.code == CRASHED


def write_model(script: Path, folder: Path) -> None:
    """Let the script write its model repository into `folder`.

    Raises:
        ExportError: it does not.
    """
    done = _run(script, "--write-model", str(folder))
    if done.returncode != 0:
        raise _broken(script, done)


def run_script(
    script: Path, release: str, folder: Path, *, grpc: bool, extra_args: Sequence[str] = ()
) -> ScriptRun:
    """One run against a fresh embedded server of `release`; the server's log is kept in `folder`.

    Raises:
        ExportError: the script does not run as it should.
        ServerStartError: the server does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_model(script, folder / "models")
    trial = TrialFolder(folder)
    with EmbeddedServer(
        get_release(release), folder / "models", trial, extra_args=extra_args
    ) as server:
        done = _run(script, _url(server.endpoint, grpc=grpc))
        exit_code = server.wait(LAST_WORDS_S if done.returncode == CRASHED else 0.0)
        if done.returncode not in (CRASHED, SURVIVED):
            raise _broken(script, done)
        signature = None
        if exit_code is not None:
            signature = signature_of(
                trial.log.read_text(errors="replace"),
                maps=MemoryMap.parse(trial.maps.read_text()),
                exit_code=exit_code,
                modules=server.modules,
            )
    return ScriptRun(
        release=release,
        code=done.returncode,
        said=(done.stdout.strip().splitlines() or [""])[-1],
        exit_code=exit_code,
        signature=signature,
    )


def run_often(
    script: Path,
    release: str,
    *,
    grpc: bool,
    extra_args: Sequence[str] = (),
    times: int = 10,
    parallel: int = 2,
) -> list[ScriptRun]:
    """Several runs, each against a server of its own.

    Raises:
        ExportError, ServerStartError: as `run_script`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kit-script-") as scratch,
        ThreadPoolExecutor(parallel) as pool,
    ):

        def run(number: int) -> ScriptRun:
            folder = Path(scratch) / str(number)
            return run_script(script, release, folder, grpc=grpc, extra_args=extra_args)

        return list(pool.map(run, range(times)))


def _run(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, "-I", str(script), *words],
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"{script}, which did not end within {SCRIPT_TIMEOUT_S:.0f} s",
            "an end",
            "run it by hand against a server of that release to see more",
        ) from error


def _url(endpoint: Endpoint, *, grpc: bool) -> str:
    port = endpoint.grpc_port if grpc else endpoint.http_port
    return f"{endpoint.host}:{port}" if grpc else f"http://{endpoint.host}:{port}"


def _broken(script: Path, done: subprocess.CompletedProcess[str]) -> ExportError:
    last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
    return ExportError(
        f"{script}, which ended with {done.returncode}: {last}",
        "exit code 0 or 1",
        "run it by hand against a server of that release to see more",
    )
