"""What a preflight sees of a server that runs already, by a dozen GETs and no inference."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import kit
from kit.checks import probe
from kit.checks.finding import Finding, Preflight, Severity
from kit.checks.run import preflight
from kit.errors import PreflightError
from kit.servers.ports import PortClaim
from kit.study.spec import Workload
from kit.ui.choices import choose
from kit.ui.preflighting import beforehand

UNKNOWN = json.dumps({"error": "Request for unknown model: 'm' is not found"})  # as 24.10 says it
TRITON = {
    "/v2/health/ready": (200, ""),
    "/v2": (200, '{"name": "triton", "version": "2.51.0"}'),
    "/v2/models/m": (200, '{"name": "m"}'),
}
METRICS = 'nv_inference_count{model="m",version="1"} 3\n'
COUNTERS = METRICS + 'vllm:prompt_tokens_total{model="m",version="1"} 3\n'
GPU = 'nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5\n'
CACHE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="101",engine="0"} 1\n'
KV = 'vllm:kv_cache_usage_perc{model_name="m"} 0.25\n'
MODELS = json.dumps({"data": [{"id": "m", "max_model_len": 100}]})


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls for a second must not look like a server that is silent."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 60.0)


class Asked:
    """A server with these answers; what it was asked is in `seen`."""

    def __init__(self, answers: dict[str, tuple[int, str]]) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str | None]] = []
        self.port = 0

    @contextmanager
    def serving(self) -> Iterator[Asked]:
        asked = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.seen.append((self.path, self.headers["Authorization"]))
                status, body = asked.answers.get(self.path, (404, ""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            self.port = http.server_port
            threading.Thread(target=http.serve_forever, daemon=True).start()
            yield self
            http.shutdown()


def look(answers: dict[str, tuple[int, str]], **traffic: object) -> Preflight:
    with Asked(answers).serving() as asked:
        url = f"http://127.0.0.1:{asked.port}"
        # The default port is another program's, or nobody's; this one is the server's own.
        server = kit.attach(url, model="m", metrics_url=url)
        return preflight(choose(server, workload=Workload(), name="p", **traffic), is_quick=True)


def about(found: Preflight, topic: str) -> list[Finding]:
    return [one for one in found.findings if one.topic == topic]


def one(found: Preflight, topic: str) -> Finding:
    (finding,) = about(found, topic)
    return finding


@pytest.mark.slow
def test_a_triton_that_serves_the_model_is_known_by_its_version() -> None:
    found = look({**TRITON, "/metrics": (200, COUNTERS + GPU)})
    assert one(found, "connection").severity is Severity.OK
    assert one(found, "model").severity is Severity.OK
    assert "2.51.0, which is 24.10" in " ".join(f.found for f in about(found, "release"))
    assert "the release's official image has 0.5.5" in one(found, "vLLM version").found
    assert one(found, "metrics").severity is Severity.WARNS
    assert "not exported" in one(found, "metrics").found
    assert one(found, "GPU telemetry").severity is Severity.OK
    assert one(found, "KV cache").severity is Severity.NOT_CHECKED
    assert one(found, "process").severity is Severity.NOT_CHECKED


@pytest.mark.slow
def test_vllms_own_server_tells_its_cache_and_the_traffic_is_held_against_it() -> None:
    server = {
        "/v1/models": (200, MODELS),
        "/version": (200, '{"version": "0.27.1"}'),
        "/metrics": (200, KV + CACHE),
    }
    chat = {"protocol": "openai-chat-stream"}
    few = look(server, concurrency=2, **chat)
    assert "0.27.1" in one(few, "vLLM version").found
    assert one(few, "metrics").severity is Severity.OK
    assert one(few, "KV cache").severity is Severity.OK
    assert one(few, "model").severity is Severity.OK
    many = look(server, concurrency=64, **chat)
    assert "(100 usable blocks of 16 tokens)" in one(many, "KV cache").found
    assert one(many, "KV cache").severity is Severity.WARNS
    long = look(server, concurrency=1, output_tokens=80, **chat)
    assert any("112 tokens, and the engine takes 100" in f.found for f in long.warnings)


@pytest.mark.slow
def test_a_model_that_is_not_there_blocks_the_study_and_sends_nothing() -> None:
    with Asked({**TRITON, "/v2/models/m": (400, UNKNOWN)}).serving() as asked:
        url = f"http://127.0.0.1:{asked.port}"
        spec = choose(kit.attach(url, model="m", metrics_url=url), workload=Workload(), name="p")
        with pytest.raises(PreflightError, match="Triton has no model m"):
            beforehand(spec)
        with pytest.raises(PreflightError, match="Triton has no model m"):
            kit.run(kit.attach(url, model="m", metrics_url=url), requests=4, progress=False)
        assert {path for path, _ in asked.seen} <= {*TRITON, "/v1/models", "/version", "/metrics"}
    listed = look({"/v1/models": (200, '{"data": [{"id": "x"}]}')}, protocol="openai-chat")
    assert "there is no m; the server has x" in listed.blocking[0].found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "wants to know who asks"),
        (503, "nobody is behind it"),
        (400, "not ready (HTTP 400)"),
        (404, "no readiness endpoint"),
    ],
)
def test_a_server_that_is_not_ready_says_how(status: int, said: str) -> None:
    found = look({"/v2/health/ready": (status, "")})
    assert said in one(found, "connection").found
    assert not found.blocking
    assert about(found, "release")[0].severity is Severity.NOT_CHECKED


@pytest.mark.slow
def test_without_metrics_and_with_foreign_ones_a_remedy_is_named() -> None:
    assert "metrics_url" in one(look(TRITON), "metrics").hint
    foreign = one(look({**TRITON, "/metrics": (200, "go_threads 3\n")}), "metrics")
    assert "no metric of Triton or vLLM" in foreign.found


def test_a_port_on_which_nobody_listens_is_a_finding_and_not_an_error() -> None:
    with PortClaim(1) as claim:
        server = kit.attach(f"http://127.0.0.1:{claim.ports[0]}", model="m")
        found = preflight(choose(server, workload=Workload(), name="p"), is_quick=True)
    assert "nothing listens" in one(found, "connection").found
    assert not found.blocking


def test_over_grpc_only_the_connection_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = kit.attach(f"grpc://127.0.0.1:{listening.getsockname()[1]}", model="m")
        spec = choose(server, workload=Workload(protocol="grpc-stream"), name="p")
        found = preflight(spec, is_quick=True)
    assert one(found, "connection").severity is Severity.OK
    assert one(found, "model").severity is Severity.NOT_CHECKED
    assert about(found, "release")[0].severity is Severity.NOT_CHECKED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tunnel", "severity"), [("kubectl", Severity.WARNS), ("ssh", Severity.NOTES)]
)
def test_interrupted_requests_through_a_port_forward_are_warned_of(
    tunnel: str, severity: Severity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "tunnel_at", lambda _: tunnel)
    found = look(TRITON, disconnect=0.5)
    assert one(found, "tunnel").severity is severity
    quiet = look(TRITON)
    assert one(quiet, "tunnel").severity is Severity.NOTES


@pytest.mark.slow
def test_probes_carry_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_BEARER_TOKEN", "s3cret-token")
    with Asked(TRITON).serving() as asked:
        found = kit.preflight(kit.attach(f"http://127.0.0.1:{asked.port}", model="m"))
    assert ("/v2/health/ready", "Bearer s3cret-token") in asked.seen
    assert "s3cret" not in repr(found)


@pytest.mark.slow
@pytest.mark.parametrize("body", ["[]", '{"version": 3}', "{", "[" * 5000, '"x"', "null"])
def test_nonsense_is_an_answer_that_tells_nothing(body: str) -> None:
    paths = ("/v2", "/v2/models/m", "/v1/models", "/version", "/metrics")
    found = look(dict.fromkeys(paths, (200, body)), protocol="openai-chat")
    assert about(found, "release")[0].severity is Severity.NOT_CHECKED
