"""Tells by a server's metrics that another life of it answers: its counters began anew.

A restart that is quicker than a few seconds, or hidden by a proxy that tries again, shows nowhere
else from outside. Behind a load balancer each page may be of another replica, whose counters are
others: then pages of the earlier life come back, and nothing is said any more.
"""

from __future__ import annotations

from typing import Final

from kit.servers.watch.metrics_text import parse_metrics

#: So many pages one after the other must be of the new life.
PAGES: Final = 5
RESTARTED: Final = "the counters of its metrics began anew: it, or its model, was started again"
#: What counts from a server's start: Triton's requests and executions, vLLM's tokens.
_COUNTERS: Final = (
    *("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count"),
    *("nv_inference_exec_count", "vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
    "vllm:request_success_total",
)


class Lives:
    """The lives of a server, by its metrics pages.

    >>> lives = Lives()
    >>> page = b'nv_inference_count{model="m",version="1"} %d\\n'
    >>> [lives.note(page % n, t_ns=t) for t, n in enumerate((7, 9, 9))]
    [None, None, None]
    >>> [lives.note(page % n, t_ns=t) for t, n in enumerate((0, 1, 2, 3, 4))][-1]
    0
    """

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], float] = {}  # the last page of the first life
        self._since_ns: int | None = None  # first page of what may be another
        self._pages = 0
        self._mixed = False  # several replicas answer

    def note(self, page: bytes, *, t_ns: int) -> int | None:
        """Take a page; when the other life that it is of was first seen, once that is sure."""
        now = {(s.name, s.labels): s.value for s in parse_metrics(page, t_ns=t_ns)}
        now = {key: value for key, value in now.items() if key[0] in _COUNTERS}
        if self._mixed or not now:
            return None
        if not any(value < self._before.get(key, 0.0) for key, value in now.items()):
            self._mixed = self._since_ns is not None  # the earlier life is back
            self._before = now
            return None
        if self._since_ns is None:
            self._since_ns = t_ns
        self._pages += 1
        return self._since_ns if self._pages >= PAGES else None
