"""Checks a server that runs already by what it answers: reach, model, versions, metrics, tunnel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from kit.checks.cache import cache_findings, length_findings
from kit.checks.finding import VLLM, Finding, Severity
from kit.checks.known import TOPIC as RELEASE
from kit.checks.known import release_findings
from kit.checks.probe import TIMEOUT_S, ServerAnswers, ask
from kit.checks.telling import told_by
from kit.crash.origin import release_named
from kit.runner.access import access_to
from kit.servers.attached import NOBODY_BEHIND
from kit.servers.watch.fetch import NoAnswer
from kit.servers.whereabouts import FRAGILE
from kit.study.releases import get_release
from kit.study.spec import Engine, TrialSpec
from kit.study.words import listing

CONNECTION: Final = "connection"
MODEL: Final = "model"
#: How many names a finding lists.
_MOST_NAMES: Final = 8
_REFUSALS: Final = (401, 403)
_TOKEN: Final = "set KIT_BEARER_TOKEN or KIT_HEADERS in the environment"  # noqa: S105


def attached_findings(trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    """All that can be seen of an attached server from outside; the requests generate nothing.

    Raises:
        SpecError: its address, or the environment's headers or certificates.
    """
    spec = trials[0].server
    seen = ask(spec, trials[0].workload.protocol, access_to(spec))
    yield from judged(seen, trials, server)


def judged(seen: ServerAnswers, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    """What the server's answers mean for these trials."""
    yield _connection(seen, server)
    yield from _tunnel(seen, trials, server)
    if not seen.connects:
        yield _unseen("release, model, KV cache, metrics", "because nothing listens there", server)
        return
    yield from _model(seen, trials[0].server.model or "", server)
    yield from _release(seen, trials, server)
    yield _vllm(seen, server)
    yield from _cache(seen, trials, server)
    yield from told_by(seen.samples, seen.metrics_at, server)
    yield Finding(
        topic="process",
        severity=Severity.NOT_CHECKED,
        found="because a URL tells neither exit status nor log nor clock nor limits",
        reason="a death shows as answers_stopped, never as crashed",
        hint="keep its log from before the load on, for `kit diagnose`",
        server=server,
    )


def _connection(seen: ServerAnswers, server: str) -> Finding:
    where = f"{seen.endpoint.host}:{seen.endpoint.http_port or seen.endpoint.grpc_port}"
    severity, hint = Severity.WARNS, "check the address, and that the server is up"
    ready = seen.ready
    if not seen.connects:
        found = f"nothing listens at {where}"
    elif ready is None:
        severity, hint, found = Severity.OK, "", f"something listens at {where}"
    elif ready.status == 200:
        severity, hint, found = Severity.OK, "", f"{where} says that it is ready"
    elif ready.status in _REFUSALS:
        found = f"{where} wants to know who asks (HTTP {ready.status})"
        hint = f"{_TOKEN}; it is sent and never stored"
    elif ready.status in NOBODY_BEHIND:
        found = f"a proxy at {where} says HTTP {ready.status}: nobody is behind it"
    elif ready.status == 404:
        severity, hint = Severity.NOTES, ""
        found = f"{where} answers, and has no readiness endpoint of Triton"
    elif ready.status is not None:
        found = f"{where} says that it is not ready (HTTP {ready.status})"
        hint = "wait until its models are loaded; its log says what it waits for"
    elif ready.why is NoAnswer.SILENT:
        found = f"{where} does not answer within {TIMEOUT_S:g} s"
    else:
        found, hint = f"{where} breaks the connection", "is it HTTPS, or gRPC? correct the address"
    return Finding(topic=CONNECTION, severity=severity, found=found, hint=hint, server=server)


