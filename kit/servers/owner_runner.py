"""Runs a server's owner's commands beside a trial, and leaves none of them running."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, Final

import psutil

from kit.cleaning import clean_text
from kit.errors import ServerStartError
from kit.servers.owner_commands import OwnerCommands
from kit.servers.processes import ending_with_us
from kit.servers.runs import Run, register
from kit.servers.told_state import ToldState, state_of

STATE_TIMEOUT_S: Final = 10.0
#: What a state command may print; a pod's JSON has some tens of kilobytes.
_MOST_STATE_BYTES: Final = 4 * 1024 * 1024
#: What is kept of a log; what comes after is read and dropped.
MOST_LOG_BYTES: Final = 1 << 30
#: A log command that ended (its container did) is begun again after so long.
_AGAIN_S: Final = 1.0
#: A longer line is written in pieces.
_LINE_BYTES: Final = 1 << 16
_PATIENCE_S: Final = 2.0
_POLL_S: Final = 0.02


class OwnerRunner:
    """The owner's commands of one server, for one trial.

    log: the file that what the server logs is appended to, line by line as it comes.
    redact: takes out of a line what must not be written.
    """

    def __init__(
        self, commands: OwnerCommands, log: Path, redact: Callable[[str], str] = str
    ) -> None:
        self._commands = commands
        self._redact = redact
        self._log = log
        self._kept = 0  # bytes of the log
        self._run: Run | None = None
        self._follower: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()  # of the follower: it is not waited for while signalled
        self._registering = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="owner-log", daemon=True)

    def restart(self, timeout_s: float) -> None:
        """Restart the server, if there is a command for it.

        The command is not of the kit's processes, nor is what it starts: nothing of it is ended
        with the trial.

        Raises:
            ServerStartError: it failed, or did not end in time.
        """
        words = self._commands.restart
        if words is None:
            return
        with tempfile.TemporaryFile() as said:
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    timeout=timeout_s,
                    check=False,
                )
                why = f"status {done.returncode}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                why = f"not done in {timeout_s:.0f} s"
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                raise ServerStartError(
                    f"`{shlex.join(words)}`: {why}{_last_words(said)}",
                    "a command that restarts the server and ends with status 0",
                    "try it by hand, as this user",
                )

    def follow(self) -> None:
        """Append to the log from now on."""
        if self._commands.log is not None:
            self._thread.start()

    def state(self) -> ToldState | None:
        """How the server is, or how it ended; None: nobody can say."""
        words = self._commands.state
        if words is None or self._closing.is_set():
            return None
        try:
            process = self._start(words)
        except OSError:
            return None
        try:
            text = _read(process)
        finally:
            _end(process)
        return None if text is None else state_of(text.decode(errors="replace"))

    def close(self) -> None:
        """End what runs; whatever state it is in."""
        self._closing.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._thread.ident is None or not self._thread.is_alive():
                break
            with self._lock:
                if self._follower is not None:
                    _signal(self._follower, number)
            # Its thread waits for it, unless a process that left its group holds its output.
            self._thread.join(_PATIENCE_S)
        if self._run is not None:
            self._run.forget()
            self._run = None

    def _follow(self) -> None:
        words = self._commands.log
        assert words is not None
        with self._log.open("ab", buffering=0) as file:
            while not self._closing.is_set():
                with self._lock:
                    if self._closing.is_set():
                        return
                    try:
                        self._follower = self._start(words)
                    except OSError as error:
                        file.write(f"[{shlex.join(words)}: {error.strerror}]\n".encode())
                        return
                self._copy(self._follower, file)
                with self._lock:
                    _end(self._follower)
                    self._follower = None
                self._closing.wait(_AGAIN_S)

    def _copy(self, follower: subprocess.Popen[bytes], file: BinaryIO) -> None:
        """Write what it prints, to its end."""
        assert follower.stdout is not None
        with follower.stdout as output:
            while line := output.readline(_LINE_BYTES):
                if self._kept < MOST_LOG_BYTES:
                    text = self._redact(line.decode(errors="surrogateescape"))
                    with contextlib.suppress(OSError):  # a full disk ends no trial
                        file.write(text.encode(errors="surrogateescape"))
                self._kept += len(line)

    def _start(self, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        """A command of the kit's own processes: it ends with them, and is swept if they cannot."""
        on_linux = sys.platform == "linux"
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | (self._mark() if on_linux else {}),
            start_new_session=True,
            preexec_fn=ending_with_us() if on_linux else None,
        )

    def _mark(self) -> dict[str, str]:
        """What the environment of its processes must have; the log's thread asks as well."""
        with self._registering:
            if self._run is None:
                self._run = register()
            return self._run.environment


def _read(process: subprocess.Popen[bytes]) -> bytes | None:
    """All that it prints; None: it goes on for too long, or prints too much."""
    assert process.stdout is not None
    deadline = time.monotonic() + STATE_TIMEOUT_S
    text = b""
    with process.stdout as output:
        while (left_s := deadline - time.monotonic()) > 0 and len(text) <= _MOST_STATE_BYTES:
            if not select.select([output], [], [], left_s)[0]:
                break
            piece = os.read(output.fileno(), _LINE_BYTES)
            if not piece:
                return text
            text += piece
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started in its session."""
    if process.returncode is not None:
        return
    _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _signal(process, signal.SIGKILL)  # also what its first process left behind
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # not waited for yet, so the number is still its own


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        return psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _last_words(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - 2000))
    text = clean_text(said.read().decode(errors="replace")).strip()
    return f' ("{" ".join(text.split())[-300:]}")' if text else ""
