"""The application's server given hostile requests, and notebooks whose kernels end."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from scripted_server import ScriptedServer

from benchmarks.faults.batch import Fault
from benchmarks.faults.ways import MARK, Command, Seen, marked, rows_of, until, verdict_of
from kit.cleaning import clean_text
from kit.ui.app import voila_environment

#: Of an answer: that what was asked for is not given.
REFUSED = range(300, 500)
_WRONG = "token " + "0" * 32
REQUESTS = 600


def _get(path: str, *headers: str) -> Callable[[random.Random, int], bytes]:
    def make(rng: random.Random, port: int) -> bytes:
        lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close"]
        if not any(line.startswith("Host:") for line in headers):
            lines.append(f"Host: 127.0.0.1:{port}")
        return "\r\n".join([*lines, "", ""]).encode()

    return make


def _post(path: str, length: int | str, body: bytes) -> Callable[[random.Random, int], bytes]:
    return lambda rng, port: (
        (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n\r\n"
        ).encode()
        + body
    )


_UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
_KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
_KERNEL = "/api/kernels/00000000-0000-0000-0000-000000000000/channels"
ASKED: dict[str, Callable[[random.Random, int], bytes]] = {
    "no token": _get("/"),
    "a wrong token": _get("/?token=" + "0" * 32),
    "a wrong token in a header": _get("/", f"Authorization: {_WRONG}"),
    "a huge token": _get("/?token=" + "x" * 60_000),
    "another host": _get("/", "Host: evil.example"),
    "another origin": _get("/", "Origin: https://evil.example", "Referer: https://evil.example/"),
    "a path out": _get("/static/../../../../etc/passwd"),
    "a path out, encoded": _get("/voila/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "a path of zeros": _get("/voila/render/%00%00"),
    "a file beside the notebook": _get("/voila/files/Triton%20crash%20kit.ipynb"),
    "kernels": _get("/api/kernels"),
    "a kernel to start": _post("/api/kernels", 2, b"{}"),
    "a huge body": _post("/api/kernels", 3_000_000, b"x" * 3_000_000),
    "a huge length": _post("/api/kernels", 10**15, b"{}"),
    "a negative length": _post("/api/kernels", -5, b"{}"),
    "a websocket": _get(_KERNEL, *_UPGRADE, _KEY),
    "a websocket of another origin": _get(_KERNEL, *_UPGRADE, _KEY, "Origin: https://evil.example"),
    "a websocket, then garbage": lambda rng, port: (
        _get(_KERNEL, *_UPGRADE, _KEY)(rng, port) + rng.randbytes(4000)
    ),
    "garbage": lambda rng, port: rng.randbytes(3000),
    "endless headers": lambda rng, port: b"GET / HTTP/1.1\r\n" + b"X-a: b\r\n" * 100_000,
    "half a request": lambda rng, port: b"GET / HT",
}


def pages(rng: random.Random, folder: Path) -> list[Fault]:
    """An application of its own, twelve hostile requests, then its end."""
    folder = folder / "app"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    command = Command(
        ["--port", str(port), "--studies", folder / "studies"],
        folder / "c",
        module="kit.ui.app",
        environment={**voila_environment(), **own, "IPYTHONDIR": str(folder / "ipython")},
    )
    until(lambda: command.process.poll() is not None or bool(_ask(port, _get("/")(rng, port))))
    token = re.search(r"token=(\S+)", (folder / "c/out").read_text())
    assert token
    found = []
    for _ in range(12):
        name = rng.choice(list(ASKED))
        found.append((f"application: {name}", _refused(rng, port, name)))
    well = _status(_ask(port, _get(f"/static/x?token={token[1]}")(rng, port)))
    if well is None or command.process.poll() is not None:
        found.append(("application: all of these", "it does not answer any more"))
    name = rng.choice(["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
    # As a terminal or a supervisor does it: the group, of which Voilà and its kernels are.
    os.killpg(command.process.pid, getattr(signal, name))
    command.process.wait(60)
    left = command.left() if name != "SIGKILL" else _processes(command)
    found.append((f"application: {name}", left and f"left: {left}"))
    return found


def _processes(command: Command) -> str:
    with_time = time.monotonic() + 30
    while (left := marked(command.mark)) and time.monotonic() < with_time:
        time.sleep(0.1)
    return ", ".join(left)


def _ask(port: int, data: bytes) -> bytes:
    """What it answers, the first 64 KB; b"": nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(data)
            got = b""
            while len(got) < 65536 and (piece := connection.recv(65536)):
                got += piece
            return got
    except OSError:
        return b""


