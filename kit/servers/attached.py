"""A server that somebody else runs: reached by its URL, watched from outside, never stopped.

Nothing is known of its process, unless its owner names commands that tell of it
(kit.servers.owner_commands). That it answers no more is seen by asking it: what refuses
connections, or does not answer, for long enough has stopped answering.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kit.errors import ServerStartError, SpecError
from kit.servers.base import Access, End
from kit.servers.owner_commands import OwnerCommands
from kit.servers.owner_runner import OwnerRunner
from kit.servers.told_state import ToldState
from kit.servers.watch.fetch import Answer, NoAnswer, get
from kit.servers.watch.lives import RESTARTED, Lives
from kit.study.files import write_whole
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint, Protocol, ServerSpec

PROBE_S: Final = 0.5
PROBE_TIMEOUT_S: Final = 2.0
#: How often its owner's command is asked for its state; one that restarts at once is seen so.
STATE_S: Final = 5.0
#: How often its counters are looked at.
COUNTERS_S: Final = 1.0
#: Of a page of metrics, and of any other answer to a probe.
METRICS_BYTES: Final = 4 * 1024 * 1024
MOST_BYTES: Final = 64 * 1024
#: Who watches a server needs so long at most to tell that it ended.
TOLD_S: Final = 10.0
#: How long it must refuse connections: a restart takes longer, a full backlog does not.
REFUSED_S: Final = 2.0
#: How long it must be silent, or its proxy say that nobody is behind it.
SILENT_S: Final = 10.0
#: What a proxy answers when nobody is behind it.
NOBODY_BEHIND: Final = (502, 503, 504)
TRITON_METRICS_PORT: Final = 8002
_PORTS: Final = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}
READY: Final = "/v2/health/ready"


def endpoint_of(url: str, protocol: Protocol) -> Endpoint:
    """Where `url` points: http://, https://, grpc:// or grpcs://HOST[:PORT].

    Raises:
        SpecError: no such address, or one that the protocol does not go to.
    """
    parts = urlsplit(url)
    wanted = ("grpc", "grpcs") if protocol.is_grpc else ("http", "https")
    try:
        port = parts.port
    except ValueError:
        port = -1
    unused = (parts.path.rstrip("/"), parts.query, parts.fragment, parts.username)
    host = parts.hostname or ""
    if parts.scheme not in wanted or not _is_host(host) or port == -1 or any(unused):
        raise SpecError(
            f"the address {_without_user(url)!r} for {protocol}",
            f"{wanted[0]}://HOST:PORT or {wanted[1]}://HOST:PORT, and nothing after the port",
            "correct the address; what a path or a user name would say is said by the model and "
            "by KIT_BEARER_TOKEN",
        )
    port = port or _PORTS[parts.scheme]
    secure = parts.scheme.endswith("s")
    if protocol.is_grpc:
        return Endpoint(host=host, grpc_port=port, tls=secure)
    return Endpoint(host=host, http_port=port, tls=secure)


def _is_host(name: str) -> bool:
    """Whether it can be looked up at all: "a..b" and labels of over 63 letters cannot."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _without_user(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else url


