"""Tries an exported script on fresh servers, run alone as its reader would run it.

The script has what its reader needs and nothing of the kit (`kit.reproduce.isolated`); the server
is a real one on this machine and serves the model repository that the script writes. What became of
the server is judged as in a trial, so that another crash, or a server that only refuses requests,
is not taken for the crash that was looked for.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kit.crash.groups import same_crash
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.signature import signature_of
from kit.crash.verdict import Evidence, judge
from kit.errors import ExportError
from kit.reproduce.isolated import command, link_client
from kit.servers.embedded import EmbeddedServer
from kit.servers.watch.liveness import ServerProcesses
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.result import Signature, TrialResult, Verdict
from kit.study.spec import Endpoint

CRASHED, SURVIVED, NOT_SENT, REFUSED = 0, 1, 2, 3
SCRIPT_TIMEOUT_S = 120.0
#: A server that died has printed its stack before the script saw it die.
LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """One run of the script against a fresh server."""

    release: str
    code: int  # of the script: 0 crashed or hangs, 1 survived, 2 not sent, 3 only refused
    said: str  # its last line
    exit_code: int | None  # of the server; None: it lived on
    signature: Signature | None
    verdict: Verdict  # of the kit, by the rules for trials

    @property
    def died(self) -> bool:
        """Whether the server died of anything, hangs, or lost its model."""
        return self.verdict.is_death

    @property
    def refused(self) -> bool:
        """Whether it lived and merely refused requests."""
        return self.code == REFUSED and not self.died

    def is_crash(self, crash: TrialResult) -> bool:
        """Whether the server died as in `crash`."""
        result = TrialResult(
            trial_id=crash.trial_id,
            verdict=self.verdict,
            reason=self.said,
            completed=0,
            signature=self.signature,
        )
        return same_crash(result, crash)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What some runs came to; no run is in two of these."""

    runs: int
    same: int  # died of the crash that was looked for
    other: int  # died of another
    refused: int


def tally(runs: Sequence[ScriptRun], crash: TrialResult) -> Tally:
    """Count runs by what became of their servers."""
    same = sum(run.is_crash(crash) for run in runs)
    return Tally(
        runs=len(runs),
        same=same,
        other=sum(run.died for run in runs) - same,
        refused=sum(run.refused for run in runs),
    )


def write_model(script: Path, folder: Path, *, packages: Path | None = None) -> None:
    """Let the script write its model repository into `folder`. packages: see `command`.

    Raises:
        ExportError: it does not.
    """
    done = _run(script, "--write-model", str(folder), packages=packages)
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
    packages = link_client(folder / "packages") if grpc else None
    write_model(script, folder / "models", packages=packages)
    trial = TrialFolder(folder)
    with EmbeddedServer(
        get_release(release), folder / "models", trial, extra_args=extra_args
    ) as server:
        processes = ServerProcesses(server.pid)
        done = _run(script, _url(server.endpoint, grpc=grpc), packages=packages)
        exit_code = server.wait(LAST_WORDS_S if done.returncode == CRASHED else 0.0)
        if done.returncode not in (CRASHED, SURVIVED, REFUSED):
            raise _broken(script, done)
        log = trial.log.read_text(errors="replace")
        hangs = done.returncode == CRASHED and exit_code is None
        verdict, _ = judge(
            Evidence(
                exit_code=exit_code,
                log=log,
                unanswered=int(hangs),
                ready=True if exit_code is None else None,
                stub_alive=processes.stubs_alive() if exit_code is None else None,
                load_finished=done.returncode == SURVIVED,
            )
        )
        signature = None
        if exit_code is not None:
            signature = signature_of(
                log,
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
        verdict=verdict,
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


def _run(script: Path, *words: str, packages: Path | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command(script, *words, packages=packages),
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
        "exit code 0, 1 or 3",
        "run it by hand against a server of that release to see more",
    )
