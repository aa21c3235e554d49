"""By its metrics, whether a server that answers is still the one that answered before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kit.servers import attached
from kit.servers.attached import AttachedServer
from kit.servers.watch.lives import PAGES, RESTARTED, Lives
from kit.study.folder import TrialFolder
from kit.study.spec import Protocol, ServerKind, ServerSpec, TrialSpec


def page(count: int, model: str = "m") -> bytes:
    return b'nv_inference_count{model="%s",version="1"} %d\nnv_cpu_utilization %d\n' % (
        model.encode(),
        count,
        -count,
    )


def said(counts: list[int]) -> list[int | None]:
    lives = Lives()
    return [lives.note(page(count), t_ns=t) for t, count in enumerate(counts)]


def test_counters_that_begin_anew_are_a_restart_once_they_stay_so() -> None:
    found = said([5, 9, *[1] * (PAGES - 1)])
    assert found == [None] * len(found)
    assert said([5, 9, *range(PAGES)])[-1] == 2, "when the first page of the new life came"


def test_counters_that_grow_stand_still_or_are_no_counters_say_nothing() -> None:
    assert not any(said([0, 0, 3, 3, 9, 9, 9, 10]))
    lives = Lives()
    assert not any(lives.note(b"garbage \xff\n", t_ns=t) for t in range(20))
    assert not any(lives.note(b"", t_ns=t) for t in range(20))


def test_replicas_behind_a_load_balancer_are_no_restart() -> None:
    """Not even if the same one answers for long afterwards."""
    assert not any(said([100, 7, 101, 8, *[9] * (3 * PAGES)]))


def test_a_model_that_is_new_says_nothing() -> None:
    lives = Lives()
    pages = [page(9), page(9) + page(0, "other"), *[page(10) + page(0, "other")] * 10]
    assert not any(lives.note(one, t_ns=t) for t, one in enumerate(pages))


@pytest.fixture
def counting() -> Iterator[tuple[int, list[int]]]:
    """A server's port, and the counter that its metrics show, which the test sets."""
    count = [100]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page(count[0]) if self.path == "/metrics" else b""
            count[0] += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], count
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("is_tritons", [True, False], ids=["triton", "vllm"])
def test_a_server_that_was_restarted_in_a_moment_has_ended(
    counting: tuple[int, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_tritons: bool,
) -> None:
    monkeypatch.setattr(attached, "PROBE_S", 0.02)
    monkeypatch.setattr(attached, "COUNTERS_S", 0.02)
    port, count = counting
    url = f"http://127.0.0.1:{port}"
    metrics_url = f"{url}/metrics" if is_tritons else None  # vLLM has them on its one port
    spec = ServerSpec(kind=ServerKind.ATTACHED, url=url, model="m", metrics_url=metrics_url)
    trial = TrialSpec(trial_id="t", server=spec, scenario="workload", model="m")
    protocol = Protocol.HTTP_GENERATE if is_tritons else Protocol.OPENAI_CHAT
    server = AttachedServer(spec, protocol, TrialFolder.create(tmp_path / "t", trial))
    server.start()
    try:
        assert server.end(0.5) is None, "its counters grow"
        count[0] = 0
        end = server.end(60.0)
        assert end is not None
        assert end.how == RESTARTED
        assert end.exit_code is None
    finally:
        server.stop()
