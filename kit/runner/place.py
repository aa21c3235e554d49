"""Where the trials of a study run: what a study asks of such a place, and this machine as one.

The other implementation is kit.runner.dask_place. A study hands out a trial wherever there is
room, looks at those under way, and is told of each how it ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from kit.study.folder import StudyFolder
from kit.study.result import TrialResult, Verdict
from kit.study.spec import TrialSpec

#: Something is looked at this often, unless it says by itself that it has changed.
POLL_S = 0.1
#: How long an interrupted trial may take to stop its server before it is killed.
INTERRUPT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """One trial under way, as far as it has told."""

    spec: TrialSpec
    phase: str = "waiting"  # waiting, starting, loading, judging
    sent: int = 0
    ended: int = 0
    in_flight: int = 0


class TrialRun(Protocol):
    """One trial under way somewhere, seen from the study."""

    spec: TrialSpec

    def ended(self) -> bool: ...
    def wait(self, timeout_s: float) -> None: ...
    def interrupt(self) -> None: ...
    def kill(self) -> None: ...
    def state(self) -> RunningTrial: ...
    def result(self) -> TrialResult: ...


class TrialPlace(Protocol):
    """Where trials run, as the study that hands them out sees it; one thread calls it."""

    def slots(self) -> int:
        """Trials that may run at a time now; 0: none yet. Asked about every POLL_S seconds.

        Raises:
            ClusterError: nothing will run there any more.
        """

    def launch(self, spec: TrialSpec, study: StudyFolder) -> TrialRun:
        """Start a trial; it is called only while fewer run than `slots` says."""

    def remarks(self) -> tuple[str, ...]:
        """What a person should know of the place, a line each; lines are only ever added."""


class Here:
    """This machine: `parallel` child processes at a time.

    launch: what runs one trial; None: TrialProcess.
    """

    def __init__(
        self, parallel: int, launch: Callable[[TrialSpec, StudyFolder], TrialRun] | None = None
    ) -> None:
        self._parallel = parallel
        self._launch = launch or TrialProcess

    def slots(self) -> int:
        return self._parallel

    def launch(self, spec: TrialSpec, study: StudyFolder) -> TrialRun:
        return self._launch(spec, study)

    def remarks(self) -> tuple[str, ...]:
        return ()


class TrialProcess:
    """A child that runs one trial; it stops and cleans up when its standard input closes."""

    def __init__(
        self,
        spec: TrialSpec,
        study: StudyFolder,
        *,
        words: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """words: more of kit.runner.trial's arguments. environment: added to this process's."""
        self.spec = spec
        self.folder = study.new_trial(spec)
        with (self.folder.path / "trial.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kit.runner.trial", str(self.folder.path), *words],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> None:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return

    def interrupt(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def state(self) -> RunningTrial:
        try:
            return told(self.spec, self.folder.progress.read_bytes())
        except FileNotFoundError:
            return RunningTrial(spec=self.spec)

    def result(self) -> TrialResult:
        """What the trial found; a trial process that died without a result is our own fault."""
        self.interrupt()
        found = self.folder.result
        if found is not None:
            return found
        log = (self.folder.path / "trial.log").read_text(errors="replace").strip()
        result = TrialResult(
            trial_id=self.spec.trial_id,
            verdict=Verdict.CLIENT_FAULT,
            reason=f"the trial process ended with {self._process.returncode} and no result: "
            + (log.splitlines()[-1] if log else "it printed nothing"),
            completed=0,
        )
        self.folder.finish(result)
        return result


def told(spec: TrialSpec, progress: bytes) -> RunningTrial:
    """What the progress.json of a trial under way says; what is no such file says nothing."""
    try:
        seen = msgspec.json.decode(progress, type=dict[str, str | int])
        return RunningTrial(
            spec=spec,
            phase=str(seen["phase"]),
            sent=int(seen["sent"]),
            ended=int(seen["ended"]),
            in_flight=int(seen["in_flight"]),
        )
    except (msgspec.DecodeError, KeyError, ValueError, RecursionError):
        return RunningTrial(spec=spec)
