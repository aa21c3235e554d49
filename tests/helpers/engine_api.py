"""A container engine in small: the endpoints of Docker's API that the kit uses, on a Unix socket.

It runs nothing. `refuse` makes a step fail with an engine's own words; what a container "serves"
is an HTTP server of the test's own process. The path of each request is in `asked`.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

STEPS = ("pull", "create", "copy", "start")


class _Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"version": "2.51.0"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


class EngineApi(ThreadingMixIn, UnixStreamServer):
    """Use as a context manager; `url` is for DOCKER_HOST."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "docker.sock"
        self.url = f"unix://{self.path}"
        self.asked: list[str] = []
        self.images = {"tritonserver:test": "amd64"}
        self.image_environment: list[str] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        self.pull_events: list[dict[str, Any]] = []
        self.created: dict[str, Any] = {}
        self.containers: dict[str, str] = {}  # name -> run
        self.copied: list[str] = []
        self.log = b"it says something\n"
        self.has_gpu = False
        self.pid = 0
        self.exit_code = 0
        self.oom_killed = False
        self.ended = threading.Event()
        self._served = ThreadingHTTPServer(("127.0.0.1", 0), _Served)
        super().__init__(str(self.path), _Handler)

    def __enter__(self) -> EngineApi:
        for server in (self, self._served):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for server in (self, self._served):
            server.shutdown()
            server.server_close()

    def end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        """The server in the container ends, and answers nobody any more."""
        self._served.shutdown()
        self._served.server_close()
        self.exit_code, self.oom_killed = exit_code, oom_killed
        self.ended.set()

    def state(self) -> dict[str, Any]:
        return {
            "Running": not self.ended.is_set(),
            "Pid": self.pid,
            "ExitCode": self.exit_code,
            "OOMKilled": self.oom_killed,
            "Error": "",
        }

    def ports(self) -> dict[str, Any]:
        port = str(self._served.server_address[1])
        published = [{"HostIp": "127.0.0.1", "HostPort": port}]
        return {f"{inside}/tcp": published for inside in (8000, 8001, 8002)}


class _Handler(BaseHTTPRequestHandler):
    server: EngineApi
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        parts = urlsplit(self.path)
        path = re.sub(r"^/v\d[\d.]*", "", parts.path)
        self.server.asked.append(f"{self.command} {path}")
        route = re.sub(r"^/(containers|exec)/(?!json|create)[^/]+", r"/\1/ID", path)
        name = f"{self.command} {route}"
        query = parse_qs(parts.query)
        if name.startswith("GET /images/"):
            self._image(path.removeprefix("/images/").removesuffix("/json"))
            return
        getattr(self, _ROUTES[name])(query, body)

    do_GET = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

    def _version(self, query: Any, body: bytes) -> None:
        self._json({"ApiVersion": "1.41", "Version": "20.10.24", "MinAPIVersion": "1.12"})

    def _info(self, query: Any, body: bytes) -> None:
        self._json({"Architecture": "x86_64", "DockerRootDir": str(self.server.path.parent)})

    def _image(self, name: str) -> None:
        built = self.server.images.get(name)
        if built is None:
            self._json({"message": f"No such image: {name}"}, 404)
        else:
            config = {"Env": self.server.image_environment}
            self._json({"Id": "sha256:1234", "Architecture": built, "Config": config})

    def _pull(self, query: Any, body: bytes) -> None:
        if self._refused("pull"):
            return
        events = self.server.pull_events
        if not any("error" in event for event in events):
            self.server.images[f"{query['fromImage'][0]}:{query['tag'][0]}"] = "amd64"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            line = json.dumps(event).encode() + b"\r\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _create(self, query: Any, body: bytes) -> None:
        if self._refused("create"):
            return
        self.server.created = json.loads(body)
        name = query["name"][0]
        self.server.containers[name] = next(iter(self.server.created["Labels"].values()))
        self._json({"Id": name, "Warnings": []}, 201)

    def _copy(self, query: Any, body: bytes) -> None:
        if self._refused("copy"):
            return
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            self.server.copied += tar.getnames()
        self._send(b"", 200)

    def _start(self, query: Any, body: bytes) -> None:
        if not self._refused("start"):
            self._send(b"", 204)

    def _inspect(self, query: Any, body: bytes) -> None:
        server = self.server
        name = next(iter(server.containers), "gone")
        self._json(
            {
                "Id": name,
                "Name": f"/{name}",
                "State": server.state(),
                "Config": {"Tty": False, "Labels": server.created.get("Labels")},
                "NetworkSettings": {"Ports": server.ports()},
            }
        )

    def _logs(self, query: Any, body: bytes) -> None:
        text = self.server.log
        self.server.ended.wait()
        self._send(struct.pack(">BxxxL", 1, len(text)) + text, 200)

    def _wait(self, query: Any, body: bytes) -> None:
        self.server.ended.wait()
        self._json({"StatusCode": self.server.exit_code})

    def _exec(self, query: Any, body: bytes) -> None:
        self._json({"Id": json.loads(body)["Cmd"][0]}, 201)

    def _exec_start(self, query: Any, body: bytes) -> None:
        program = self.path.split("/")[-2]
        said = {
            "nvidia-smi": b"GPU 0: an accelerator" if self.server.has_gpu else b"not found",
            "python3": b'{"server-python": "3.11.2", "vllm": "0.5.5"}',
            "sh": b"55d0-55e0 r-xp 00000000 08:01 12 /opt/tritonserver/bin/tritonserver\n",
        }[program]
        self.send_response(101, "UPGRADED")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        self.wfile.flush()
        time.sleep(0.2)  # the SDK loses what comes together with the head, as no engine sends it
        self.wfile.write(struct.pack(">BxxxL", 1, len(said)) + said)
        self.close_connection = True

    def _exec_inspect(self, query: Any, body: bytes) -> None:
        failed = "nvidia-smi" in self.path and not self.server.has_gpu
        self._json({"ExitCode": 127 if failed else 0})

    def _list(self, query: Any, body: bytes) -> None:
        label = json.loads(query["filters"][0])["label"][0].partition("=")[2]
        names = [name for name, run in self.server.containers.items() if run == label]
        self._json([{"Id": name, "Names": [f"/{name}"]} for name in names])

    def _remove(self, query: Any, body: bytes) -> None:
        self.server.containers.pop(urlsplit(self.path).path.split("/")[-1], None)
        self.server.ended.set()
        self._send(b"", 204)

    def _refused(self, step: str) -> bool:
        status, said = self.server.refuse.get(step, (0, ""))
        if status:
            self._json({"message": said}, status)
        return bool(status)

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status)

    def _send(self, body: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def _chunks(self) -> bytes:
        """The body of a request that was sent in chunks."""
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *words: object) -> None:
        pass


_ROUTES = {
    "GET /version": "_version",
    "GET /info": "_info",
    "POST /images/create": "_pull",
    "POST /containers/create": "_create",
    "PUT /containers/ID/archive": "_copy",
    "POST /containers/ID/start": "_start",
    "GET /containers/ID/json": "_inspect",
    "GET /containers/ID/logs": "_logs",
    "POST /containers/ID/wait": "_wait",
    "POST /containers/ID/exec": "_exec",
    "POST /exec/ID/start": "_exec_start",
    "GET /exec/ID/json": "_exec_inspect",
    "GET /containers/json": "_list",
    "DELETE /containers/ID": "_remove",
}
