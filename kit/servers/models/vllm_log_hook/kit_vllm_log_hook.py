"""A vLLM plugin: the engine writes its statistics to the log every few seconds.

vLLM V1 writes them only when its owner calls `do_log_stats()`. vLLM's own server does; Triton's
vLLM backend from 25.10 on does not, so its log says nothing about the KV cache. Put this folder
on the server's PYTHONPATH and vLLM finds the plugin by itself; no model has to be changed.

KIT_LOG_INTERVAL_S (5 unless set) is the time between two lines. Like vLLM, it says nothing from
the second idle interval on.
"""

from __future__ import annotations

import functools
import os
import threading

#: kit/servers/watch reads this line: what follows came through this hook.
MARK = "triton-crash-kit: engine statistics are logged every"


def register() -> None:
    """Called by vLLM in each of its processes; only the one that keeps statistics goes on."""
    try:
        from vllm.v1.metrics.loggers import LoggingStatLogger
    except ImportError:
        return  # vLLM's older engine, which logs by itself
    if hasattr(LoggingStatLogger, "kit_log_hook"):
        return  # vLLM may ask several times
    LoggingStatLogger.kit_log_hook = True
    begin = LoggingStatLogger.__init__

    @functools.wraps(begin)
    def begin_and_log(self: LoggingStatLogger, *args: object, **named: object) -> None:
        begin(self, *args, **named)
        interval_s = float(os.environ.get("KIT_LOG_INTERVAL_S", "5"))
        print(f"{MARK} {interval_s:g} s", flush=True)  # noqa: T201
        threading.Thread(target=_log, args=(self, interval_s), daemon=True).start()

    LoggingStatLogger.__init__ = begin_and_log


def _log(logger: object, interval_s: float) -> None:
    pause = threading.Event()
    while not pause.wait(interval_s):
        logger.log()
