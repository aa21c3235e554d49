"""The simulated model inside real servers: its answers, what it says about itself, its limits."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import grpc
import pytest
from server_helpers import get
from tritonclient.grpc import service_pb2, service_pb2_grpc

from kit.errors import ServerStartError
from kit.servers.embedded import EmbeddedServer
from kit.servers.repository import build_repository
from kit.servers.watch.names import KV_USAGE
from kit.servers.watch.sampler import Watcher
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, Engine, ServerSpec, TrialSpec

#: Room for about three of the long answers below, so that eight of them preempt each other.
SMALL = Engine(blocks=33, max_model_tokens=512, decode_step_ms=4.0, log_interval_s=0.2)
SILENT = Engine(log_stats=False, export_metrics=False)
CLI = "--disable-auto-complete-config"  # a second less at the start


def serve(
    where: Path, release: str, engine: Engine, parameters: dict[str, str]
) -> tuple[EmbeddedServer, TrialFolder]:
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(release=release),
        scenario="control",
        model="simulated",
        parameters=parameters,
        engine=engine,
    )
    where.mkdir(exist_ok=True)
    repository = build_repository(spec, where / "repository")
    folder = TrialFolder(where)
    return EmbeddedServer(get_release(release), repository, folder, extra_args=(CLI,)), folder


class Served:
    """A running server with its folder."""

    def __init__(self, server: EmbeddedServer, folder: TrialFolder, endpoint: Endpoint) -> None:
        self.server, self.folder, self.endpoint = server, folder, endpoint

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.endpoint.http_port}/v2/models/simulated/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def generate(self, body: dict[str, Any]) -> tuple[int, str]:
        return self.post("generate", body)

    def metric(self, name: str) -> float | None:
        text = get(self.endpoint, self.endpoint.metrics_port, "/metrics")
        found = re.search(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def wait_for_metric(self, name: str, value: float, *, timeout_s: float = 20.0) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.metric(name) != value:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def watch(self) -> Watcher:
        return Watcher(
            self.endpoint,
            self.folder,
            pid=self.server.pid,
            interval_s=0.1,
            model="simulated",
        )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server, folder = serve(tmp_path_factory.mktemp("small") / "t", "24.05", SMALL, {})
    with server:
        yield Served(server, folder, server.endpoint)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    where = tmp_path_factory.mktemp("silent") / "t"
    parameters = {"final": "empty", "cancel_check": "none"}
    server, folder = serve(where, "24.10", SILENT, parameters)
    with server:
        yield Served(server, folder, server.endpoint)


def expected(prompt: str, nonce: str, tokens: int) -> str:
    return prompt + "".join(f" {nonce}:{i}" for i in range(tokens))


def grpc_stream(
    endpoint: Endpoint, prompt: str, tokens: int, **inputs: bool
) -> list[tuple[str | None, bool]]:
    """(text, final) of each response of one request."""

    async def exchange() -> list[tuple[str | None, bool]]:
        request = service_pb2.ModelInferRequest(model_name="simulated")
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        sampling = json.dumps({"max_tokens": tokens})
        for name, text in (("text_input", prompt), ("sampling_parameters", sampling)):
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(text.encode())
        for name, value in inputs.items():
            tensor = request.inputs.add(name=name, datatype="BOOL", shape=[1])
            tensor.contents.bool_contents.append(value)
        seen = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            async for message in stub.ModelStreamInfer(iter([request]), timeout=60):
                assert not message.error_message
                response = message.infer_response
                raw = response.raw_output_contents
                text = raw[0][4:].decode() if raw else None
                seen.append((text, response.parameters["triton_final_response"].bool_param))
        return seen

    return asyncio.run(exchange())


def test_http_generate_answers_with_the_prompt_and_the_promised_tokens(small: Served) -> None:
    prompt = "[n:00c0ffee] a prompt of six words, zürich"
    status, body = small.post("generate", {"text_input": prompt, "max_tokens": 5})
    assert status == 200
    assert json.loads(body)["text_output"] == expected(prompt, "00c0ffee", 5)


def test_sampling_parameters_and_exclusion_of_the_prompt_are_obeyed(small: Served) -> None:
    body = {
        "text_input": "no nonce here",
        "sampling_parameters": '{"max_tokens": 2, "min_tokens": 1, "temperature": 0.5}',
        "exclude_input_in_output": True,
    }
    status, answer = small.post("generate", body)
    digits = f"{crc32(b'no nonce here'):08x}"
    assert (status, json.loads(answer)["text_output"]) == (200, f" {digits}:0 {digits}:1")


def test_http_generate_stream_sends_one_event_a_token_the_first_with_the_prompt(
    small: Served,
) -> None:
    prompt = "[n:1f] streamed"
    body = {"text_input": prompt, "stream": True, "max_tokens": 4}
    status, text = small.post("generate_stream", body)
    assert status == 200
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    pieces = [event["text_output"] for event in events]
    assert pieces == [f"{prompt} 1f:0", " 1f:1", " 1f:2", " 1f:3"]


def test_grpc_streams_end_with_the_last_token(small: Served) -> None:
    prompt = "[n:abc] over gRPC"
    seen = grpc_stream(small.endpoint, prompt, 3, stream=True)
    assert seen == [(f"{prompt} abc:0", False), (" abc:1", False), (" abc:2", True)]


def test_an_answer_that_is_not_streamed_is_one_response(small: Served) -> None:
    prompt = "[n:abc] at once"
    assert grpc_stream(small.endpoint, prompt, 3) == [(expected(prompt, "abc", 3), True)]


def test_an_empty_final_response_comes_after_the_last_token(silent: Served) -> None:
    prompt = "[n:abc] over gRPC"
    seen = grpc_stream(silent.endpoint, prompt, 2, stream=True)
    assert seen == [(f"{prompt} abc:0", False), (" abc:1", False), (None, True)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text_input": "x", "max_tokens": 0}, "max_tokens is 0"),
        ({"text_input": "x", "max_tokens": 512}, "exceed max_model_tokens = 512"),
        ({"text_input": "x y " * 300, "max_tokens": 1}, "exceed max_model_tokens = 512"),
        ({"text_input": "x", "sampling_parameters": "{nope"}, "not JSON"),
        ({"text_input": "x", "sampling_parameters": "[1]"}, "not a JSON object"),
        ({"text_input": "x", "max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    small: Served, body: dict[str, Any], says: str
) -> None:
    status, answer = small.post("generate", body)
    assert status >= 400
    assert says in json.loads(answer)["error"]


def test_answers_that_preempt_each_other_are_all_right(small: Served) -> None:
    before = small.metric("vllm:num_preemptions_total") or 0.0

    def ask(number: int) -> bool:
        prompt = f"[n:{number:x}] " + "word " * 30
        status, body = small.post("generate", {"text_input": prompt, "max_tokens": 150})
        return status == 200 and json.loads(body)["text_output"] == expected(
            prompt, f"{number:x}", 150
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1, 9)))
    assert small.wait_for_metric("vllm:kv_cache_usage_perc", 0.0)
    assert (small.metric("vllm:num_preemptions_total") or 0.0) > before


def test_a_client_that_leaves_ends_its_request(small: Served) -> None:
    whole_answer_s = 511 * SMALL.decode_step_ms / 1e3  # at least

    def seconds_until_idle() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", small.endpoint.http_port or 0)
        body = json.dumps({"text_input": "x", "stream": True, "max_tokens": 511})
        began = time.monotonic()
        connection.request("POST", "/v2/models/simulated/generate_stream", body)
        with connection.getresponse() as answer:
            answer.read(1)
            assert small.wait_for_metric("vllm:num_requests_running", 1.0)
        connection.close()
        assert small.wait_for_metric("vllm:kv_cache_usage_perc", 0.0)
        return time.monotonic() - began

    # A busy machine may make one attempt say nothing; an engine that goes on makes all of them.
    assert any(seconds_until_idle() < whole_answer_s for _ in range(3))


def test_log_lines_have_vllms_form_and_say_what_engine_it_is(small: Served) -> None:
    log = small.folder.log.read_text()
    assert "Simulated engine: a scheduler with a paged KV cache, no model and no vLLM" in log
    line = re.search(r"^INFO \d\d-\d\d \d\d:\d\d:\d\d \[\w+\.py:\d+\] (Engine 000: .*)$", log, re.M)
    assert line is not None
    assert re.fullmatch(
        r"Engine 000: Avg prompt throughput: [\d.]+ tokens/s, "
        r"Avg generation throughput: [\d.]+ tokens/s, Running: \d+ reqs, Waiting: \d+ reqs, "
        r"CPU KV cache usage: [\d.]+%",
        line[1],
    )


def test_with_log_and_metrics_off_kv_usage_is_not_exported(silent: Served) -> None:
    watcher = silent.watch()
    watcher.start()
    try:
        status, _ = silent.post("generate", {"text_input": "x", "max_tokens": 100})
    finally:
        watcher.stop()
    assert status == 200
    assert not [row for row in silent.folder.samples().to_pylist() if row["name"] == KV_USAGE]
    assert silent.metric("vllm:kv_cache_usage_perc") is None
    assert "KV cache usage" not in silent.folder.log.read_text()


def test_a_release_that_cannot_be_asked_about_cancellation_says_so_at_load(tmp_path: Path) -> None:
    server, _ = serve(tmp_path / "t", "23.07", Engine(), {"cancel_check": "coroutine"})
    with pytest.raises(ServerStartError, match=r"came with 23\.10"), server:
        pass
