"""The grammar of a process's end: who, how, and why; and what has its words and is no end."""

from __future__ import annotations

import time

import pytest

from kit.crash.diagnose import diagnose

ENDS = [
    "Error: llama runner process has terminated: exit status 2",
    "Error: llama runner process no longer running: 1",
    "Error: failed to start a llama runner",
    "Actor for replica D#DYFbUC crashed, marking it unhealthy immediately.",
    "the model runner has unexpectedly stopped, this may be due to resource limitations",
    "Server process terminated unexpectedly",
    "Worker 3 (pid 12) died",
    "RuntimeError: Executor worker returned error",
    "vllm-1 exited with code 1",
    "Engine core process (PID: 12) exited with exit code 3",
    "Inference server exited with code 4294967295.",
    "API server process failed to start",
    "scheduler was killed",
    "Error: WebserverFailed",
    "    Exit Code:    2",
    "thread 'main' panicked at 'error binding to 0.0.0.0:80",
    'Error: Warmup(Generation("Not enough memory"))',
    "panic: runtime error: index out of range [3] with length 3",
    "vllm serve: error: unrecognized arguments: -u main.py",
    "tritonserver: unrecognized option '--foo'",
    "/opt/entrypoint.sh: line 67: exec: tritonserver: not found",
    "OCI runtime create failed: runc create failed: unable to start container process",
    "exited: tritonserver (exit status 2; not expected)",
    "srun: error: node001: task 0: Exited with exit code 1",
    "WORKER TIMEOUT (pid:12)",
    "Application startup failed. Exiting.",
    "The program '[6600] server.exe' has exited with code 1 (0x1).",
    "server crash 1 - exit code 1 - respawning",
    "CalledProcessError: Command '['tritonserver']' returned non-zero exit status 1.",
    "Deployment 'x' failed to start 3 times in a row",
    "Error: llama runner process has terminated",
    'level=ERROR source=server.go:449 msg="llama runner terminated" error="exit status 2"',
    "error starting llama runner: llama runner process has terminated",
    "Cannot start service localai: failed to create task for container",
    "docker: Error response from daemon: unknown or invalid runtime name: nvidia.",
    "Unable to launch the inference server: port in use",
    "Retry worker: 9001 in 1 seconds.",
    "Restarting crashed worker 3",
    "Error: DownloadError",
    "main: exiting due to model loading error",
    "SIGILL: illegal instruction",
    "The raylet exited immediately because one Ray agent failed",
    "Backend llama.cpp running model a/b exited with error: llama.cpp terminated unexpectedly",
    'Error: POST predict: Post "http://127.0.0.1:43243/completion": EOF',
    "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): in use",
    "dependency failed to start: container triton exited (1)",
    "ollama.service: Start request repeated too quickly.",
    "-- Process 0 terminated with the following error:",
    "DataLoader worker (pid(s) 123) exited unexpectedly",
    "./server: /lib/libc.so.6: version `GLIBC_2.32' not found (required by ./server)",
    "RuntimeError: Deployment a is UNHEALTHY: The Deployment failed to start 3 times in a row",
    "Service 'x' exited (code: 256, signal: 11)",
    "Segmentation fault(core dumped)",
    "mpirun detected that one or more processes exited with non-zero status, thus causing",
    "Process 'ForkPoolWorker-1' pid:123 exited with 'signal 9 (SIGKILL)'",
    "Process finished with exit code -1073741819 (0xC0000005)",
    "child pid 123 exit signal Segmentation fault (11)",
    "srun: error: node: task 0: Out Of Memory",
    "Engine loop failed with error: map::at",
    "Server process exited early with code 1",
    "Error: llama runner exited, you may not have enough available memory",
    "error: Uncaught SIGABRT (SI_TKILL) at 0 on host pid 10380 tid 19740",
    "[ERROR] [launch.py:321:sigkill_handler] ['python', 'main.py'] exits with return code = 1",
    "[f8107735c6-n0-0] terminated with exit code (137). Reason [Error].",
]
NO_ENDS = [
    "Worker 3 (pid 12) exited with code 0",
    "Server process terminated",
    "[Rank 1] NCCL watchdog thread terminated normally",
    "the old replica has been stopped",
    "Worker 3 exited with code 143",
    "      Exit Code:    0",
    "request 7 failed with status 400",
    "backend failed with status code 500",
    "panic: x [recovered]",
    "error: unrecognized arguments is what I saw",
    "exited: tritonserver (exit status 0; expected)",
    "the agent died of boredom in the story",
    "llama runner terminated",
    "Exiting due to a request of the user",
    "The exit was due to model loading error, exiting due to that",
    "the worker stopped because the user asked",
    "Process finished with exit code 0",
    "ollama.service: Scheduled restart job, restart counter is at 0.",
    "the error log says that the server stopped",
    "Error: the worker was stopped by the user",
    "Could not start a transaction with server 3 before the timeout",
    "Restarting the worker in case it died",
    "our server died yesterday",
    "When a worker died, the others go on",
    "The server crashed because of the driver, I think",
    "did the engine process died unexpectedly?",
    "thread 'tokio-runtime-worker' panicked at src/a.rs:1:1",
    "server failed to start a second listener is what I see",
    "the model says: State: Running Last State: Terminated Reason: Error Exit Code: 255 Started",
]


@pytest.mark.parametrize("words", ENDS)
def test_an_end_is_read_whoever_ended(words: str) -> None:
    assert diagnose(words).died
    assert diagnose(f"2026-02-05 12:48:27,680 - app.main - ERROR - {words}").died


@pytest.mark.parametrize("words", NO_ENDS)
def test_the_same_words_in_another_sense_are_no_end(words: str) -> None:
    assert not diagnose(words).died
    assert not diagnose(f"2026-02-05 12:48:27,680 - app.main - INFO - {words}").died


def test_what_loguru_shows_as_caught_is_no_end() -> None:
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/opt/conda/bin/text-generation-server", line 8, in <module>\n'
        "    sys.exit(app())\n"
        '{}File "/opt/lib/text_generation_server/interceptor.py", line 20, in intercept\n'
        "    return await response\n"
        '  File "/opt/lib/text_generation_server/server.py", line 82, in Prefill\n'
        "RuntimeError: shapes differ\n"
    )
    assert not diagnose(trace.format("> ")).died
    assert diagnose(trace.format("  ")).died


@pytest.mark.parametrize(
    "hard",
    [
        "worker " + "a:1 " * 4000 + "died",
        "worker" + ":1" * 8000 + " died",
        "server for " * 1500 + "died",
        "a server " * 1800 + "exited with code",
        "process (" + "x" * 16000 + " died",
        "failed to start " + "the " * 4000 + "crashed",
    ],
)
def test_a_line_made_to_be_slow_is_read_in_time(hard: str) -> None:
    began = time.process_time()  # of this process alone, however busy the machine is
    diagnose(hard)
    assert time.process_time() - began < 2