def _tunnel(seen: ServerAnswers, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    if seen.tunnel is None:
        return
    interrupts = any(trial.workload.faults for trial in trials)
    breaks = seen.tunnel in FRAGILE and interrupts
    yield Finding(
        topic="tunnel",
        severity=Severity.WARNS if breaks else Severity.NOTES,
        found=f"{seen.tunnel} carries this port to another machine",
        reason="hundreds of interrupted requests leave kubectl port-forward unusable, which looks "
        "like a crash (kubernetes#78446)"
        if breaks
        else "when the tunnel ends, that looks like the server's end",
        hint="run the load in a pod, or against the service's own address" if breaks else "",
        server=server,
    )


def _model(seen: ServerAnswers, name: str, server: str) -> Iterator[Finding]:
    if seen.listed is not None:
        there = name in seen.listed
        more = "" if len(seen.listed) <= _MOST_NAMES else " and others"
        has = (listing(seen.listed[:_MOST_NAMES]) or "none") + more
        yield Finding(
            topic=MODEL,
            severity=Severity.OK if there else Severity.BLOCKS,
            found=f"{name} is served" if there else f"there is no {name}; the server has {has}",
            hint="" if there else "correct model=",
            server=server,
        )
    elif seen.model is None:
        yield _unseen(MODEL, "because the server is asked over HTTP only", server)
    elif seen.model.status == 200:
        yield Finding(topic=MODEL, severity=Severity.OK, found=f"{name} is served", server=server)
    elif _is_unknown(seen.model.body):
        yield Finding(
            topic=MODEL,
            severity=Severity.BLOCKS,
            found=f"Triton has no model {name}",
            hint="correct model=; `curl -X POST URL/v2/repository/index` lists what it has",
            server=server,
        )
    else:
        said = f"HTTP {seen.model.status}" if seen.model.status else "no answer in time"
        yield _unseen(MODEL, f"because asked about {name} the server gives {said}", server)


def _is_unknown(body: bytes) -> bool:
    """Whether these are the words in which Triton says that it has no such model."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return isinstance(said, str) and "unknown model" in said


def _release(seen: ServerAnswers, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    if seen.triton is None:
        yield _unseen(
            RELEASE,
            "because this server does not say that it is Triton, nor which",
            server,
            hint="`kit advise RELEASE TRAFFIC` says what is known of one",
        )
        return
    release = release_named(seen.triton)
    if release is None:
        why = f"because Triton {seen.triton} is not in the catalog of releases"
        yield _unseen(RELEASE, why, server)
        return
    yield Finding(
        topic=RELEASE,
        severity=Severity.OK,
        found=f"it says that it is Triton {seen.triton}, which is {release}",
        server=server,
    )
    yield from release_findings(release, trials, server)


def _vllm(seen: ServerAnswers, server: str) -> Finding:
    if seen.vllm is not None:
        found = f"it says that it is {seen.vllm}"
        return Finding(topic=VLLM, severity=Severity.OK, found=found, server=server)
    release = release_named(seen.triton or "")
    own = get_release(release).vllm if release else None
    return Finding(
        topic=VLLM,
        severity=Severity.NOT_CHECKED,
        found="because Triton does not tell the version of what is behind it"
        + (f"; the release's official image has {own}" if own else ""),
        reason="the public report had 0.3.2 in an image that was made and tested with 0.2.1.post1",
        hint="where it runs: python3 -c 'import vllm; print(vllm.__version__)'",
        server=server,
    )


def _cache(seen: ServerAnswers, trials: Sequence[TrialSpec], server: str) -> Iterator[Finding]:
    yield from length_findings(trials, seen.most_tokens, server)
    size = seen.cache_size
    if size is None:
        yield from cache_findings(
            trials, server, unknown="because the server does not tell how large its cache is"
        )
        return
    blocks, tokens = size
    most = seen.most_tokens or Engine().max_model_tokens * blocks  # not known: no limit
    engine = Engine(blocks=blocks, block_size_tokens=tokens, max_model_tokens=most)
    yield from cache_findings(trials, server, engine=engine)


def _unseen(topic: str, why: str, server: str, *, hint: str = "") -> Finding:
    return Finding(topic=topic, severity=Severity.NOT_CHECKED, found=why, hint=hint, server=server)
