"""Hybrid server: compiled frontends of one release on the core of another, on this machine.

Its process is a Python that starts the core through the package tritonserver and puts the package
tritonfrontend in front of it (`process.py` beside this module). All else, from the guard to the
clean-up, is as for embedded servers. It is no release, and never called one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kit.errors import SpecError
from kit.servers.command import EXIT_TIMEOUT_S
from kit.servers.embedded import EmbeddedServer
from kit.servers.hybrid.c_library import CLibrary
from kit.servers.hybrid.files import hybrid_files
from kit.servers.plain import plain
from kit.servers.runs import Run
from kit.servers.wheels import STUB
from kit.study.folder import TrialFolder
from kit.study.hybrids import Hybrid, unread_option
from kit.study.releases import get_release

#: In the run's folder: the core's library under all the names that it is looked for by.
_NAMES = "core"
_PROCESS = Path(__file__).with_name("process.py")
_VERBOSE = re.compile(r"--log-verbose=(\d)")


class HybridServer(EmbeddedServer):
    """One life of one hybrid; as EmbeddedServer.

    extra_args: of them it knows --disable-auto-complete-config and --log-verbose=N.

    Raises:
        SpecError: other arguments. What it needs: see `kit.servers.hybrid.files.hybrid_files`.
    """

    kind = "hybrid"

    def __init__(
        self,
        hybrid: Hybrid,
        repository: Path | Callable[[Path], object],
        folder: TrialFolder,
        *,
        ready_timeout_s: float = 60.0,
        extra_args: Sequence[str] = (),
    ) -> None:
        self._hybrid = hybrid
        self._log_verbose = log_level(hybrid, extra_args)
        self._own = hybrid_files(hybrid)
        self._c_library: CLibrary | None = None  # at a plain path
        super().__init__(
            get_release(hybrid.core),
            repository,
            folder,
            ready_timeout_s=ready_timeout_s,
            python=self._own.python,
        )

    @property
    def name(self) -> str:
        return self._hybrid.name

    @property
    def versions(self) -> dict[str, str]:
        own = (self._hybrid.wheel, self._hybrid.binding)
        return {
            **super().versions,
            "release": self._hybrid.name,
            **{wheel.package: wheel.version for wheel in own},
        }

    def _environment_in(self, run: Run) -> dict[str, str]:
        environment = super()._environment_in(run)
        links = run.folder / "links"
        if (library := self._own.c_library) is not None:
            self._c_library = CLibrary(folder=plain(library.folder, links, "libc"))
        names = run.folder / _NAMES
        names.mkdir()
        core = next(self._files.libraries.glob("libtritonserver-*.so"))
        for name in self._own.core_names:
            (names / name).symlink_to(core)
        if self._own.c_library is None:  # else its loader is told, and what it starts is not
            folders = [str(names), environment["LD_LIBRARY_PATH"]]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
        return environment

    def _command_in(self, run: Run, environment: Mapping[str, str]) -> list[str]:
        told = {
            "paths": [*map(str, self._own.paths), *([str(self._numpy)] if self._numpy else [])],
            "frontends": self._hybrid.wheel.version,
            "core": self._release.triton,
            "host": self.endpoint.host,
            "http_port": self.endpoint.http_port,
            "grpc_port": self.endpoint.grpc_port,
            "metrics_port": self.endpoint.metrics_port,
            "model_repository": str(self._repository_in(run)),
            "backend_directory": str(self._backends_in(run, environment)),
            "shm_prefix": run.shm_prefix,
            "exit_timeout_s": EXIT_TIMEOUT_S,
            "log_verbose": self._log_verbose,
        }
        configuration = run.folder / "hybrid.json"
        configuration.write_text(json.dumps(told))
        python = self._own.python.executable
        assert python is not None, "hybrid_files saw to it"
        program = [str(python)]
        if self._c_library is not None:
            own = [run.folder / _NAMES, *_folders(environment)]
            program = self._c_library.start(python, own)
        return [*program, "-I", "-S", "-u", str(_PROCESS), str(configuration)]

    def _backends_in(self, run: Run, environment: Mapping[str, str]) -> Path:
        """The backend directory. Where the server has a C library of its own, so has its stub.

        The two share locks and conditions in memory, and glibc 2.41 lays conditions out anew.
        """
        given = self._files.backends(self._python.version)
        if self._c_library is None:
            return plain(given, run.folder / "links", "backends")
        own = run.folder / "backends/python"
        own.mkdir(parents=True)
        for path in (given / "python").iterdir():
            if path.name == STUB:
                start = self._c_library.start(path.resolve(), _folders(environment), as_name=STUB)
                (own / STUB).write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
                (own / STUB).chmod(0o755)
            else:
                (own / path.name).symlink_to(path.resolve())
        return own.parent


def _folders(environment: Mapping[str, str]) -> list[Path]:
    return [Path(folder) for folder in environment["LD_LIBRARY_PATH"].split(os.pathsep)]


def log_level(hybrid: Hybrid, arguments: Sequence[str]) -> int:
    """The level that --log-verbose=N sets, 0 without it.

    Raises:
        SpecError: an argument that a hybrid cannot be given.
    """
    if (unread := unread_option(arguments)) is not None:
        raise SpecError(
            f"{unread} for {hybrid.name}",
            "--disable-auto-complete-config or --log-verbose=N",
            "leave it out: a hybrid has no main program that reads such options",
        )
    levels = [int(found[1]) for one in arguments if (found := _VERBOSE.fullmatch(one))]
    return levels[-1] if levels else 0
