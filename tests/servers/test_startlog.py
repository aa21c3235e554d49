"""Of a failed start's log, the lines that say why are quoted. Texts as real servers print them."""

import pytest

from kit.servers.startlog import decisive_lines, failed_to_bind

QUIET = """I1122 10:50:23.108487 6435 model_lifecycle.cc:461] loading: tiny:1
W1122 10:50:23.107607 6435 pinned_memory_manager.cc:237] Unable to allocate pinned system memory
Error: Failed to initialize NVML
W1122 10:50:24.446866 6435 metrics.cc:738] DCGM unable to start: DCGM initialization error
"""


def test_a_models_exception_is_quoted_and_the_usual_noise_is_not() -> None:
    log = QUIET + (
        "E1122 11:00:00.1 7 pb_stub.cc:346] Failed to initialize Python stub: "
        "ModuleNotFoundError: No module named 'vllm'\n"
        "\n"
        "At:\n"
        "  /r/m/1/model.py(3): <module>\n"
        "| tiny  | 1       | UNAVAILABLE: Internal: ModuleNotFoundError: No module named 'vllm' |\n"
        "I1122 11:00:00.3 7 server.cc:300] Waiting for in-flight requests to complete.\n"
        "error: creating server: Internal - failed to load all models\n"
    )
    lines = decisive_lines(log)
    assert "No module named 'vllm'" in lines[0]
    assert "model tiny is UNAVAILABLE: Internal: ModuleNotFoundError" in lines[1]
    assert lines[-1] == "error: creating server: Internal - failed to load all models"
    assert not any("NVML" in line or "in-flight" in line for line in lines)


def test_a_missing_library_is_quoted() -> None:
    log = "tritonserver: error while loading shared libraries: libz.so.1: cannot open\n"
    assert decisive_lines(log) == [log.strip()]


def test_a_repeated_line_is_quoted_once() -> None:
    line = 'E1122 10:57:57.{} 7 x.cc:1] "the same thing"\n'
    assert len(decisive_lines("".join(line.format(i) for i in range(50)))) == 1


def test_a_long_log_gives_few_and_short_lines() -> None:
    log = "".join(f"Error{i}Error: {'x' * 1000}\n" for i in range(100))
    lines = decisive_lines(log)
    assert len(lines) == 8
    assert max(map(len, lines)) <= 300


def test_without_a_reason_the_last_lines_are_quoted() -> None:
    assert decisive_lines("one\ntwo\n\nthree\nfour\n") == ["two", "three", "four"]
    assert decisive_lines("") == []


@pytest.mark.parametrize(
    "line",
    [
        "E1 main.cc:256] failed to start HTTP service: Unavailable - Socket '127.0.0.1:5' already",
        'E1 main.cc:245] "failed to start GRPC service: Unavailable - Socket already in use "',
        "E1 main.cc:292] failed to start Metrics service: Unavailable - Socket already in use",
    ],
)
def test_a_taken_port_is_recognised(line: str) -> None:
    assert failed_to_bind(QUIET + line)
    assert not failed_to_bind(QUIET)
