"""One trial on a Dask worker, seen from the study: followed, stopped, and stored when it ends.

Its folder is in the study as that of a local trial is: the spec first, progress as it comes, then
the files that the worker sends, `result.json` last. Of a trial that was cut off no folder stays.
"""

from __future__ import annotations

import re
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from kit.cleaning import clean_text
from kit.errors import KitError
from kit.runner.dask_host import interrupt
from kit.runner.place import RunningTrial, told
from kit.study.encoding import from_json
from kit.study.files import write_whole
from kit.study.folder import StudyFolder
from kit.study.result import TrialResult, Verdict
from kit.study.spec import TrialSpec

if TYPE_CHECKING:
    from distributed import Future

#: Names of files that a trial leaves.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: They are written before and after the others.
_SPEC, _RESULT = "spec.json", "result.json"


class GivesBack(Protocol):
    """What a trial needs of the place that runs it."""

    def give_back(self, trial: DaskTrial, *, lost: bool) -> None: ...
    def ended(self, trial: DaskTrial) -> None: ...
    def aside(self, function: Any, *given: object, address: str) -> None: ...


class DaskTrial:
    """A trial that waits for a worker, runs on one, or has ended."""

    def __init__(self, spec: TrialSpec, study: StudyFolder, place: GivesBack) -> None:
        self.spec = spec
        self.folder = study.new_trial(spec)
        self.key = self.address = ""
        self.losses = 0
        self._place = place
        self._label = ""
        self._future: Future | None = None
        self._arrived = threading.Event()
        self._came: dict[str, bytes] | BaseException | None = None
        self._progress = self._shown = b""
        self._result: TrialResult | None = None
        self._is_over = False

    # What the study calls.

    def ended(self) -> bool:
        if self._arrived.is_set() and not self._is_over:
            self._settle()
        elif not self._is_over and self._progress != self._shown:
            self._shown = self._progress
            write_whole(self.folder.progress, self._shown, durable=False)
        return self._is_over

    def wait(self, timeout_s: float) -> None:
        if not self._is_over and self._arrived.wait(timeout_s):
            self.ended()

    def interrupt(self) -> None:
        if self._is_over:
            return
        if self.address:
            self._place.aside(interrupt, self.key, address=self.address)
        else:
            self.drop()

    def kill(self) -> None:
        self.drop()

    def state(self) -> RunningTrial:
        return told(self.spec, self._progress)

    def result(self) -> TrialResult:
        assert self._result is not None, "a trial that was dropped is not asked for its result"
        return self._result

    # What the place calls.

    def begun(self, key: str, address: str, label: str, future: Future) -> None:
        """Follow the task that runs the trial now."""
        self.key, self.address, self._label, self._future = key, address, label, future
        self._arrived, self._came = threading.Event(), None
        arrived = self._arrived

        def fetch(done: Future) -> None:
            """In a thread of Dask's: the files may take a while to come."""
            try:
                came: dict[str, bytes] | BaseException = done.result()
            except BaseException as error:  # noqa: BLE001 - told to the study's thread
                came = error
            if arrived is self._arrived:  # it was not given to another worker meanwhile
                self._came = came
                arrived.set()

        future.add_done_callback(fetch)

    def told(self, key: str, progress: bytes) -> None:
        """Called by a thread of Dask's with the progress.json of the task of that key."""
        if key == self.key:
            self._progress = progress

    def lost(self) -> None:
        """Its worker is gone: have it run elsewhere, unless what it sent is here already."""
        if not self._arrived.is_set():
            self._again(lost=True)

    def fail(self, reason: str) -> None:
        """End it as a failure on our own side."""
        self._finish(
            TrialResult(
                trial_id=self.spec.trial_id,
                verdict=Verdict.CLIENT_FAULT,
                reason=clean_text(reason, lines=False),
                completed=0,
                host=self._label or None,
            )
        )

    def drop(self) -> None:
        """End it without a result, and leave nothing of it."""
        if self._is_over:
            return
        self._over()
        shutil.rmtree(self.folder.path, ignore_errors=True)

    def _settle(self) -> None:
        came = self._came
        if isinstance(came, dict):
            try:
                self._store(came)
            except KitError as error:
                self.fail(f"what its worker sent cannot be read: {error.given}")
        elif type(came).__name__ in ("CancelledError", "FutureCancelledError"):
            self._again(lost=False)  # the connection to the scheduler broke, and was made again
        elif type(came).__name__ == "KilledWorker":
            self._again(lost=True)
        else:
            said = came.given if isinstance(came, KitError) else f"{type(came).__name__}: {came}"
            self.fail(f"the trial failed on {self._label}: {said}")

    def _again(self, *, lost: bool) -> None:
        self._arrived, self._came, self._progress = threading.Event(), None, b""
        if self._future is not None:
            self._future.release()
        self.losses += lost
        self._place.give_back(self, lost=lost)
        self.key = self.address = ""

    def _store(self, files: dict[str, bytes]) -> None:
        result = from_json(files.get(_RESULT, b""), TrialResult)
        for name, data in files.items():
            if name not in (_SPEC, _RESULT) and _NAME.fullmatch(name):
                write_whole(self.folder.path / name, data, durable=False)
        self._finish(replace(result, trial_id=self.spec.trial_id, host=self._label))

    def _finish(self, result: TrialResult) -> None:
        self.folder.finish(result)
        self._result = result
        self._over()

    def _over(self) -> None:
        self._is_over = True
        self._place.ended(self)
        if self._future is not None:
            self._future.release()
            self._future = None