def _status(answer: bytes) -> int | None:
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found[1]) if found else None


def _refused(rng: random.Random, port: int, name: str) -> str:
    answer = _ask(port, ASKED[name](rng, port))
    status = _status(answer)
    if b"root:" in answer or b"Panel(" in answer:
        return "it gave a file out"
    if b"Traceback" in answer:
        return "a traceback in its answer"
    return "" if status is None or status in REFUSED else f"it answered {status}"


#: A cell, as a person writes it: a study of a server that runs already.
CELL = """
import kit
study = kit.run(kit.attach({url!r}, model="m"), requests={requests}, repeats=1, concurrency=4,
                folder={folder!r}, progress={progress}, timeout_s=30)
print("OVER", len(study.requests))
"""
KERNEL = {
    "interrupted": [signal.SIGINT],
    "interrupted twice": [signal.SIGINT, signal.SIGINT],
    "ended": [signal.SIGTERM],
    "killed": [signal.SIGKILL],
    "stopped for a moment": [signal.SIGSTOP, signal.SIGCONT],
}


def notebooks(rng: random.Random, folder: Path) -> list[Fault]:
    """Two kernels that run a study, struck at a random moment; then the same cell again."""
    return [_kernel(rng, folder / str(number)) for number in range(2)]


def _kernel(rng: random.Random, folder: Path) -> Fault:
    from jupyter_client.manager import KernelManager

    name, early = rng.choice(list(KERNEL)), rng.random() < 0.4
    kind = f"notebook: its kernel {name}, {'at the start' if early else 'under load'}"
    folder.mkdir()
    temp, study = folder / "t", folder / "s"
    temp.mkdir()
    own = {MARK: str(folder), "TMPDIR": str(temp), "IPYTHONDIR": str(folder / "ipython")}
    seen = Seen(0.01)
    with ScriptedServer(seen.respond) as server:
        url = f"http://127.0.0.1:{server.port}"
        cell = CELL.format(
            url=url, requests=REQUESTS, folder=str(study), progress=rng.random() < 0.5
        )

        def started() -> tuple[KernelManager, object]:
            manager = KernelManager(connection_file=str(folder / "connection.json"))
            manager.start_kernel(
                env={**os.environ, **own},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=str(folder),
            )
            client = manager.blocking_client()
            client.start_channels()
            client.wait_for_ready(timeout=90)
            return manager, client

        manager, client = started()
        try:
            client.execute(cell)  # type: ignore[attr-defined]
            if early:
                time.sleep(4 * rng.random())
            else:
                until(lambda: seen.count > 20)
                time.sleep(rng.random())
            assert manager.provisioner is not None
            pid = manager.provisioner.pid  # type: ignore[attr-defined]
            for number in KERNEL[name]:
                os.kill(pid, number)
                time.sleep(rng.random() * 0.3)
            goes_on = name.startswith(("interrupted", "stopped"))
            why = _said(client, name) if goes_on else ""
        finally:
            client.stop_channels()  # type: ignore[attr-defined]
            manager.shutdown_kernel(now=True)
        deadline = time.monotonic() + 40
        while (left := marked(str(folder))) and time.monotonic() < deadline:
            time.sleep(0.1)
        why = why or (f"left: {left}" if left else "") or verdict_of(study)
        if not why and not (study / "done.json").exists():
            seen.delay_s = 0.0
            manager, client = started()
            try:
                client.execute(cell)  # type: ignore[attr-defined]
                why = (again := _said(client, "again")) and f"resumed: {again}"
            finally:
                client.stop_channels()  # type: ignore[attr-defined]
                manager.shutdown_kernel(now=True)
        if not why and rows_of(study) != REQUESTS:
            why = f"{rows_of(study)} rows of {REQUESTS}"
    return kind, why


def _said(client: object, name: str) -> str:
    """What is wrong with what the cell showed until it ended."""
    deadline, text = time.monotonic() + 120, ""
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - queue.Empty: nothing was said
            continue
        content = message["content"]
        if message["msg_type"] == "error":
            interrupted = content["ename"] == "KeyboardInterrupt" and name.startswith("interr")
            return "" if interrupted else f"{content['ename']}: {content['evalue'][:300]}"
        text += str(content.get("text", ""))
        if (
            message["msg_type"] == "status"
            and content["execution_state"] == "idle"
            and ("OVER" in text or name.startswith("interrupted"))
        ):
            return "" if clean_text(text) == text else "terminal control"
    return "the cell did not end"
