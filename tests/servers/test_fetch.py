"""Claims about an index that is not as it should be: what it can make the kit take, and for how
long."""

from __future__ import annotations

import hashlib
import io
import platform
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import DownloadError
from kit.servers import fetch
from kit.servers.wheels import package_folder
from kit.study.releases import Wheel

FILE = "endless-1.0-py3-none-any.whl"
PAGE = f'<a href="/{FILE}">{FILE}</a>'.encode()
ENDLESS_BYTES = 64_000_000


def wheel(data: bytes) -> Wheel:
    machine = platform.machine()
    return Wheel(
        package="endless",
        version="1.0",
        python=("3",),
        sha256={machine: hashlib.sha256(data).hexdigest()},
        filename={machine: FILE},
    )


@pytest.fixture
def endless_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An index whose only file has no end; the bytes that were taken of it, once they are."""
    taken: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(65536)
            if b"/simple/" in asked:
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
                connection.sendall(head + PAGE)
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            sent = 0
            try:
                while sent < ENDLESS_BYTES:
                    sent += connection.send(bytes(65536))
            except OSError:
                pass
            taken.append(sent)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple/")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    yield taken
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.slow
def test_of_an_index_without_an_end_no_more_is_taken_than_a_wheel_has(
    endless_index: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MOST_BYTES", 1_000_000)
    with pytest.raises(DownloadError, match="File too large"):
        fetch.fetch(wheel(b"x"), platform.machine(), tmp_path)
    assert max(endless_index) < ENDLESS_BYTES / 2


def test_an_index_that_takes_forever_is_given_up(
    endless_index: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MOST_S", 0.05)
    with pytest.raises(DownloadError, match="took longer than"):
        fetch.fetch(wheel(b"x"), platform.machine(), tmp_path)


@pytest.mark.parametrize("damage", ["no zip", "a wrong checksum"])
def test_a_file_of_the_right_hash_that_is_no_wheel_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("endless/__init__.py", "X = 1")
    data = b"no zip" if damage == "no zip" else held.getvalue().replace(b"X = 1", b"X = 2")

    def source(_wheel: Wheel, _architecture: str, into: Path) -> Path:
        (into / FILE).write_bytes(data)
        return into / FILE

    with pytest.raises(DownloadError, match="cannot be unpacked"):
        package_folder(wheel(data), source=source)
    assert not list((tmp_path / "cache/wheels").glob("[!.]*"))
