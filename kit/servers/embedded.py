"""Embedded server: a real Triton of one release on this machine's CPU.

The binaries come from a wheel (`kit.servers.wheels`), the process lives under a guard
(`kit.servers.guard`), everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from kit.errors import ServerStartError, SpecError
from kit.servers.base import End
from kit.servers.command import refuses, triton_command
from kit.servers.environment import numpy_folder, python_for, server_environment
from kit.servers.guarded import GuardedProcess
from kit.servers.plain import plain
from kit.servers.platform import check_open_files
from kit.servers.ports import PortClaim
from kit.servers.processes import oom_kills
from kit.servers.python import ServerPython
from kit.servers.python_env import note, python_env_folders
from kit.servers.ready import serves
from kit.servers.runs import Run, register, writable
from kit.servers.startlog import decisive_lines, failed_to_bind, was_too_slow
from kit.servers.traces import sweep
from kit.servers.wheels import server_files
from kit.study.files import read_end, write_whole
from kit.study.folder import TrialFolder
from kit.study.releases import Release
from kit.study.spec import Endpoint

_HOST = "127.0.0.1"
#: How often it is started where a port was taken meanwhile, or the machine was too slow.
_ATTEMPTS = 5
_READY_POLL_S = 0.05
_LOG_TAIL_BYTES = 200_000

#: How long a server may take to unload its models before it is killed.
_PATIENCE_S = 5.0


class EmbeddedServer:
    """One life of one server; a context manager that starts it and leaves nothing of it.

    Its log, memory map and description go to `folder` (see kit.study.folder). `python` and `env`
    let a server's models use another environment's packages, such as vLLM's.

    repository: a model repository, wherever it lies; or what writes one into the new folder that
        it is given, which goes with the server.
    """

    kind = "embedded"

    def __init__(
        self,
        release: Release,
        repository: Path | Callable[[Path], object],
        folder: TrialFolder,
        *,
        ready_timeout_s: float = 60.0,
        extra_args: Sequence[str] = (),
        python: ServerPython | None = None,
        env: Mapping[str, str] | None = None,
        extra_versions: Mapping[str, str] | None = None,
    ) -> None:
        self._release = release
        self._repository = repository
        self._folder = folder
        self._ready_timeout_s = ready_timeout_s
        self._extra_args = tuple(extra_args)
        if refuses(self._extra_args, "http"):
            raise SpecError(
                "an embedded server without HTTP",
                "HTTP",
                "drop --allow-http=false: the kit needs it",
            )
        self._env = dict(env or {})
        self._extra_versions = dict(extra_versions or {})
        self._oom_kills: int | None = None
        check_open_files()
        # All that may need a download, or may not be possible here, before the clock runs.
        self._files = server_files(release)
        self._python = python_for(self._files, python)
        self._numpy = numpy_folder(self._python)
        self._process: GuardedProcess | None = None
        self._claim: PortClaim | None = None
        self.ready_ns: int | None = None  # CLOCK_MONOTONIC
        self.started_ns: int | None = None

    @property
    def name(self) -> str:
        """What an error calls it."""
        return f"Triton {self._release.triton} ({self._release.release})"

    @property
    def modules(self) -> Path:
        """The folder below which the binaries lie, for symbol lookup."""
        return self._files.root

    @property
    def pid(self) -> int:
        if self._process is None or self._process.pid is None:
            raise ServerStartError("a server without a process", "a started one", "call start()")
        return self._process.pid

    @property
    def died_ns(self) -> int | None:
        """When its process ended (CLOCK_MONOTONIC), as exactly as the kernel told."""
        return None if self._process is None else self._process.exited_ns

    @property
    def sees_exit(self) -> bool:
        return True

    @property
    def versions(self) -> dict[str, str]:
        assert self._release.wheel is not None
        return {
            "release": self._release.release,
            "triton": self._release.triton,
            "nvidia-pytriton": self._release.wheel.version,
            "server-python": self._python.version,
            **self._extra_versions,
        }

    def start(self) -> Endpoint:
        """Start it and wait until it is ready.

        Raises:
            ServerStartError: it ended, or was not ready in time; nothing is left of it.
        """
        if self._process is not None:
            raise ServerStartError("a server that was started before", "a new one", "make another")
        sweep()
        self._oom_kills = oom_kills()
        try:
            attempts = 0
            while True:
                endpoint = self._launch()
                failure = self._wait_ready(endpoint) or self._save_maps()
                if failure is None:
                    note(self._run.record, python_env_folders(self.pid))
                    self._describe(endpoint)
                    return endpoint
                self.stop(patience_s=0.0)
                attempts += 1
                log = self._log()
                if attempts == _ATTEMPTS or not (failed_to_bind(log) or was_too_slow(log)):
                    raise self._did_not_start(failure)
        except BaseException:
            self.stop(patience_s=0.0)
            raise

    def poll(self) -> int | None:
        """Its exit code as subprocess gives it (-11 is SIGSEGV); None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """As `poll`, once it has ended or the time is over."""
        return None if self._process is None else self._process.wait(timeout_s)

    def end(self, timeout_s: float = 0.0) -> End | None:
        """Its exit status and when that was, once it has ended or the time is over."""
        code = self.wait(timeout_s) if timeout_s else self.poll()
        if code is None or self._process is None:
            return None
        return End(exit_code=code, at_ns=self.died_ns, stopped_by=self._process.stopped_by)

    def out_of_memory(self) -> bool | None:
        """Whether the kernel killed any process for want of memory since its start."""
        now = oom_kills()
        return None if now is None or self._oom_kills is None else now > self._oom_kills

    def stop(self, *, patience_s: float = _PATIENCE_S) -> int | None:
        """End it and remove all that it left, in any state.

        Its models are unloaded first, for at most `patience_s` (0: it is killed at once).
        Returns its exit code if it had ended by itself, 0 if this made it end, None if it never
        ran; a negative code always is a death of its own.
        """
        if self._process is not None and self.ready_ns is None and self._process.poll() is None:
            note(self._run.record, python_env_folders(self.pid))  # else that is known already
        code = None if self._process is None else self._process.stop(patience_s)
        if self._claim is not None:
            self._claim.release()
        return code

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, since the last start."""
        if self._claim is None:
            raise ServerStartError("a server without ports", "a started one", "call start()")
        http_port, grpc_port, metrics_port = self._claim.ports
        return Endpoint(
            host=_HOST,
            http_port=http_port,
            grpc_port=None if refuses(self._extra_args, "grpc") else grpc_port,
            metrics_port=None if refuses(self._extra_args, "metrics") else metrics_port,
        )

    def _launch(self) -> Endpoint:
        run = register()
        self._run = run
        self._process = None
        try:
            self._claim = PortClaim(3)
            with writable(run.folder):
                environment = self._environment_in(run)
                self._command = self._command_in(run, environment)
            self.started_ns = time.monotonic_ns()
            self._process = GuardedProcess(run, self._command, environment, self._folder.log)
        except BaseException:
            if self._process is None:
                run.forget()
            raise
        return self.endpoint

    def _environment_in(self, run: Run) -> dict[str, str]:
        """What its process has in its environment; folders that this needs are the run's."""
        return server_environment(self._files, self._python, self._numpy, run.folder, self._env)

    def _repository_in(self, run: Run) -> Path:
        """Its model repository, at a path of the run's."""
        repository = run.folder / "models"
        if isinstance(self._repository, Path):
            repository.symlink_to(self._repository.absolute())
        else:
            self._repository(repository)
        return repository

    def _command_in(self, run: Run, environment: Mapping[str, str]) -> list[str]:
        """The command line; every path in it is plain, whatever the user's folders are called."""
        links = run.folder / "links"
        return triton_command(
            self._files,
            program=plain(self._files.binary, links, "tritonserver"),
            repository=self._repository_in(run),
            backends=plain(self._files.backends(self._python.version), links, "backends"),
            endpoint=self.endpoint,
            shm_prefix=run.shm_prefix,
            extra_args=self._extra_args,
        )

    def _wait_ready(self, endpoint: Endpoint) -> str | None:
        """None once it is ready; else why it is not, as soon as that is known."""
        assert self._process is not None
        deadline = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline:
            code = self._process.wait(_READY_POLL_S)
            if code is not None:
                return f"ended with {code} before it was ready"
            if serves(self.pid, endpoint):
                self.ready_ns = time.monotonic_ns()
                return None
            if failed_to_bind(self._log()):  # it would take up to ten seconds to end by itself
                return "could not listen on its ports"
        return f"was not ready within {self._ready_timeout_s:g} s"

    def _save_maps(self) -> str | None:
        """Save the memory map, without which a crash's addresses mean nothing; as _wait_ready."""
        try:
            maps = Path(f"/proc/{self.pid}/maps").read_bytes()
        except OSError:
            maps = b""
        if not maps:
            return "ended as soon as it was ready"
        write_whole(self._folder.maps, maps)
        return None

    def _describe(self, endpoint: Endpoint) -> None:
        """Save what runs, for readers of the folder."""
        description = {
            "kind": self.kind,
            "pid": self.pid,
            "run": self._run.name,
            "shm_prefix": self._run.shm_prefix,
            "versions": self.versions,
            "host": endpoint.host,
            "http_port": endpoint.http_port,
            "grpc_port": endpoint.grpc_port,
            "metrics_port": endpoint.metrics_port,
            "started_ns": self.started_ns,
            "ready_ns": self.ready_ns,
            "command": [_without_home(argument) for argument in self._command],
        }
        write_whole(self._folder.server, json.dumps(description, indent=2).encode() + b"\n")

    def _log(self) -> str:
        """The end of its log, as far as a failed start needs it."""
        return read_end(self._folder.log, _LOG_TAIL_BYTES).decode(errors="replace")

    def _did_not_start(self, failure: str) -> ServerStartError:
        lines = decisive_lines(self._log())
        what = f"{self.name} {failure}"
        quoted = "\n  ".join(["; its log says:", *lines]) if lines else "; its log is empty"
        return ServerStartError(
            what + quoted,
            f"HTTP 200 from /v2/health/ready within {self._ready_timeout_s:g} s",
            f"correct what the log names (all of it: {self._folder.log}); on a busy machine raise "
            "ready_timeout_s",
        )


def _without_home(argument: str) -> str:
    """The argument as a shared folder may tell it: not whose machine it was."""
    home = os.path.expanduser("~")
    return argument.replace(home, "~") if len(home) > 1 else argument