class AttachedServer:
    """Somebody else's server, from reaching it to letting go of it.

    access: headers and certificates, sent with every probe as with the traffic.
    commands: what its owner lets run: with one that restarts it, `start` does so, and waits for
        `ready_timeout_s` at the most.
    """

    def __init__(
        self,
        spec: ServerSpec,
        protocol: Protocol,
        folder: TrialFolder,
        *,
        access: Access | None = None,
        commands: OwnerCommands | None = None,
        ready_timeout_s: float = 60.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._spec = spec
        self._commands = commands or OwnerCommands()
        self._ready_timeout_s = ready_timeout_s
        self._before: ToldState | None = None
        self._told: ToldState | None = None  # of its end
        self._asked_ns = self._counted_ns = 0
        self._lives = Lives()
        self._metrics: Endpoint | None = None  # where they are
        self._endpoint = endpoint_of(spec.url or "", protocol)
        self._folder = folder
        self._access = access or Access()
        self._owner = OwnerRunner(self._commands, folder.log, self._access.redact)
        self._clock_ns = clock_ns
        self._ended: End | None = None
        self._silent_since_ns: int | None = None
        self._has_answered = False
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="attached", daemon=True)

    @property
    def pid(self) -> int | None:
        return None

    @property
    def modules(self) -> Path | None:
        return None

    @property
    def sees_exit(self) -> bool:
        return self._ended is not None and self._ended.exit_code is not None

    @property
    def versions(self) -> dict[str, str]:
        return {}

    def start(self) -> Endpoint:
        """Restart it, if that was asked for; see whether it answers and where its metrics are.

        One that was there before and does not answer is a finding.

        Raises:
            ServerStartError: it could not be restarted, or was not ready in time.
        """
        if self._commands.restart is not None:
            self._owner.restart(self._ready_timeout_s)
            self._wait_until_ready()
        self._owner.follow()
        self._before, self._asked_ns = self._owner.state(), self._clock_ns()
        self._look()
        endpoint = self._with_metrics()
        self._metrics = endpoint
        description = {
            "kind": "attached",
            "model": self._spec.model,
            "host": endpoint.host,
            "http_port": endpoint.http_port,
            "grpc_port": endpoint.grpc_port,
            "metrics_port": endpoint.metrics_port,
            "tls": endpoint.tls,
            "owner_commands": self._commands.names,  # which there were, not their words
        }
        write_whole(self._folder.server, json.dumps(description, indent=2).encode() + b"\n")
        self._thread.start()
        return endpoint

    def end(self, timeout_s: float = 0.0) -> End | None:
        self._changed.wait(timeout_s)
        return self._ended

    def out_of_memory(self) -> bool | None:
        return None if self._told is None else self._told.out_of_memory

    def stop(self, *, patience_s: float = 0.0) -> None:
        """Let go of it; it runs on."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._owner.close()

    def _wait_until_ready(self) -> None:
        deadline_ns = self._clock_ns() + round(self._ready_timeout_s * 1e9)
        why: str | None = "no answer"
        while self._clock_ns() < deadline_ns:
            why = self._why_not_ready()
            if why is None:
                return
            self._stopping.wait(PROBE_S)
        raise ServerStartError(
            f"{self._spec.label}, not ready {self._ready_timeout_s:.0f} s after it was restarted "
            f"({why})",
            "a server that answers again",
            "see its own log; a model may take longer to load (ready_timeout_s)",
        )

    def _why_not_ready(self) -> str | None:
        """None: it is. Triton says so itself; another server answers something else there."""
        end = self._endpoint
        if end.http_port is None:
            return asyncio.run(_connects(end.host, end.grpc_port or 0))
        answer = self._get(end.http_port, READY, tls=end.tls)
        if answer.status is None or answer.status in (400, *NOBODY_BEHIND):
            return "no answer" if answer.status is None else f"HTTP {answer.status}"
        return None

    def _watch(self) -> None:
        while not self._stopping.wait(PROBE_S) and self._ended is None:
            self._look()

    def _look(self) -> None:
        began_ns = self._clock_ns()
        why, enough_s = self._silence()
        if why is None:
            self._has_answered, self._silent_since_ns = True, None
            self._look_at_counters(began_ns)
            if began_ns - self._asked_ns >= STATE_S * 1e9:
                self._asked_ns = began_ns
                self._ask(began_ns)
            return
        self._silent_since_ns = self._silent_since_ns or began_ns
        silent_s = (self._clock_ns() - self._silent_since_ns) / 1e9
        if self._has_answered and silent_s >= enough_s:
            since_ns = self._silent_since_ns
            self._wait_until_told(since_ns, why)

    def _look_at_counters(self, now_ns: int) -> None:
        """Note its end where its metrics are those of another life.

        They are asked for beside the watcher's own scrapes, which know nothing of the server's end.
        """
        end = self._metrics
        if end is None or now_ns - self._counted_ns < COUNTERS_S * 1e9:
            return
        self._counted_ns = now_ns
        most = METRICS_BYTES
        if (port := end.metrics_port) is not None:  # Triton's, in the clear whatever `tls` says
            host = end.metrics_host
            page = self._get(
                port, "/metrics", tls=False, headers=False, host=host, limit_bytes=most
            )
        elif (port := end.http_port) is not None:  # vLLM's own server has them on its one port
            page = self._get(port, "/metrics", tls=end.tls, limit_bytes=most)
        else:
            return
        since_ns = self._lives.note(page.body, t_ns=now_ns) if page.status == 200 else None
        if since_ns is not None and not self._ask(since_ns, RESTARTED):
            self._ended = End(at_ns=since_ns, how=RESTARTED)
            self._changed.set()

    def _wait_until_told(self, since_ns: int, why: str) -> None:
        """Note its end, as its owner's command tells of it within TOLD_S, else as it was seen."""
        deadline_ns = self._clock_ns() + round(TOLD_S * 1e9)
        while self._before is not None and self._clock_ns() < deadline_ns:
            if self._ask(since_ns, why):
                return
            if self._stopping.wait(PROBE_S):
                break
        self._ended = End(at_ns=since_ns, how=why)
        self._changed.set()

    def _ask(self, at_ns: int, how: str = "restarted") -> bool:
        """Whether its owner's command tells of its end; that is noted."""
        if self._before is None:
            return False
        now = self._owner.state()
        if now is None or not now.is_another_life_than(self._before):
            return False
        self._told = now
        self._ended = End(at_ns=at_ns, how=how, exit_code=now.exit_code)
        self._changed.set()
        return True

    def _silence(self) -> tuple[str | None, float]:
        """How it showed that it answers no more, None if it does; and how long that must last."""
        end = self._endpoint
        if end.http_port is None:
            return asyncio.run(_connects(end.host, end.grpc_port or 0)), REFUSED_S
        answer = self._get(end.http_port, READY, tls=end.tls)
        if answer.status in NOBODY_BEHIND:
            return f"HTTP {answer.status} in its place", SILENT_S
        if answer.status is not None:
            return None, 0.0
        if answer.why is NoAnswer.SILENT:
            return "no answer in time", SILENT_S
        refused = answer.why is NoAnswer.REFUSED
        return ("connection refused" if refused else "connection lost"), REFUSED_S

    def _with_metrics(self) -> Endpoint:
        end = self._endpoint
        host, port = end.host, TRITON_METRICS_PORT
        if self._spec.metrics_url:
            parts = urlsplit(self._spec.metrics_url)
            host, port = parts.hostname or host, parts.port or port
        elif self._get(port, "/metrics", tls=False, headers=False).status != 200:
            return end
        return Endpoint(
            host=end.host,
            http_port=end.http_port,
            grpc_port=end.grpc_port,
            metrics_port=port,
            metrics_host=host,
            tls=end.tls,
        )

    def _get(
        self,
        port: int,
        path: str,
        *,
        tls: bool,
        headers: bool = True,
        host: str | None = None,
        limit_bytes: int = MOST_BYTES,
    ) -> Answer:
        return asyncio.run(
            get(
                host or self._endpoint.host,
                port,
                path,
                timeout_s=PROBE_TIMEOUT_S,
                limit_bytes=limit_bytes,
                tls=self._access.tls or tls if tls else False,
                headers=self._access.headers if headers else (),
            )
        )


async def _connects(host: str, port: int) -> str | None:
    """None if somebody listens there; else how that showed."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, sink = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "no connection in time"
    except OSError:
        return "connection refused"
    sink.transport.abort()
    return None
