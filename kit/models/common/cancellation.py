"""A response sender in, "did its client go away?" out, asked in one of four ways.

When, and from which thread, a model asks `is_cancelled()` decides whether a Triton release
lives (see data/crashes.yaml, is-cancelled-after-final):

- `coroutine`: asked before each token by the coroutine that serves the request, never once the
  final response is handed over. Every release survives it.
- `second-thread`: one watcher thread asks for all live requests in turn and notes the answer,
  as a server with a watchdog does. A request is live until its final response is sent, so the
  watcher can be asking just then. Looking at a `done` flag first would not help: the final
  response can be sent between the look and the question.
- `after-final`: asked once after the final response was sent, as a model does that asks in its
  clean-up. The same fault as above, without the race.
- `none`: never asked.
"""

from __future__ import annotations

import threading

import triton_python_backend_utils as pb_utils

MODES = ("coroutine", "second-thread", "after-final", "none")


class LiveRequest:
    """One request whose client may go away."""

    def __init__(self, sender: object) -> None:
        self.sender = sender
        self.cancelled = False  # as the watcher last saw it


class CancelCheck:
    """Asks in the configured way; `begin`, `cancelled` before each token, `final_sent`."""

    def __init__(self, mode: str, *, poll_s: float = 0.001) -> None:
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
        """Called by the request's coroutine before each token."""
        if self._mode == "coroutine":
            return request.sender.is_cancelled()
        return request.cancelled

    def final_sent(self, request: LiveRequest) -> None:
        """Called by the response thread once the final response has been sent."""
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
