"""Asks whether a request's client has gone away, in one of four ways.

When, and from which thread, a model asks `is_cancelled()` decides whether a Triton release
lives (see data/crashes.yaml, is-cancelled-after-final):

- `coroutine`: asked before each token by the coroutine that serves the request, never once the
  final response is handed over. Every release survives it.
- `second-thread`: one watcher thread asks for all live requests in turn and notes the answer,
  as a server with a watchdog does. A request is live until its coroutine hears that the final
  response was sent, so the watcher can be asking while it is sent, or just after. A `done` flag
  would narrow that gap and not close it: the final response can be sent between the look at the
  flag and the question.
- `after-final`: asked once after the final response was sent, by the coroutine as it cleans up.
  The same fault as above, without the race.
- `none`: never asked.
"""

from __future__ import annotations

import asyncio
import threading

import triton_python_backend_utils as pb_utils

MODES = ("coroutine", "second-thread", "after-final", "none")


class LiveRequest:
    """One request whose client may go away; made in the event loop."""

    def __init__(self, sender: object) -> None:
        self.sender = sender
        self.cancelled = False  # as the watcher last saw it
        self.final_sent = asyncio.Event()


class CancelCheck:
    """Asks in the configured way; the request's coroutine calls `begin`, `cancelled`, `end`."""

    def __init__(self, mode: str, *, poll_s: float = 0.005) -> None:
        if mode not in MODES:
            raise ValueError(f"cancel_check = {mode!r}: one of {', '.join(MODES)} is expected")
        if mode != "none" and not hasattr(pb_utils.InferenceRequest, "is_cancelled"):
            raise ValueError(
                f"cancel_check = {mode!r}: this Triton release cannot be asked about "
                "cancellation (that came with 23.10); set cancel_check to none"
            )
        self._mode = mode
        self._poll_s = poll_s
        self._live: dict[LiveRequest, None] = {}  # in order of arrival
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="cancel-watcher", daemon=True)
        if mode == "second-thread":
            self._watcher.start()

    def begin(self, sender: object) -> LiveRequest:
        request = LiveRequest(sender)
        with self._lock:
            self._live[request] = None
        return request

    def cancelled(self, request: LiveRequest) -> bool:
        """Whether the client has gone away, as far as is known; called before each token."""
        if self._mode == "coroutine":
            return request.sender.is_cancelled()
        return request.cancelled

    def end(self, request: LiveRequest) -> None:
        """The final response has been sent."""
        if self._mode == "after-final":
            request.sender.is_cancelled()
        with self._lock:
            del self._live[request]

    def stop(self) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self._ask_all()

    def _ask_all(self) -> None:
        # Of its own, so that the waiting watcher holds no sender: see DecoupledModel.
        with self._lock:
            live = list(self._live)
        for request in live:
            request.cancelled = request.cancelled or request.sender.is_cancelled()
