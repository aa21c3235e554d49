"""Asks a server that runs already what can be known of it before traffic is sent: a dozen GETs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from kit.servers.attached import READY, TRITON_METRICS_PORT, endpoint_of
from kit.servers.base import Access
from kit.servers.watch.fetch import Answer, NoAnswer, get
from kit.servers.watch.metrics_text import parse_metrics
from kit.servers.watch.names import TRITON_METRICS, VLLM_METRICS, Sample
from kit.servers.whereabouts import is_own_address, tunnel_at
from kit.study.spec import Endpoint, Protocol, ServerSpec

TIMEOUT_S: Final = 2.0
_LIMIT_BYTES: Final = 1024 * 1024
#: Where vLLM's own server says how many blocks its KV cache has.
_CACHE_CONFIG: Final = "vllm:cache_config_info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAnswers:
    """What a running server said. None: it did not say, or was not asked.

    ready: its answer to the readiness endpoint; None: reached over gRPC alone. connects: whether
    anybody listens there. model: the answer about the model. listed: the models of an
    OpenAI-compatible server. samples: of its metrics. metrics_at: where those were.
    """

    endpoint: Endpoint
    connects: bool
    ready: Answer | None = None
    model: Answer | None = None
    listed: tuple[str, ...] | None = None
    triton: str | None = None
    vllm: str | None = None
    most_tokens: int | None = None  # of a sequence
    samples: tuple[Sample, ...] = ()
    metrics_at: str | None = None
    tunnel: str | None = None  # the program that carries the port here

    @property
    def cache_size(self) -> tuple[int, int] | None:
        """Blocks of the KV cache, and tokens of a block; None: it does not tell."""
        for sample in self.samples:
            if sample.name == _CACHE_CONFIG and sample.labels:
                labels = json.loads(sample.labels)
                blocks, size = _whole(labels, "num_gpu_blocks"), _whole(labels, "block_size")
                if blocks and size:
                    return blocks, size
        return None


def ask(server: ServerSpec, protocol: Protocol, access: Access | None) -> ServerAnswers:
    """Ask an attached server; takes TIMEOUT_S at the most. Nothing is generated.

    Raises:
        SpecError: no address that the protocol goes to.
    """
    endpoint = endpoint_of(server.url or "", protocol)
    # A notebook's own thread runs an event loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(
            lambda: asyncio.run(_ask(server, endpoint, protocol, access or Access()))
        ).result()


async def _ask(
    server: ServerSpec, end: Endpoint, protocol: Protocol, access: Access
) -> ServerAnswers:
    async def own(path: str) -> Answer:
        return await get(
            end.host,
            end.http_port or 0,
            path,
            timeout_s=TIMEOUT_S,
            limit_bytes=_LIMIT_BYTES,
            tls=access.tls or end.tls if end.tls else False,
            headers=access.headers,
        )

    async def metrics() -> tuple[Answer, str]:
        parts = urlsplit(server.metrics_url or "")
        host, port = parts.hostname or end.host, parts.port or TRITON_METRICS_PORT
        found = await get(host, port, "/metrics", timeout_s=TIMEOUT_S, limit_bytes=_LIMIT_BYTES)
        return found, f"{host}:{port}"

    tunnel = tunnel_at(end.http_port or end.grpc_port or 0) if is_own_address(end.host) else None
    if end.http_port is None:
        connects, (told, where) = await asyncio.gather(
            _connects(end.host, end.grpc_port or 0), metrics()
        )
        samples = _samples(told, TRITON_METRICS)
        return ServerAnswers(
            endpoint=end,
            connects=connects,
            samples=samples,
            metrics_at=where if told.status == 200 else None,
            tunnel=tunnel,
        )
    name = quote(server.model or "", safe="")
    paths = (READY, "/v2", f"/v2/models/{name}", "/v1/models", "/version", "/metrics")
    (told, where), answers = await asyncio.gather(metrics(), asyncio.gather(*map(own, paths)))
    ready, about, model, models, version, beside = answers
    samples = _samples(told, TRITON_METRICS)
    if told.status != 200 and beside.status == 200:
        samples, where = _samples(beside, VLLM_METRICS), f"{end.host}:{end.http_port}"
    listed = _listed(models) if protocol.is_openai else None
    return ServerAnswers(
        endpoint=end,
        connects=any(a.why is not NoAnswer.REFUSED for a in (ready, about, model)),
        ready=ready,
        model=model if not protocol.is_openai else None,
        listed=None if listed is None else tuple(listed),
        triton=_text(about, "version"),
        vllm=_text(version, "version"),
        most_tokens=None if listed is None else listed.get(server.model or ""),
        samples=samples,
        metrics_at=where if 200 in (told.status, beside.status) else None,
        tunnel=tunnel,
    )


async def _connects(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, sink = await asyncio.open_connection(host, port)
    except OSError:
        return False
    sink.transport.abort()
    return True


def _samples(answer: Answer, source: str) -> tuple[Sample, ...]:
    if answer.status != 200:
        return ()
    return tuple(parse_metrics(answer.body, t_ns=0, source=source))


def _document(answer: Answer) -> Any:
    """The JSON of an answer that is well; None: there is none."""
    if answer.status != 200:
        return None
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _text(answer: Answer, name: str) -> str | None:
    found = _document(answer)
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _listed(answer: Answer) -> dict[str, int | None] | None:
    """Models of an OpenAI-compatible server, each with its longest sequence in tokens."""
    found = _document(answer)
    rows = found.get("data") if isinstance(found, dict) else None
    if not isinstance(rows, Iterable) or isinstance(rows, str):
        return None
    models = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    return {row["id"]: _whole(row, "max_model_len") for row in models}


def _whole(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None
